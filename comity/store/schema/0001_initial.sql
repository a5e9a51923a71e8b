-- Types are those that SQLite and PostgreSQL both understand; the drivers translate two words.
-- "position" is a place in the one log of everything that happened here; "line" orders a room's
-- timeline: a live event's line is its position times 2^24, and history that is fetched later
-- takes the lines just below the event before which it was missing.

-- The last position that was given, in the one row of id 1.
CREATE TABLE log_position (
    id BIGINT PRIMARY KEY,
    last BIGINT NOT NULL
);
INSERT INTO log_position (id, last) VALUES (1, 0);

CREATE TABLE rooms (
    room_num BIGINT PRIMARY KEY,
    room_id TEXT NOT NULL UNIQUE,
    version TEXT NOT NULL,
    -- the name of the page that holds the current state; NULL while we are not in the room
    state BYTEA,
    -- 1 while a user of ours is joined, so that we hold the room's head
    resident BIGINT NOT NULL DEFAULT 0,
    published BIGINT NOT NULL DEFAULT 0,
    creator TEXT NOT NULL DEFAULT ''
);

CREATE TABLE state_slots (
    room_num BIGINT NOT NULL,
    slot BIGINT NOT NULL,
    type TEXT NOT NULL,
    state_key TEXT NOT NULL,
    PRIMARY KEY (room_num, type, state_key)
);
CREATE UNIQUE INDEX state_slots_by_slot ON state_slots (room_num, slot);

CREATE TABLE state_pages (
    name BYTEA NOT NULL PRIMARY KEY,
    body BYTEA NOT NULL
);

CREATE TABLE events (
    event_num BIGINT PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE,
    room_num BIGINT NOT NULL,
    -- NULL for an outlier: an event held for authorization only, with no place in the timeline
    line BIGINT,
    type TEXT NOT NULL,
    state_key TEXT,
    sender TEXT NOT NULL,
    depth BIGINT NOT NULL,
    origin_server_ts BIGINT NOT NULL,
    -- 0 accepted, 1 soft-failed, 2 rejected
    verdict BIGINT NOT NULL DEFAULT 0,
    -- names of state pages; state_after is NULL where the event changes nothing
    state_before BYTEA,
    state_after BYTEA,
    -- numbers of the auth events of a state event, packed
    auth BYTEA,
    -- the number of the redaction that was applied to this event
    redacted_by BIGINT,
    -- compressed canonical JSON of the federation format
    json BYTEA NOT NULL
);
CREATE INDEX events_by_line ON events (room_num, line);

CREATE TABLE forward_extremities (
    room_num BIGINT NOT NULL,
    event_num BIGINT NOT NULL,
    PRIMARY KEY (room_num, event_num)
);

-- Before the event at this line, history is missing that other servers may have.
CREATE TABLE gaps (
    room_num BIGINT NOT NULL,
    line BIGINT NOT NULL,
    -- where the next fetched event goes: just below it
    next_line BIGINT NOT NULL,
    -- JSON list of the ids of the missing events that are pointed to
    missing TEXT NOT NULL,
    PRIMARY KEY (room_num, line)
);

-- A redaction whose target had not been seen when it came.
CREATE TABLE pending_redactions (
    redacts TEXT NOT NULL,
    event_num BIGINT NOT NULL,
    PRIMARY KEY (redacts, event_num)
);

CREATE TABLE memberships (
    room_num BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    -- the user's server
    server TEXT NOT NULL,
    membership TEXT NOT NULL,
    event_num BIGINT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (room_num, user_id)
);
CREATE INDEX memberships_by_server ON memberships (room_num, server, membership);
CREATE INDEX memberships_by_user ON memberships (user_id, membership);

-- Every membership that a local user has had, for sync and for history visibility.
CREATE TABLE local_memberships (
    user_id TEXT NOT NULL,
    room_num BIGINT NOT NULL,
    position BIGINT NOT NULL,
    membership TEXT NOT NULL,
    event_num BIGINT NOT NULL,
    -- JSON list of stripped state, for an invite or knock on a room that we are not in
    stripped TEXT,
    forgotten BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, room_num, position)
);

CREATE TABLE aliases (
    alias TEXT NOT NULL PRIMARY KEY,
    room_id TEXT NOT NULL,
    creator TEXT NOT NULL
);
CREATE INDEX aliases_by_room ON aliases (room_id);

-- While a server has joined users in a room, from one position to another (NULL: it still has).
CREATE TABLE server_stays (
    server TEXT NOT NULL,
    room_num BIGINT NOT NULL,
    from_position BIGINT NOT NULL,
    to_position BIGINT,
    PRIMARY KEY (server, room_num, from_position)
);
CREATE INDEX server_stays_by_room ON server_stays (room_num, to_position);

-- Events to be sent to the servers that were in the room: one row however many they are.
CREATE TABLE outbound (
    room_num BIGINT NOT NULL,
    position BIGINT NOT NULL,
    event_num BIGINT NOT NULL,
    -- the server that has it already, because it is its own
    except_server TEXT NOT NULL,
    PRIMARY KEY (room_num, position)
);

CREATE TABLE destinations (
    server TEXT NOT NULL PRIMARY KEY,
    -- everything up to this position is delivered
    delivered BIGINT NOT NULL,
    failing_since BIGINT,
    retry_at BIGINT,
    interval_ms BIGINT
);

CREATE TABLE staged_events (
    event_id TEXT NOT NULL PRIMARY KEY,
    room_num BIGINT NOT NULL,
    origin TEXT NOT NULL,
    received_at BIGINT NOT NULL,
    json BYTEA NOT NULL
);
CREATE INDEX staged_events_by_room ON staged_events (room_num, received_at);

CREATE TABLE received_transactions (
    origin TEXT NOT NULL,
    transaction_id TEXT NOT NULL,
    received_at BIGINT NOT NULL,
    answer BYTEA NOT NULL,
    PRIMARY KEY (origin, transaction_id)
);
CREATE INDEX received_transactions_by_time ON received_transactions (received_at);

CREATE TABLE client_transactions (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    -- what was asked: the room and the endpoint
    scope TEXT NOT NULL,
    transaction_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id, scope, transaction_id)
);
CREATE INDEX client_transactions_by_time ON client_transactions (at);
CREATE INDEX client_transactions_by_event ON client_transactions (event_id);

CREATE TABLE server_keys (
    server TEXT NOT NULL,
    key_id TEXT NOT NULL,
    public BYTEA NOT NULL,
    valid_until BIGINT NOT NULL,
    expired BIGINT NOT NULL,
    fetched_at BIGINT NOT NULL,
    PRIMARY KEY (server, key_id)
);

CREATE TABLE users (
    user_id TEXT NOT NULL PRIMARY KEY,
    password_hash TEXT,
    admin BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    deactivated BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE devices (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    display_name TEXT,
    created_at BIGINT NOT NULL,
    last_seen_at BIGINT,
    last_seen_ip TEXT,
    PRIMARY KEY (user_id, device_id)
);

CREATE TABLE access_tokens (
    -- SHA-256 of the token; the token itself is known to the client alone
    token_hash BYTEA NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX access_tokens_by_device ON access_tokens (user_id, device_id);

CREATE TABLE registration_tokens (
    token TEXT NOT NULL PRIMARY KEY,
    uses_allowed BIGINT,
    used BIGINT NOT NULL DEFAULT 0,
    expires_at BIGINT
);

CREATE TABLE profiles (
    user_id TEXT NOT NULL,
    field TEXT NOT NULL,
    -- JSON
    value TEXT NOT NULL,
    PRIMARY KEY (user_id, field)
);

CREATE TABLE account_data (
    user_id TEXT NOT NULL,
    -- '' for the account as a whole
    room_id TEXT NOT NULL,
    type TEXT NOT NULL,
    -- JSON
    content TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (user_id, room_id, type)
);
CREATE INDEX account_data_by_position ON account_data (user_id, position);

CREATE TABLE filters (
    user_id TEXT NOT NULL,
    filter_id TEXT NOT NULL,
    -- JSON
    definition TEXT NOT NULL,
    PRIMARY KEY (user_id, filter_id)
);

CREATE TABLE receipts (
    room_num BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    receipt_type TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    ts BIGINT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (room_num, user_id, receipt_type, thread_id)
);
CREATE INDEX receipts_by_position ON receipts (room_num, position);

-- What a device published for encryption: its identity keys as signed JSON.
CREATE TABLE device_keys (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    json TEXT NOT NULL,
    PRIMARY KEY (user_id, device_id)
);

CREATE TABLE one_time_keys (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    key_id TEXT NOT NULL,
    -- when it came (ms): the oldest is given out first
    uploaded_at BIGINT NOT NULL,
    json TEXT NOT NULL,
    PRIMARY KEY (user_id, device_id, algorithm, key_id)
);

CREATE TABLE fallback_keys (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    key_id TEXT NOT NULL,
    json TEXT NOT NULL,
    used BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, device_id, algorithm)
);

-- When a user's devices or their identity keys last changed.
CREATE TABLE device_lists (
    user_id TEXT NOT NULL PRIMARY KEY,
    position BIGINT NOT NULL
);
CREATE INDEX device_lists_by_position ON device_lists (position);

-- Messages from device to device that wait for their receiver.
CREATE TABLE to_device (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    position BIGINT NOT NULL,
    sender TEXT NOT NULL,
    type TEXT NOT NULL,
    content TEXT NOT NULL,
    PRIMARY KEY (user_id, device_id, position)
);

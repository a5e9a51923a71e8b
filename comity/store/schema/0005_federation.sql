-- When positions were given, one row a second at most: so that it can be told when something came.
CREATE TABLE position_times (
    position BIGINT PRIMARY KEY,
    -- ms since the epoch
    at BIGINT NOT NULL
);

-- Events that a server answered with an error, as it said it.
CREATE TABLE refused_events (
    event_num BIGINT NOT NULL,
    server TEXT NOT NULL,
    error TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (event_num, server)
) /* CLUSTERED */;

-- What the last failure to reach this server was: in words, and of which kind ("discovery", "tls",
-- "connection", "answer", "unwelcome").
ALTER TABLE destinations ADD COLUMN failure TEXT;
ALTER TABLE destinations ADD COLUMN failure_kind TEXT;

-- How often it was tried without a client's asking to fill this gap, and when it may be again (ms).
ALTER TABLE gaps ADD COLUMN rounds BIGINT NOT NULL DEFAULT 0;
ALTER TABLE gaps ADD COLUMN retry_at BIGINT NOT NULL DEFAULT 0;

-- Rooms that were joined before all of their state was here (fast joins): what is still to be asked,
-- and of whom.
CREATE TABLE partial_rooms (
    room_num BIGINT PRIMARY KEY,
    -- the join that the state is missing before
    join_num BIGINT NOT NULL,
    -- the server that let us in, and all that it named, as JSON
    server TEXT NOT NULL,
    servers TEXT NOT NULL,
    since BIGINT NOT NULL,
    -- the position at which the state became whole; 0 while it is not
    completed BIGINT NOT NULL DEFAULT 0
);

-- Messages to devices of other servers, until their server has them. content: the JSON content of an
-- m.direct_to_device EDU.
CREATE TABLE outbound_to_device (
    server TEXT NOT NULL,
    position BIGINT NOT NULL,
    content TEXT NOT NULL,
    PRIMARY KEY (server, position)
);

-- Ids of messages to devices that have come from other servers, so that none comes twice.
CREATE TABLE received_to_device (
    origin TEXT NOT NULL,
    message_id TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (origin, message_id)
);
CREATE INDEX received_to_device_by_time ON received_to_device (at);

-- The last change of each device of ours that other servers are told of; previous: the position of
-- the change of a device of that user before it (0: none).
CREATE TABLE device_changes (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    position BIGINT NOT NULL,
    previous BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id)
);
CREATE INDEX device_changes_by_position ON device_changes (position);

-- Public keys with which users sign their own devices and others: of users of ours and of others.
-- usage is "master", "self_signing" or "user_signing"; json the key as it was signed.
CREATE TABLE cross_signing_keys (
    user_id TEXT NOT NULL,
    usage TEXT NOT NULL,
    json TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (user_id, usage)
);
CREATE INDEX cross_signing_keys_by_position ON cross_signing_keys (position);

-- What is known of the devices of users of other servers, while they share a room with one of ours.
-- json: the identity keys, NULL where a device has none.
CREATE TABLE remote_devices (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    json TEXT,
    display_name TEXT,
    PRIMARY KEY (user_id, device_id)
);
CREATE TABLE remote_device_lists (
    user_id TEXT NOT NULL PRIMARY KEY,
    -- the newest change that is known
    stream_id BIGINT NOT NULL,
    -- 1: a change was missed, the list is to be asked for anew
    stale BIGINT NOT NULL,
    fetched_at BIGINT NOT NULL
);

-- What lets somebody else ask who a user of ours is (OpenID).
CREATE TABLE openid_tokens (
    token_hash BYTEA NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX openid_tokens_by_time ON openid_tokens (expires_at);

-- Other servers' key documents as they published them, for those who ask us as a notary.
CREATE TABLE key_documents (
    server TEXT NOT NULL PRIMARY KEY,
    -- JSON, with the server's own signatures
    document BYTEA NOT NULL,
    valid_until BIGINT NOT NULL,
    fetched_at BIGINT NOT NULL
);

-- The server through which a knock on a room from outside went: whom its end is to be told.
ALTER TABLE local_memberships ADD COLUMN through TEXT;

-- What finds the event of a room that is closest to a time.
CREATE INDEX events_by_time ON events (room_num, origin_server_ts);

CREATE INDEX outbound_to_device_by_position ON outbound_to_device (position);

-- What finds receipts to be told to a server.
CREATE INDEX receipts_by_log ON receipts (position)

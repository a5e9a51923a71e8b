-- Events that users have scheduled (MSC4140), and for a while what became of them.
CREATE TABLE delayed_events (
    delay_id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    type TEXT NOT NULL,
    -- NULL for what is no state event
    state_key TEXT,
    -- JSON
    content TEXT NOT NULL,
    delay_ms BIGINT NOT NULL,
    running_since BIGINT NOT NULL,
    -- where the log stood when it was scheduled
    position BIGINT NOT NULL,
    -- the request by which it was scheduled, so that it can be repeated; NULL where it has no such id
    device_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    transaction_id TEXT,
    -- when it is to be sent or tried again; NULL once it is finalised
    due_at BIGINT,
    finalised_at BIGINT,
    -- 'send' or 'cancel'; and 'action', 'delay' or 'error'
    outcome TEXT,
    reason TEXT,
    event_id TEXT,
    -- JSON
    error TEXT
);
CREATE INDEX delayed_events_due ON delayed_events (due_at);
CREATE INDEX delayed_events_by_user ON delayed_events (user_id, finalised_at);
CREATE INDEX delayed_events_finalised ON delayed_events (finalised_at);
CREATE UNIQUE INDEX delayed_events_by_request ON delayed_events (user_id, device_id, scope, transaction_id);

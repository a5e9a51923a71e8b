-- What users have reported to the operator.
CREATE TABLE reports (
    report_id BIGINT NOT NULL PRIMARY KEY,
    reporter TEXT NOT NULL,
    -- what is reported: an event, or a room (no event), or a user (no room); '' where it is none
    room_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    -- the user who is reported, or the event's sender
    user_id TEXT NOT NULL,
    -- the reporter's words
    reason TEXT NOT NULL,
    -- ms since the epoch; closed_at is 0 while the report is open
    at BIGINT NOT NULL,
    closed_at BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX reports_by_reporter ON reports (reporter, closed_at);
CREATE INDEX reports_by_end ON reports (closed_at, report_id)

-- What follows from events and is asked often: relations, threads, what notifies, where there was life.

-- 1: some event here relates to this one.
ALTER TABLE events ADD COLUMN related BIGINT NOT NULL DEFAULT 0;

-- Which events relate to which (client-server §Forming relationships between events), whatever became
-- of either; a redaction ends it.
CREATE TABLE relations (
    -- the id of the event that is related to; it may not be here
    target TEXT NOT NULL,
    event_num BIGINT NOT NULL,
    room_num BIGINT NOT NULL,
    rel_type TEXT NOT NULL,
    type TEXT NOT NULL,
    sender TEXT NOT NULL,
    line BIGINT NOT NULL,
    origin_server_ts BIGINT NOT NULL,
    PRIMARY KEY (target, event_num)
) /* CLUSTERED */;
CREATE INDEX relations_by_event ON relations (event_num);

-- Threads by the line of their newest event.
CREATE TABLE threads (
    room_num BIGINT NOT NULL,
    root TEXT NOT NULL,
    last_line BIGINT NOT NULL,
    PRIMARY KEY (room_num, root)
);
CREATE INDEX threads_by_line ON threads (room_num, last_line);

-- Events that notify whoever has the predefined push rules and did not send them.
CREATE TABLE notifications (
    room_num BIGINT NOT NULL,
    line BIGINT NOT NULL,
    -- the root of the thread that it belongs to, or 'main'
    thread TEXT NOT NULL,
    sender TEXT NOT NULL,
    -- 1: it notifies; 2: with a highlight
    weight BIGINT NOT NULL,
    -- 1: it stands beside the room's state as it was here, so that some members may not see it
    aside BIGINT NOT NULL,
    PRIMARY KEY (room_num, line)
) /* CLUSTERED */;

-- Events that notify a user because they are named in them, with a highlight.
CREATE TABLE mentions (
    user_id TEXT NOT NULL,
    room_num BIGINT NOT NULL,
    line BIGINT NOT NULL,
    thread TEXT NOT NULL,
    PRIMARY KEY (user_id, room_num, line)
) /* CLUSTERED */;
CREATE INDEX mentions_by_line ON mentions (room_num, line);

-- When something last happened in each room that people would look at.
CREATE TABLE room_activity (
    room_num BIGINT PRIMARY KEY,
    position BIGINT NOT NULL
)

-- The words by which events are found (client-server §Server Side Search): one row for each word of
-- each event, the newest events of a room at one end.
CREATE TABLE search_words (
    word TEXT NOT NULL,
    room_num BIGINT NOT NULL,
    line BIGINT NOT NULL,
    event_num BIGINT NOT NULL,
    -- 0: content.body, 1: content.name, 2: content.topic
    field BIGINT NOT NULL,
    PRIMARY KEY (word, room_num, line)
) /* CLUSTERED */;

-- How far that has come, in the one row of id 1. Events with numbers up to "newest" and above
-- "oldest" are in it; those from "oldest" downwards were there before, and follow.
CREATE TABLE search_progress (
    id BIGINT PRIMARY KEY,
    newest BIGINT NOT NULL,
    oldest BIGINT NOT NULL
);

-- Events that were passed already and are to be looked at again: they got their place since.
CREATE TABLE search_again (
    event_num BIGINT PRIMARY KEY
)

-- Auth edges upside down: which state events cite a state event. Chains are walked down by
-- events.auth; whether something stands on an event is asked here.
CREATE TABLE auth_citations (
    cited BIGINT NOT NULL,
    citing BIGINT NOT NULL,
    PRIMARY KEY (cited, citing)
) /* CLUSTERED */;

-- The line of a room's power levels is walked far back by state resolution alone.
CREATE INDEX events_of_power_levels ON events (room_num, event_num)
WHERE type = 'm.room.power_levels' AND state_key = '';

-- What was merged into what: one row for each set of differing states that forks came to.
CREATE TABLE state_resolutions (
    room_num BIGINT NOT NULL,
    -- the position of the first event that stood on it
    position BIGINT NOT NULL,
    -- the name of the state that came out
    result BYTEA NOT NULL,
    -- the names of the states that went in, one after the other
    inputs BYTEA NOT NULL,
    PRIMARY KEY (room_num, inputs)
) /* CLUSTERED */;

-- Entries of a room's current state that went back to an older event, or were lost, by state
-- resolution alone: no event said so.
CREATE TABLE state_reversions (
    room_num BIGINT NOT NULL,
    -- the position of the event whose arrival brought it about
    position BIGINT NOT NULL,
    type TEXT NOT NULL,
    state_key TEXT NOT NULL,
    -- the number of the event that stood, and of the older one that stands now (0: none)
    was BIGINT NOT NULL,
    became BIGINT NOT NULL,
    -- why, in words: the rule that denied the event that stood
    cause TEXT NOT NULL,
    PRIMARY KEY (room_num, position, type, state_key)
) /* CLUSTERED */

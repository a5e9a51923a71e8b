-- What a room's current state was from a position on: a row only where it changed, so that a sync
-- token says exactly which state its client knows, forks and state resolution included.
CREATE TABLE room_heads (
    room_num BIGINT NOT NULL,
    position BIGINT NOT NULL,
    -- the name of a state page; empty for the empty state
    state BYTEA NOT NULL,
    PRIMARY KEY (room_num, position)
)

-- The user directory (client-server, User Directory): words by which people are found. It is an index
-- alone: what is shown, and to whom, is decided by profiles and memberships when it is asked.
CREATE TABLE directory_words (
    word TEXT NOT NULL,
    -- the room in which a user of another server bears a name with that word; 0 for the words of user
    -- ids and of our own users' profiles, which belong to no room
    room_num BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    PRIMARY KEY (word, room_num, user_id)
) /* CLUSTERED */;

-- How far memberships have been looked at for it, in the order of the index below; before those, with
-- a position of -1, the accounts that were made before there was a directory, by user id.
CREATE TABLE directory_progress (
    id BIGINT PRIMARY KEY,
    position BIGINT NOT NULL,
    room_num BIGINT NOT NULL,
    user_id TEXT NOT NULL
);
CREATE INDEX memberships_by_position ON memberships (position, room_num, user_id)

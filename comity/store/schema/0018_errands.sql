-- What is still to be done for an account beside requests (a change of its profile in its rooms, its end).
CREATE TABLE errands (
    user_id TEXT NOT NULL,
    -- 'profile': memberships are to carry the profile as it now is, 'end': the account was ended from
    -- outside and is to be emptied, 'departure': it is to leave every room
    kind TEXT NOT NULL,
    -- counts the changes: what was begun for an older one is begun again
    revision BIGINT NOT NULL,
    -- when it was asked for, in ms since the epoch
    since BIGINT NOT NULL,
    -- how many of how many rooms are done with, for those who ask
    done BIGINT NOT NULL DEFAULT 0,
    total BIGINT NOT NULL DEFAULT 0,
    -- of 'end': whether what the user said is to be erased too
    erase BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, kind)
);

-- Whose events are told redacted to who came into a room after that position of the log
-- (client-server, Account deactivation, erase).
CREATE TABLE erased_users (
    user_id TEXT NOT NULL PRIMARY KEY,
    position BIGINT NOT NULL
);

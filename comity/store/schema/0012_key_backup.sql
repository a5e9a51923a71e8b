-- Backups of keys of encrypted sessions (client-server, Server-side key backups). Versions of a user count
-- 1, 2, 3 …; the newest one's row stays when it is deleted, so that no version is given twice.
CREATE TABLE key_backups (
    user_id TEXT NOT NULL,
    version BIGINT NOT NULL,
    algorithm TEXT NOT NULL,
    -- JSON
    auth_data TEXT NOT NULL,
    -- counts the changes of its keys
    etag BIGINT NOT NULL DEFAULT 0,
    -- how many keys are in it, and how many bytes those are
    key_count BIGINT NOT NULL DEFAULT 0,
    key_bytes BIGINT NOT NULL DEFAULT 0,
    deleted BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, version)
);

CREATE TABLE backed_up_keys (
    user_id TEXT NOT NULL,
    version BIGINT NOT NULL,
    room_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    is_verified BIGINT NOT NULL,
    first_message_index BIGINT NOT NULL,
    forwarded_count BIGINT NOT NULL,
    -- the whole of it, as JSON
    json TEXT NOT NULL,
    PRIMARY KEY (user_id, version, room_id, session_id)
) /* CLUSTERED */;

-- The device of each user that waits for them without being logged in (MSC3814).
CREATE TABLE dehydrated_devices (
    user_id TEXT NOT NULL PRIMARY KEY,
    device_id TEXT NOT NULL,
    -- JSON
    data TEXT NOT NULL
);

-- Signatures by users of this server of other users' master keys: for the eyes of the signer alone.
CREATE TABLE user_signatures (
    signer TEXT NOT NULL,
    target TEXT NOT NULL,
    -- the id of the master key that is signed, and of the key that it is signed with
    target_key TEXT NOT NULL,
    signer_key TEXT NOT NULL,
    signature TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (signer, target)
) /* CLUSTERED */;

-- The position at which somebody was last in a room and went; 0: never, as far as is known.
ALTER TABLE memberships ADD COLUMN left_at BIGINT NOT NULL DEFAULT 0;
CREATE INDEX memberships_by_end ON memberships (left_at, room_num, user_id) WHERE left_at > 0

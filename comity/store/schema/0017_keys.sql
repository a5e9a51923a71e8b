-- One-time keys lie in the order in which they are given out, with no tree beside it: giving one out, or
-- adding some, touches one page of the database and not three. That no two keys of a device have the same
-- algorithm and id is seen to where they are added.
CREATE TABLE one_time_keys_by_age (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    -- when it came (ms): the oldest is given out first
    uploaded_at BIGINT NOT NULL,
    key_id TEXT NOT NULL,
    json TEXT NOT NULL,
    PRIMARY KEY (user_id, device_id, algorithm, uploaded_at, key_id)
) /* CLUSTERED */;
INSERT INTO one_time_keys_by_age (user_id, device_id, algorithm, uploaded_at, key_id, json)
    SELECT user_id, device_id, algorithm, uploaded_at, key_id, json FROM one_time_keys;
DROP TABLE one_time_keys;
ALTER TABLE one_time_keys_by_age RENAME TO one_time_keys;

-- When an access token ends, in ms since the epoch (client-server, Refreshing access tokens), NULL for never.
ALTER TABLE access_tokens ADD COLUMN expires_at BIGINT;
-- The refresh token that was given with it, until one of the two is used for the first time.
ALTER TABLE access_tokens ADD COLUMN refresh_hash BYTEA;

CREATE TABLE refresh_tokens (
    -- SHA-256 of the token, the token itself is known to the client alone
    token_hash BYTEA NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    -- NULL: never
    expires_at BIGINT,
    -- the one in whose place it was given, which is good until this one or its access token is used
    parent BYTEA,
    -- 1 once another has taken its place: whoever shows it then has an old copy, or a stolen one,
    -- 2 if one that was given beside it was used instead
    revoked BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX refresh_tokens_by_device ON refresh_tokens (user_id, device_id);

-- What lets another app log in once (client-server, POST /login/get_token).
CREATE TABLE login_tokens (
    token_hash BYTEA NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX login_tokens_by_user ON login_tokens (user_id);

-- The accounts that are locked, suspended or both (client-server, Account moderation).
CREATE TABLE moderated_accounts (
    user_id TEXT NOT NULL PRIMARY KEY,
    suspended BIGINT NOT NULL DEFAULT 0,
    locked BIGINT NOT NULL DEFAULT 0
);

-- From where, and with what program, a device was used (client-server, GET /admin/whois).
CREATE TABLE connections (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    address TEXT NOT NULL,
    user_agent TEXT NOT NULL,
    last_seen BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id, address, user_agent)
);

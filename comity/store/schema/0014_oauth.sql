-- People who are signed in to this server's own pages, by the cookie of their browser.
CREATE TABLE browser_sessions (
    -- SHA-256 of the cookie's token
    token_hash BYTEA NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    -- all in ms since the epoch; when who they are was last proven, by a password or otherwise
    created_at BIGINT NOT NULL,
    proven_at BIGINT NOT NULL,
    last_used_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    address TEXT NOT NULL,
    user_agent TEXT NOT NULL
);
CREATE INDEX browser_sessions_by_user ON browser_sessions (user_id);
CREATE INDEX browser_sessions_by_end ON browser_sessions (expires_at);

-- Clients that have registered themselves (client-server, OAuth 2.0 API, Client registration).
CREATE TABLE oauth_clients (
    client_id TEXT NOT NULL PRIMARY KEY,
    -- SHA-256 of the metadata: who registers the same again is the same client
    metadata_hash BYTEA NOT NULL UNIQUE,
    metadata TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    last_used_at BIGINT NOT NULL
);
CREATE INDEX oauth_clients_by_use ON oauth_clients (last_used_at);

-- Authorization codes, used ones too until nobody can replay them usefully any more.
CREATE TABLE oauth_codes (
    code_hash BYTEA NOT NULL PRIMARY KEY,
    client_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    redirect_uri TEXT NOT NULL,
    code_challenge TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    used BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX oauth_codes_by_end ON oauth_codes (expires_at);
CREATE INDEX oauth_codes_by_user ON oauth_codes (user_id);

-- Device authorization requests (RFC 8628). state: 0 pending, 1 approved, 2 denied.
CREATE TABLE oauth_device_requests (
    device_code_hash BYTEA NOT NULL PRIMARY KEY,
    user_code TEXT NOT NULL UNIQUE,
    client_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    address TEXT NOT NULL,
    state BIGINT NOT NULL DEFAULT 0,
    -- who approved it
    user_id TEXT,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    last_polled_at BIGINT NOT NULL DEFAULT 0,
    interval_ms BIGINT NOT NULL
);
CREATE INDEX oauth_device_requests_by_end ON oauth_device_requests (expires_at);

-- Devices that were logged in by OAuth 2.0, with the client that they run.
CREATE TABLE oauth_sessions (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    client_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    -- of the code that gave the tokens, NULL for a device authorization
    code_hash BYTEA,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, device_id)
);
CREATE INDEX oauth_sessions_by_client ON oauth_sessions (client_id);

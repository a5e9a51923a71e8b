-- Addresses at which users are reached outside of Matrix, and by which they may be found and may reset their
-- password (client-server, Adding Account Administrative Contact Information). Each is one user's.
CREATE TABLE third_party_ids (
    medium TEXT NOT NULL,
    -- canonical (appendices, 3PID Types)
    address TEXT NOT NULL,
    user_id TEXT NOT NULL,
    -- the address as its owner wrote it, and received a letter at it
    written TEXT NOT NULL,
    -- ms since the epoch
    validated_at BIGINT NOT NULL,
    added_at BIGINT NOT NULL,
    PRIMARY KEY (medium, address)
);
CREATE INDEX third_party_ids_by_user ON third_party_ids (user_id);

-- Which identity servers were told through this server that an address is a user's.
CREATE TABLE bound_third_party_ids (
    user_id TEXT NOT NULL,
    medium TEXT NOT NULL,
    address TEXT NOT NULL,
    id_server TEXT NOT NULL,
    bound_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, medium, address, id_server)
);

-- Somebody says that an address is theirs: the letter with the token to it is their proof.
CREATE TABLE validation_sessions (
    sid TEXT NOT NULL PRIMARY KEY,
    -- what it is for: register, add, reset
    purpose TEXT NOT NULL,
    medium TEXT NOT NULL,
    address TEXT NOT NULL,
    written TEXT NOT NULL,
    -- SHA-256 of what the client and the letter hold
    secret_hash BYTEA NOT NULL,
    token_hash BYTEA NOT NULL,
    -- who asked, where that was known: the address can be added to nobody else
    user_id TEXT,
    send_attempt BIGINT NOT NULL,
    next_link TEXT,
    failures BIGINT NOT NULL DEFAULT 0,
    -- NULL: not yet
    validated_at BIGINT,
    expires_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX validation_sessions_by_secret
    ON validation_sessions (medium, address, secret_hash, purpose);
CREATE INDEX validation_sessions_by_end ON validation_sessions (expires_at);

-- The documents that a user accepted when the account was made.
CREATE TABLE accepted_terms (
    user_id TEXT NOT NULL,
    policy_id TEXT NOT NULL,
    version TEXT NOT NULL,
    accepted_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, policy_id, version)
);

-- Who signs in to which account through another provider (OpenID Connect). A person is known by the issuer
-- and what that calls them, for good, whatever the operator calls the provider.
CREATE TABLE upstream_links (
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    user_id TEXT NOT NULL,
    -- what the provider shows of them, so that their user can tell one link from another, may be empty
    shown TEXT NOT NULL,
    -- ms since the epoch
    linked_at BIGINT NOT NULL,
    PRIMARY KEY (issuer, subject)
);
CREATE INDEX upstream_links_by_user ON upstream_links (user_id);

-- The accounts that are guests' (client-server, Guest Access). One that becomes a full account is taken out.
CREATE TABLE guests (
    user_id TEXT NOT NULL PRIMARY KEY
);

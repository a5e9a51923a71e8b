-- The accounts that are guests' (client-server, Guest Access). One that becomes a full account is taken out.
CREATE TABLE guests (
    user_id TEXT NOT NULL PRIMARY KEY
);

-- The one room of each user in which the server speaks to them (client-server, Server Notices).
CREATE TABLE server_notice_rooms (
    user_id TEXT NOT NULL PRIMARY KEY,
    room_id TEXT NOT NULL
);

-- Notices that the operator has written and the server has not sent yet. "at": ms since the epoch.
CREATE TABLE server_notices (
    notice_id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    body TEXT NOT NULL,
    at BIGINT NOT NULL
);

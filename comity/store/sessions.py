"""Sessions at rest: access tokens, refresh tokens, login tokens, and where devices were used from.

Plain functions over an open transaction. Every token arrives hashed (SHA-256); when one ends, and
what follows from an old one, is decided in `comity.users.sessions` and `comity.users.refreshing`.
"""

from __future__ import annotations

from dataclasses import dataclass

from comity.store.database import Tx

#: Why a refresh token is good no more: another took its place, or one given beside it was used instead.
REPLACED, NEVER_USED = 1, 2


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom an access token acts for. `expires_at` is in ms since the epoch, None for never.

    `refresh_hash` is the refresh token that was given with it, while neither was used; `by_oauth` says
    whether OAuth 2.0 gave it.
    """

    user_id: str
    device_id: str
    admin: bool
    guest: bool
    suspended: bool
    locked: bool
    expires_at: int | None
    refresh_hash: bytes | None
    by_oauth: bool


@dataclass(frozen=True, slots=True)
class Refresh:
    """A refresh token. `parent` is the one in whose place it was given, while that is good too.

    `revoked` is 0, REPLACED or NEVER_USED.
    """

    user_id: str
    device_id: str
    expires_at: int | None
    parent: bytes | None
    revoked: int
    locked: bool


@dataclass(frozen=True, slots=True)
class Connection:
    """From where a device was used; `last_seen` in ms since the epoch."""

    device_id: str
    address: str
    user_agent: str
    last_seen: int


# -- access tokens


def insert_token(
    tx: Tx,
    token_hash: bytes,
    user_id: str,
    device_id: str,
    now_ms: int,
    *,
    expires_at: int | None = None,
    refresh_hash: bytes | None = None,
) -> None:
    """Let a token act for a device."""
    tx.run(
        "INSERT INTO access_tokens (token_hash, user_id, device_id, created_at, expires_at, refresh_hash) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (token_hash, user_id, device_id, now_ms, expires_at, refresh_hash),
    )


def delete_tokens(tx: Tx, user_id: str, device_id: str) -> list[bytes]:
    """Delete every access and refresh token of a device; the hashes of the access tokens."""
    owner = (user_id, device_id)
    rows = tx.all("SELECT token_hash FROM access_tokens WHERE user_id = ? AND device_id = ?", owner)
    tx.run("DELETE FROM access_tokens WHERE user_id = ? AND device_id = ?", owner)
    tx.run("DELETE FROM refresh_tokens WHERE user_id = ? AND device_id = ?", owner)
    return [bytes(row[0]) for row in rows]


def logged_out_devices(tx: Tx, user_id: str, made_by_ms: int) -> list[str]:
    """The devices of a user, made by then, for which no token is good."""
    rows = tx.all(
        "SELECT device_id FROM devices d WHERE d.user_id = ? AND d.created_at <= ? "
        "AND NOT EXISTS (SELECT 1 FROM access_tokens t WHERE t.user_id = d.user_id "
        "AND t.device_id = d.device_id) ORDER BY d.device_id",
        (user_id, made_by_ms),
    )
    return [row[0] for row in rows]


def token_hashes(tx: Tx, user_id: str) -> list[bytes]:
    """The hashes of every access token of a user."""
    rows = tx.all("SELECT token_hash FROM access_tokens WHERE user_id = ?", (user_id,))
    return [bytes(row[0]) for row in rows]


def token_owner(tx: Tx, token_hash: bytes) -> Owner | None:
    """Whom an access token acts for, though it may have ended; None if the account is deactivated."""
    row = tx.one(
        "SELECT t.user_id, t.device_id, u.admin, g.user_id, m.suspended, m.locked, t.expires_at, "
        "t.refresh_hash, o.client_id FROM access_tokens t JOIN users u ON u.user_id = t.user_id "
        "LEFT JOIN guests g ON g.user_id = t.user_id LEFT JOIN moderated_accounts m ON m.user_id = t.user_id "
        "LEFT JOIN oauth_sessions o ON o.user_id = t.user_id AND o.device_id = t.device_id "
        "WHERE t.token_hash = ? AND u.deactivated = 0",
        (token_hash,),
    )
    if row is None:
        return None
    refresh_hash = None if row[7] is None else bytes(row[7])
    return Owner(
        row[0],
        row[1],
        bool(row[2]),
        row[3] is not None,
        bool(row[4]),
        bool(row[5]),
        row[6],
        refresh_hash,
        row[8] is not None,
    )


def end_tokens(tx: Tx, user_id: str, device_id: str, now_ms: int, but: bytes | None = None) -> list[bytes]:
    """Let a device's access tokens end now, and be known as ended; the hashes of those that did.

    `but` is the refresh token whose own access token goes on.
    """
    rows = tx.all(
        "SELECT token_hash, refresh_hash FROM access_tokens WHERE user_id = ? AND device_id = ? "
        "AND (expires_at IS NULL OR expires_at > ?)",
        (user_id, device_id, now_ms),
    )
    ending = [bytes(row[0]) for row in rows if but is None or row[1] is None or bytes(row[1]) != but]
    for token_hash in ending:
        tx.run("UPDATE access_tokens SET expires_at = ? WHERE token_hash = ?", (now_ms, token_hash))
    return ending


def forget_ended_tokens(tx: Tx, user_id: str, device_id: str, before_ms: int) -> list[bytes]:
    """Delete a device's access tokens that ended before `before_ms`; their hashes."""
    values = (user_id, device_id, before_ms)
    condition = "user_id = ? AND device_id = ? AND expires_at < ?"
    rows = tx.all(f"SELECT token_hash FROM access_tokens WHERE {condition}", values)
    if rows:
        tx.run(f"DELETE FROM access_tokens WHERE {condition}", values)
    return [bytes(row[0]) for row in rows]


# -- refresh tokens


def insert_refresh(
    tx: Tx,
    token_hash: bytes,
    user_id: str,
    device_id: str,
    now_ms: int,
    *,
    expires_at: int | None,
    parent: bytes | None = None,
) -> None:
    """Let a refresh token give access tokens to a device."""
    tx.run(
        "INSERT INTO refresh_tokens (token_hash, user_id, device_id, created_at, expires_at, parent) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (token_hash, user_id, device_id, now_ms, expires_at, parent),
    )


def refresh(tx: Tx, token_hash: bytes) -> Refresh | None:
    """A refresh token, revoked ones too; None if the account is deactivated."""
    row = tx.one(
        "SELECT r.user_id, r.device_id, r.expires_at, r.parent, r.revoked, m.locked FROM refresh_tokens r "
        "JOIN users u ON u.user_id = r.user_id LEFT JOIN moderated_accounts m ON m.user_id = r.user_id "
        "WHERE r.token_hash = ? AND u.deactivated = 0",
        (token_hash,),
    )
    if row is None:
        return None
    parent = None if row[3] is None else bytes(row[3])
    return Refresh(row[0], row[1], row[2], parent, row[4], bool(row[5]))


def children(tx: Tx, parent: bytes, user_id: str, device_id: str) -> list[bytes]:
    """The refresh tokens given in the place of one that is still good too, oldest first."""
    rows = tx.all(
        "SELECT token_hash FROM refresh_tokens WHERE user_id = ? AND device_id = ? AND parent = ? "
        "ORDER BY created_at, token_hash",
        (user_id, device_id, parent),
    )
    return [bytes(row[0]) for row in rows]


def confirm_refresh(tx: Tx, token_hash: bytes, user_id: str, device_id: str) -> None:
    """A refresh token, or its access token, is used: those before it and beside it are revoked."""
    tx.run(
        "UPDATE refresh_tokens SET revoked = CASE WHEN parent IS NULL THEN ? ELSE ? END, parent = NULL "
        "WHERE user_id = ? AND device_id = ? AND token_hash <> ? AND revoked = 0",
        (REPLACED, NEVER_USED, user_id, device_id, token_hash),
    )
    tx.run("UPDATE refresh_tokens SET parent = NULL WHERE token_hash = ?", (token_hash,))


def confirm_access(tx: Tx, refresh_hash: bytes, user_id: str, device_id: str) -> list[bytes]:
    """The access token that came with a refresh token waits for nothing any more; its hash."""
    values = (user_id, device_id, refresh_hash)
    condition = "user_id = ? AND device_id = ? AND refresh_hash = ?"
    rows = tx.all(f"SELECT token_hash FROM access_tokens WHERE {condition}", values)
    tx.run(f"UPDATE access_tokens SET refresh_hash = NULL WHERE {condition}", values)
    return [bytes(row[0]) for row in rows]


def delete_pair(tx: Tx, refresh_hash: bytes, user_id: str, device_id: str) -> list[bytes]:
    """Delete a refresh token and the access token that was given with it; that one's hash."""
    values = (user_id, device_id, refresh_hash)
    condition = "user_id = ? AND device_id = ? AND refresh_hash = ?"
    rows = tx.all(f"SELECT token_hash FROM access_tokens WHERE {condition}", values)
    tx.run(f"DELETE FROM access_tokens WHERE {condition}", values)
    tx.run("DELETE FROM refresh_tokens WHERE token_hash = ?", (refresh_hash,))
    return [bytes(row[0]) for row in rows]


def revoke_refresh(tx: Tx, user_id: str, device_id: str) -> None:
    """Revoke every refresh token of a device."""
    tx.run(
        "UPDATE refresh_tokens SET revoked = ?, parent = NULL WHERE user_id = ? AND device_id = ? "
        "AND revoked = 0",
        (REPLACED, user_id, device_id),
    )


def forget_revoked(tx: Tx, user_id: str, device_id: str, keep: int) -> None:
    """Delete all but the `keep` newest of a device's revoked refresh tokens."""
    tx.run(
        "DELETE FROM refresh_tokens WHERE token_hash IN (SELECT token_hash FROM refresh_tokens "
        "WHERE user_id = ? AND device_id = ? AND revoked > 0 "
        "ORDER BY created_at DESC, token_hash LIMIT 1000000 OFFSET ?)",
        (user_id, device_id, keep),
    )


# -- login tokens


def insert_login_token(tx: Tx, token_hash: bytes, user_id: str, now_ms: int, expires_at: int) -> None:
    """Let a token open one session until `expires_at` (ms); those that are over go."""
    tx.run("DELETE FROM login_tokens WHERE expires_at <= ?", (now_ms,))
    tx.run(
        "INSERT INTO login_tokens (token_hash, user_id, expires_at) VALUES (?, ?, ?)",
        (token_hash, user_id, expires_at),
    )


def login_token_owner(tx: Tx, token_hash: bytes, now_ms: int) -> str | None:
    """Whom a login token lets in, if it is good."""
    row = tx.one(
        "SELECT t.user_id FROM login_tokens t JOIN users u ON u.user_id = t.user_id "
        "WHERE t.token_hash = ? AND t.expires_at > ? AND u.deactivated = 0",
        (token_hash, now_ms),
    )
    return row[0] if row else None


def take_login_token(tx: Tx, token_hash: bytes) -> bool:
    """Use a login token up; whether it was there still."""
    return tx.changed("DELETE FROM login_tokens WHERE token_hash = ?", (token_hash,)) > 0


def delete_login_tokens(tx: Tx, user_id: str) -> None:
    """No login token lets that user in any more."""
    tx.run("DELETE FROM login_tokens WHERE user_id = ?", (user_id,))


# -- moderation


def moderation(tx: Tx, user_id: str) -> tuple[bool, bool]:
    """(whether suspended, whether locked)."""
    row = tx.one("SELECT suspended, locked FROM moderated_accounts WHERE user_id = ?", (user_id,))
    return (bool(row[0]), bool(row[1])) if row else (False, False)


def moderated(tx: Tx) -> dict[str, tuple[bool, bool]]:
    """user id -> (whether suspended, whether locked), of those who are."""
    rows = tx.all("SELECT user_id, suspended, locked FROM moderated_accounts")
    return {row[0]: (bool(row[1]), bool(row[2])) for row in rows}


def set_moderation(tx: Tx, user_id: str, *, suspended: bool, locked: bool) -> None:
    """Suspend, lock, or neither."""
    tx.run("DELETE FROM moderated_accounts WHERE user_id = ?", (user_id,))
    if suspended or locked:
        tx.run(
            "INSERT INTO moderated_accounts (user_id, suspended, locked) VALUES (?, ?, ?)",
            (user_id, int(suspended), int(locked)),
        )


# -- connections


def note_connection(
    tx: Tx, user_id: str, device_id: str, address: str, user_agent: str, now_ms: int, keep: int
) -> None:
    """A device was used from there; its `keep` newest connections are kept.

    Nothing happens if the device is gone.
    """
    if tx.one("SELECT 1 FROM devices WHERE user_id = ? AND device_id = ?", (user_id, device_id)) is None:
        return
    tx.run(
        "INSERT INTO connections (user_id, device_id, address, user_agent, last_seen) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (user_id, device_id, address, user_agent) DO UPDATE SET last_seen = excluded.last_seen",
        (user_id, device_id, address, user_agent, now_ms),
    )
    rows = tx.all(
        "SELECT address, user_agent FROM connections WHERE user_id = ? AND device_id = ? "
        "ORDER BY last_seen DESC, address, user_agent",
        (user_id, device_id),
    )
    for row in rows[keep:]:
        tx.run(
            "DELETE FROM connections WHERE user_id = ? AND device_id = ? AND address = ? AND user_agent = ?",
            (user_id, device_id, row[0], row[1]),
        )


def connections(tx: Tx, user_id: str) -> list[Connection]:
    """From where a user's devices were used, newest first."""
    rows = tx.all(
        "SELECT device_id, address, user_agent, last_seen FROM connections WHERE user_id = ? "
        "ORDER BY last_seen DESC, device_id, address, user_agent",
        (user_id,),
    )
    return [Connection(*row) for row in rows]


def delete_connections(tx: Tx, user_id: str, device_id: str) -> None:
    """Forget from where a device was used."""
    tx.run("DELETE FROM connections WHERE user_id = ? AND device_id = ?", (user_id, device_id))

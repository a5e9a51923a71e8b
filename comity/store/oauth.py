"""OAuth 2.0 at rest: clients, authorization codes, requests of devices, and whose device runs which client.

Plain functions over an open transaction. Codes arrive hashed (SHA-256). What may be granted to whom
is decided in `comity.users.oauth`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from comity.store.database import Row, Tx

#: What became of a device's request.
PENDING, APPROVED, DENIED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Code:
    """An authorization code; `expires_at` in ms since the epoch."""

    client_id: str
    user_id: str
    device_id: str
    scope: str
    redirect_uri: str
    code_challenge: str
    expires_at: int
    used: bool


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """A request of RFC 8628; times in ms. `user_id` is who approved it."""

    device_code_hash: bytes
    user_code: str
    client_id: str
    device_id: str
    scope: str
    address: str
    state: int
    user_id: str | None
    created_at: int
    expires_at: int
    last_polled_at: int
    interval_ms: int


@dataclass(frozen=True, slots=True)
class OAuthSession:
    """A device that OAuth 2.0 has logged in; `code_hash` is of the code that its tokens are for, if any."""

    client_id: str
    scope: str
    code_hash: bytes | None


# -- clients


def put_client(tx: Tx, client_id: str, metadata_hash: bytes, metadata: str, now_ms: int) -> str:
    """Keep a client, under the id of one that has the same metadata if there is one; that id."""
    row = tx.one("SELECT client_id FROM oauth_clients WHERE metadata_hash = ?", (metadata_hash,))
    if row is not None:
        touch_client(tx, row[0], now_ms)
        return str(row[0])
    tx.run(
        "INSERT INTO oauth_clients (client_id, metadata_hash, metadata, created_at, last_used_at) "
        "VALUES (?, ?, ?, ?, ?)",
        (client_id, metadata_hash, metadata, now_ms, now_ms),
    )
    return client_id


def client(tx: Tx, client_id: str) -> str | None:
    """A client's metadata, JSON text."""
    row = tx.one("SELECT metadata FROM oauth_clients WHERE client_id = ?", (client_id,))
    return row[0] if row else None


def touch_client(tx: Tx, client_id: str, now_ms: int) -> None:
    """A client was used."""
    tx.run("UPDATE oauth_clients SET last_used_at = ? WHERE client_id = ?", (now_ms, client_id))


def count_clients(tx: Tx) -> int:
    """How many clients are kept."""
    row = tx.one("SELECT count(*) FROM oauth_clients")
    return int(row[0]) if row else 0


def forget_clients(tx: Tx, unused_since_ms: int, most: int) -> int:
    """Delete up to `most` clients that were not used since and that no device runs; how many."""
    rows = tx.all(
        "SELECT client_id FROM oauth_clients WHERE last_used_at < ? AND NOT EXISTS "
        "(SELECT 1 FROM oauth_sessions s WHERE s.client_id = oauth_clients.client_id) "
        "ORDER BY last_used_at LIMIT ?",
        (unused_since_ms, most),
    )
    tx.many("DELETE FROM oauth_clients WHERE client_id = ?", [(row[0],) for row in rows])
    return len(rows)


# -- authorization codes


def put_code(tx: Tx, code_hash: bytes, code: Code, forget_before_ms: int) -> None:
    """Keep a code; those that ended before `forget_before_ms` go."""
    tx.run("DELETE FROM oauth_codes WHERE expires_at < ?", (forget_before_ms,))
    tx.run(
        "INSERT INTO oauth_codes (code_hash, client_id, user_id, device_id, scope, redirect_uri, "
        "code_challenge, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            code_hash,
            code.client_id,
            code.user_id,
            code.device_id,
            code.scope,
            code.redirect_uri,
            code.code_challenge,
            code.expires_at,
        ),
    )


def code(tx: Tx, code_hash: bytes) -> Code | None:
    """The code of that hash, used ones too."""
    row = tx.one(
        "SELECT client_id, user_id, device_id, scope, redirect_uri, code_challenge, expires_at, used "
        "FROM oauth_codes WHERE code_hash = ?",
        (code_hash,),
    )
    return replace(Code(*row), used=bool(row[7])) if row else None


def use_code(tx: Tx, code_hash: bytes) -> bool:
    """Use a code up; False if it was used before."""
    return tx.changed("UPDATE oauth_codes SET used = 1 WHERE code_hash = ? AND used = 0", (code_hash,)) > 0


# -- requests of devices

_REQUEST = (
    "device_code_hash, user_code, client_id, device_id, scope, address, state, user_id, created_at, "
    "expires_at, last_polled_at, interval_ms"
)


def put_device_request(tx: Tx, request: DeviceRequest, forget_before_ms: int) -> bool:
    """Keep a request; those that ended before `forget_before_ms` go. False if its user code is taken."""
    tx.run("DELETE FROM oauth_device_requests WHERE expires_at < ?", (forget_before_ms,))
    return (
        tx.changed(
            f"INSERT INTO oauth_device_requests ({_REQUEST}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (user_code) DO NOTHING",
            (
                request.device_code_hash,
                request.user_code,
                request.client_id,
                request.device_id,
                request.scope,
                request.address,
                request.state,
                request.user_id,
                request.created_at,
                request.expires_at,
                request.last_polled_at,
                request.interval_ms,
            ),
        )
        > 0
    )


def count_device_requests(tx: Tx) -> int:
    """How many requests of devices are kept."""
    row = tx.one("SELECT count(*) FROM oauth_device_requests")
    return int(row[0]) if row else 0


def _request(row: Row | None) -> DeviceRequest | None:
    return DeviceRequest(bytes(row[0]), *row[1:]) if row else None


def forget_device_requests(tx: Tx, before_ms: int) -> None:
    """Delete the requests that ended before."""
    tx.run("DELETE FROM oauth_device_requests WHERE expires_at < ?", (before_ms,))


def device_request(tx: Tx, device_code_hash: bytes) -> DeviceRequest | None:
    """The request of that device code."""
    columns = f"SELECT {_REQUEST} FROM oauth_device_requests"
    return _request(tx.one(f"{columns} WHERE device_code_hash = ?", (device_code_hash,)))


def device_request_by_user_code(tx: Tx, user_code: str, now_ms: int) -> DeviceRequest | None:
    """The request of that user code, while it waits for somebody to decide."""
    columns = f"SELECT {_REQUEST} FROM oauth_device_requests"
    return _request(
        tx.one(f"{columns} WHERE user_code = ? AND state = 0 AND expires_at > ?", (user_code, now_ms))
    )


def note_poll(tx: Tx, device_code_hash: bytes, now_ms: int, interval_ms: int) -> None:
    """A device has asked what became of its request."""
    tx.run(
        "UPDATE oauth_device_requests SET last_polled_at = ?, interval_ms = ? WHERE device_code_hash = ?",
        (now_ms, interval_ms, device_code_hash),
    )


def decide(tx: Tx, device_code_hash: bytes, state: int, user_id: str | None) -> bool:
    """Approve or deny a request; False if somebody has decided already."""
    return (
        tx.changed(
            "UPDATE oauth_device_requests SET state = ?, user_id = ? "
            "WHERE device_code_hash = ? AND state = 0",
            (state, user_id, device_code_hash),
        )
        > 0
    )


def delete_device_request(tx: Tx, device_code_hash: bytes) -> None:
    """The request has been answered."""
    tx.run("DELETE FROM oauth_device_requests WHERE device_code_hash = ?", (device_code_hash,))


# -- sessions


def put_session(tx: Tx, user_id: str, device_id: str, session: OAuthSession, now_ms: int) -> None:
    """A device was logged in by OAuth 2.0."""
    forget_session(tx, user_id, device_id)
    tx.run(
        "INSERT INTO oauth_sessions (user_id, device_id, client_id, scope, code_hash, created_at) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (user_id, device_id, session.client_id, session.scope, session.code_hash, now_ms),
    )


def session(tx: Tx, user_id: str, device_id: str) -> OAuthSession | None:
    """How a device was logged in, if by OAuth 2.0."""
    row = tx.one(
        "SELECT client_id, scope, code_hash FROM oauth_sessions WHERE user_id = ? AND device_id = ?",
        (user_id, device_id),
    )
    return None if row is None else OAuthSession(row[0], row[1], None if row[2] is None else bytes(row[2]))


def clients_of_user(tx: Tx, user_id: str) -> dict[str, str]:
    """device id -> metadata (JSON text) of the client that it runs."""
    rows = tx.all(
        "SELECT s.device_id, c.metadata FROM oauth_sessions s "
        "JOIN oauth_clients c ON c.client_id = s.client_id WHERE s.user_id = ?",
        (user_id,),
    )
    return {row[0]: row[1] for row in rows}


def forget_session(tx: Tx, user_id: str, device_id: str) -> None:
    """A device is gone, or was logged in otherwise."""
    tx.run("DELETE FROM oauth_sessions WHERE user_id = ? AND device_id = ?", (user_id, device_id))


def forget_grants(tx: Tx, user_id: str) -> None:
    """What a user granted, and was not taken yet, is granted no more."""
    tx.run("DELETE FROM oauth_codes WHERE user_id = ? AND used = 0", (user_id,))
    tx.run("DELETE FROM oauth_device_requests WHERE user_id = ?", (user_id,))

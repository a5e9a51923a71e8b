"""Registration by who knows the shared secret: the interface that operators' tools use.

`GET` gives a nonce; `POST` uses it once, within a minute, in a message that is authenticated
by HMAC-SHA1 under the secret. It is not part of the specification.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

from comity.ports import Clock, Entropy
from comity.protocol.errors import MatrixError, bad_json, forbidden, invalid_param, missing_param
from comity.store import accounts as stored
from comity.store.database import WriteTx
from comity.users.accounts import Accounts
from comity.users.profile import check_value
from comity.users.rate_limits import NONCES, RateLimits
from comity.users.sessions import Opened, Sessions

#: Seconds for which a nonce is good.
NONCE_SECONDS = 60.0
#: Nonces that are out at once; the oldest goes when there are more.
MAX_NONCES = 1_000
NONCE_BYTES = 32


class SharedSecret:
    """Makes accounts, administrators included, for who knows the secret."""

    def __init__(
        self,
        secret: str | None,
        accounts: Accounts,
        sessions: Sessions,
        limits: RateLimits,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._secret = secret
        self._accounts = accounts
        self._sessions = sessions
        self._limits = limits
        self._clock = clock
        self._entropy = entropy
        self._nonces: dict[str, float] = {}

    def _check_enabled(self) -> bytes:
        if self._secret is None:
            raise MatrixError(400, "M_UNKNOWN", "Shared secret registration is not enabled on this server")
        return self._secret.encode()

    def nonce(self, address: str) -> str:
        """A new nonce. Raises 400 M_UNKNOWN if there is no secret, 429 M_LIMIT_EXCEEDED."""
        self._check_enabled()
        self._limits.check(NONCES, address)
        now = self._clock.monotonic()
        for old in list(self._nonces):
            if self._nonces[old] > now and len(self._nonces) < MAX_NONCES:
                break
            del self._nonces[old]
        nonce = self._entropy.bytes(NONCE_BYTES).hex()
        self._nonces[nonce] = now + NONCE_SECONDS
        return nonce

    async def register(self, body: Mapping[str, Any]) -> Opened:
        """Make the account and open a session for it.

        Raises 400 M_UNKNOWN (no secret, or the nonce is not good), M_MISSING_PARAM, M_BAD_JSON,
        M_INVALID_PARAM, M_INVALID_USERNAME, M_USER_IN_USE; 403 M_FORBIDDEN for a wrong MAC.
        """
        secret = self._check_enabled()
        nonce = _text(body, "nonce")
        # Gone with the first use, whatever comes of it.
        if not self._nonces.pop(nonce, 0.0) > self._clock.monotonic():
            raise MatrixError(400, "M_UNKNOWN", "The nonce is unknown, used or over: get another one")
        username, password, mac = _text(body, "username"), _text(body, "password"), _text(body, "mac")
        admin = body.get("admin", False)
        if not isinstance(admin, bool):
            raise bad_json("admin is not a boolean")
        parts = [nonce, username, password, "admin" if admin else "notadmin"]
        if body.get("user_type") is not None:
            # It is part of the message; here all users are of one type.
            parts.append(_text(body, "user_type"))
        if any("\x00" in part for part in parts):
            raise invalid_param("No part of the message may have a NUL in it")
        message = b"\x00".join(part.encode("utf-8", "surrogatepass") for part in parts)
        right = hmac.new(secret, message, "sha1").hexdigest()
        if not hmac.compare_digest(right.encode(), mac.lower().encode("utf-8", "surrogatepass")):
            raise forbidden("The MAC is not right")
        user_id = self._accounts.new_user_id(username)
        opened, store_session = self._sessions.prepare(user_id)
        name = check_value("displayname", body["displayname"]) if body.get("displayname") else None

        def along(tx: WriteTx) -> None:
            store_session(tx)
            if name is not None:
                stored.put_profile_field(tx, user_id, "displayname", name)

        await self._accounts.create(user_id, password, admin=admin, along=along)
        return opened


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if value is None:
        raise missing_param(f"The request body lacks {name}")
    if not isinstance(value, str):
        raise bad_json(f"{name} is not a string")
    return value

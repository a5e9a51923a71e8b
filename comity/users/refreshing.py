"""Sessions that go on with new tokens (client-server §Refreshing access tokens).

A refresh token gives a new pair and stays good until one of the pair is used, so that a client
whose connection broke can ask again. One that is shown after that was copied by somebody: the
session ends softly, for the thief and its owner; the owner logs in again and keeps their device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comity.ports import Clock
from comity.protocol.errors import MatrixError, bad_json, missing_param
from comity.store import oauth
from comity.store import sessions as stored
from comity.store.database import Database, WriteTx
from comity.users.rate_limits import REFRESHES, RateLimits
from comity.users.sessions import (
    MAX_TOKEN_CHARACTERS,
    Opened,
    Sessions,
    hash_of,
    soft_logged_out,
    user_locked,
)

#: Pairs that wait for their first use at once: what a client on a bad line, or two processes of one
#: client, ask for before one of them comes to use its pair. The oldest goes when there are more.
MAX_WAITING_PAIRS = 4


class Refreshing:
    """`POST /refresh`."""

    def __init__(self, database: Database, sessions: Sessions, limits: RateLimits, clock: Clock) -> None:
        self._database = database
        self._sessions = sessions
        self._limits = limits
        self._clock = clock

    async def refresh(self, body: Mapping[str, Any], address: str) -> Opened:
        """New tokens for the session whose refresh token the body holds.

        Raises 400 M_MISSING_PARAM or M_BAD_JSON; 401 M_UNKNOWN_TOKEN, with `soft_logout` where the
        device is still there; 401 M_USER_LOCKED; 429 M_LIMIT_EXCEEDED.
        """
        token = body.get("refresh_token")
        if token is None:
            raise missing_param("The request body lacks refresh_token")
        if not isinstance(token, str):
            raise bad_json("refresh_token is not a string")
        self._limits.check(REFRESHES, address)
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise _unknown()
        token_hash = hash_of(token)
        # An error that is raised undoes its transaction; a session that ends must end.
        outcome = await self._database.write(lambda tx: self._refresh_in(tx, token_hash))
        if isinstance(outcome, MatrixError):
            raise outcome
        return outcome

    def _refresh_in(self, tx: WriteTx, token_hash: bytes) -> Opened | MatrixError:
        found = stored.refresh(tx, token_hash)
        if found is not None and oauth.session(tx, found.user_id, found.device_id) is not None:
            # A token of OAuth 2.0 is good for the client alone that it was given to, which this does not ask.
            return _unknown()
        return self.refresh_in(tx, token_hash)

    def refresh_in(self, tx: WriteTx, token_hash: bytes) -> Opened | MatrixError:
        """New tokens for a refresh token, in a transaction of the caller's, which must stand.

        An error is returned and not raised, so that a session that ends has ended.
        """
        found = stored.refresh(tx, token_hash)
        if found is None:
            return _unknown()
        if found.locked:
            return user_locked()
        user_id, device_id, now = found.user_id, found.device_id, self._clock.now_ms()
        if found.revoked == stored.NEVER_USED:
            return soft_logged_out("Another refresh token was used in the place of this one: log in again")
        if found.revoked:
            self._sessions.log_out_softly_in(tx, user_id, device_id)
            return soft_logged_out("The refresh token was used before; to be safe, the session is over")
        if found.expires_at is not None and found.expires_at <= now:
            return soft_logged_out("The refresh token has ended: log in again")
        if found.parent is not None:
            self._sessions.confirm_in(tx, user_id, device_id, token_hash)
        waiting = stored.children(tx, token_hash, user_id, device_id)
        for oldest in waiting[: max(0, len(waiting) - MAX_WAITING_PAIRS + 1)]:
            self._sessions.withdraw_in(tx, user_id, device_id, oldest)
        opened = self._sessions.new_tokens(user_id, device_id, refreshing=True)
        self._sessions.store_tokens_in(tx, opened, now, parent=token_hash)
        return opened


def _unknown() -> MatrixError:
    return MatrixError(401, "M_UNKNOWN_TOKEN", "The refresh token is not, or no longer, valid")

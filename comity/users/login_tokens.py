"""Tokens by which an app is let in: by another session of its user (client-server §POST /login/get_token),
or by a sign-in in a browser (§Client login via SSO).

Owns their making; `comity.users.login` takes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comity.ports import Clock, Entropy
from comity.protocol.errors import forbidden
from comity.store import sessions as stored
from comity.store.database import Database, WriteTx
from comity.users.accounts import Accounts
from comity.users.login import PasswordProof
from comity.users.rate_limits import LOGIN_TOKENS, RateLimits
from comity.users.sessions import TOKEN_LENGTH, hash_of

LOGIN_TOKEN_PREFIX = "comity_login_"  # noqa: S105 - what such tokens begin with, for secret scanners


#: How long an app that a browser has sent a token to may take to use it. §Client login via SSO: around five
#: seconds; a telephone that wakes an app up for it takes that long.
SSO_TOKEN_MS = 10_000


class LoginTokens:
    """Gives them out."""

    def __init__(
        self,
        database: Database,
        accounts: Accounts,
        proof: PasswordProof,
        limits: RateLimits,
        clock: Clock,
        entropy: Entropy,
        lifetime_seconds: int,
    ) -> None:
        self._database = database
        self._accounts = accounts
        self._proof = proof
        self._limits = limits
        self._clock = clock
        self._entropy = entropy
        self._lifetime_ms = lifetime_seconds * 1000

    async def give(self, user_id: str, body: Mapping[str, Any]) -> dict[str, object]:
        """A token that is good for one login, against the user's password: the answer's body.

        It is asked for each time: no earlier proof serves. Raises 401 with flows, 403
        M_FORBIDDEN if the password was replaced meanwhile, 429 M_LIMIT_EXCEEDED.
        """
        proven = await self._proof.require("get login token", user_id, body)
        self._limits.check(LOGIN_TOKENS, user_id)
        token = LOGIN_TOKEN_PREFIX + self._entropy.token(TOKEN_LENGTH)
        now, account = self._clock.now_ms(), self._proof.account_of(proven)

        def store(tx: WriteTx) -> None:
            if not self._accounts.still_stands_in(tx, account):
                raise forbidden("The password has been replaced meanwhile")
            stored.insert_login_token(tx, hash_of(token), user_id, now, now + self._lifetime_ms)

        await self._database.write(store)
        self._proof.finish(proven)
        return {"login_token": token, "expires_in_ms": self._lifetime_ms}

    async def give_to_app(self, user_id: str) -> str:
        """A token for an app whose user has just signed in in a browser."""
        token = LOGIN_TOKEN_PREFIX + self._entropy.token(TOKEN_LENGTH)
        now = self._clock.now_ms()
        await self._database.write(
            lambda tx: stored.insert_login_token(tx, hash_of(token), user_id, now, now + SSO_TOKEN_MS)
        )
        return token

"""Tokens by which others ask this server who a user is (client-server §OpenID, server-server §OpenID)."""

from __future__ import annotations

from typing import Any

from comity.ports import Clock, Entropy
from comity.protocol.errors import MatrixError
from comity.store import openid
from comity.store.database import Database, WriteTx
from comity.users.sessions import MAX_TOKEN_CHARACTERS, hash_of

#: Who gets a token uses it at once; the specification's example lasts as long.
EXPIRES_SECONDS = 3_600
TOKEN_LENGTH = 36


class OpenId:
    """Gives tokens out, and says whom they stand for."""

    def __init__(self, database: Database, clock: Clock, entropy: Entropy, server_name: str) -> None:
        self._database = database
        self._clock = clock
        self._entropy = entropy
        self._server_name = server_name

    async def request_token(self, user_id: str) -> dict[str, Any]:
        """`POST /user/{userId}/openid/request_token`: the answer."""
        token = self._entropy.token(TOKEN_LENGTH)
        now = self._clock.now_ms()
        token_hash, until = hash_of(token), now + EXPIRES_SECONDS * 1000

        def store(tx: WriteTx) -> None:
            openid.forget_expired(tx, now)
            openid.put(tx, token_hash, user_id, until)

        await self._database.write(store)
        return {
            "access_token": token,
            "token_type": "Bearer",
            "matrix_server_name": self._server_name,
            "expires_in": EXPIRES_SECONDS,
        }

    async def user_of(self, token: str) -> str:
        """Whom a token stands for. Raises 401 M_UNKNOWN_TOKEN."""
        user_id = None
        if len(token) <= MAX_TOKEN_CHARACTERS:
            now = self._clock.now_ms()
            user_id = await self._database.look_up(lambda tx: openid.user_of(tx, hash_of(token), now))
        if user_id is None:
            raise MatrixError(401, "M_UNKNOWN_TOKEN", "The token is unknown or has expired")
        return user_id

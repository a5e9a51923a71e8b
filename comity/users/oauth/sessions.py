"""Sessions that are opened by OAuth 2.0: the same devices and tokens as by the older logins.

Owns what becomes of a grant: tokens for a device, and the note that it was OAuth 2.0 that gave them.
"""

from __future__ import annotations

from dataclasses import dataclass

from comity.ports import Clock
from comity.store import accounts
from comity.store import oauth as stored
from comity.store import sessions as stored_sessions
from comity.store.database import WriteTx
from comity.users.oauth.clients import RegisteredClient
from comity.users.oauth.errors import invalid_grant
from comity.users.sessions import Opened, Sessions


@dataclass(frozen=True, slots=True)
class Granted:
    """Tokens, and the scope that they are good for."""

    opened: Opened
    scope: str

    def told(self) -> dict[str, object]:
        """The answer to a token request (RFC 6749 §5.1)."""
        told: dict[str, object] = {
            "access_token": self.opened.access_token,
            "token_type": "Bearer",
            "scope": self.scope,
        }
        if self.opened.refresh_token is not None:
            told["refresh_token"] = self.opened.refresh_token
        if self.opened.expires_in_ms is not None:
            told["expires_in"] = self.opened.expires_in_ms // 1000
        return told


class GrantedSessions:
    """Opens sessions for grants, in transactions of the grants' own."""

    def __init__(self, sessions: Sessions, clock: Clock) -> None:
        self._sessions = sessions
        self._clock = clock

    def open_in(
        self,
        tx: WriteTx,
        client: RegisteredClient,
        user_id: str,
        device_id: str,
        scope: str,
        code_hash: bytes | None = None,
    ) -> Granted:
        """Log a device in: one that exists goes on under its name, and its other tokens end.

        Raises OAuthError invalid_grant if the account is locked or deactivated.
        """
        check_account_in(tx, user_id)
        opened, store = self._sessions.prepare(user_id, device_id, client.metadata.name, True)
        store(tx)
        now = self._clock.now_ms()
        session = stored.OAuthSession(client.client_id, scope, code_hash)
        stored.put_session(tx, user_id, device_id, session, now)
        stored.touch_client(tx, client.client_id, now)
        return Granted(opened, scope)


def check_account_in(tx: WriteTx, user_id: str) -> None:
    """Raise OAuthError invalid_grant for an account that nobody may log in to."""
    account = accounts.user(tx, user_id)
    if account is None or account.deactivated:
        raise invalid_grant("The account has been deactivated")
    if stored_sessions.moderation(tx, user_id)[1]:
        raise invalid_grant("The account has been locked")

"""A new password for who has forgotten theirs: an e-mail address of the account is the proof.

client-server §POST /account/password with m.login.email.identity. Owns that way alone; the one with the old
password is `comity.users.management`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comity.ports import Clock
from comity.protocol.errors import MatrixError
from comity.store import third_party
from comity.store.database import Database, WriteTx
from comity.store.validation import ValidationSession
from comity.users.accounts import Accounts
from comity.users.interactive import EMAIL, Interactive
from comity.users.rate_limits import PROOFS, RateLimits
from comity.users.sessions import Sessions
from comity.users.validation import RESET, NotProvenYetError, Validations, auth_failed


class PasswordResets:
    """Sets passwords anew."""

    def __init__(
        self,
        database: Database,
        accounts: Accounts,
        sessions: Sessions,
        interactive: Interactive,
        validations: Validations,
        limits: RateLimits,
        clock: Clock,
    ) -> None:
        self.enabled = validations.enabled
        self._clock = clock
        self._database = database
        self._accounts = accounts
        self._sessions = sessions
        self._interactive = interactive
        self._validations = validations
        self._limits = limits

    async def request_token(self, body: Mapping[str, Any], address: str) -> dict[str, object]:
        """`POST /account/password/email/requestToken`. Raises as `Validations.request`."""
        return await self._validations.request(RESET, body, address)

    def is_meant(self, body: Mapping[str, Any]) -> bool:
        """Whether a request proves an address and no password, though it has a token."""
        auth = body.get("auth")
        return self.enabled and isinstance(auth, dict) and auth.get("type") == EMAIL

    async def reset(
        self,
        user_id: str | None,
        device_id: str | None,
        body: Mapping[str, Any],
        password: str,
        address: str,
        *,
        logout: bool,
    ) -> None:
        """Set the password of the account whose address is proven; of `user_id` alone where that is given.

        Every device but `device_id` is logged out if `logout`. Raises 401 with flows, 401
        M_MISSING_TOKEN where no e-mail is sent, 400 M_INVALID_PARAM, M_THREEPID_AUTH_FAILED.
        """
        if not self.enabled:
            raise MatrixError(401, "M_MISSING_TOKEN", "This request needs an access token")

        async def check(stage: str, auth: Mapping[str, Any]) -> tuple[str, ValidationSession]:
            # COMPAT: the older name of the member.
            credentials = auth.get("threepid_creds") or auth.get("threepidCreds")
            return await self._owner(credentials, user_id, address)

        operation = f"reset password {user_id or ''}"
        proven = await self._interactive.require(operation, [[EMAIL]], body, check)
        found = proven.completed[EMAIL]
        assert isinstance(found, tuple)
        owner, session = found
        await self._set(owner, session, password, device_id, logout=logout)
        self._interactive.finish(proven)

    # -- by a browser

    async def begin(self, email: str, secret: str, address: str) -> str:
        """A letter for who sits at the browser that `secret` stands for: the id of what proves the address.

        Each time another letter. Raises as `request_token`.
        """
        body = {"client_secret": secret, "email": email, "send_attempt": self._clock.now_ms()}
        return str((await self.request_token(body, address))["sid"])

    async def complete(self, sid: str, secret: str, password: str, address: str) -> str:
        """Set the password of whom the letter went to, once they have confirmed it: the user id.

        Every device is logged out. Raises 400 M_THREEPID_AUTH_FAILED, M_INVALID_PARAM, NotProvenYetError.
        """
        owner, session = await self._owner({"sid": sid, "client_secret": secret}, None, address)
        await self._set(owner, session, password, None, logout=True)
        return owner

    # -- either way

    async def _owner(
        self, credentials: object, user_id: str | None, address: str
    ) -> tuple[str, ValidationSession]:
        """Whose account the address belongs to, and its proof; of `user_id` alone where that is given.

        Raises as `Validations.proven`, 429 M_LIMIT_EXCEEDED.
        """
        try:
            session = await self._validations.proven(RESET, credentials)
        except NotProvenYetError:
            raise
        except MatrixError:
            self._limits.check(PROOFS, address)
            raise
        owner = await self._database.look_up(
            lambda tx: third_party.owner(tx, session.medium, session.address)
        )
        if owner is None or user_id not in (None, owner):
            raise auth_failed()
        return owner, session

    async def _set(
        self, owner: str, session: ValidationSession, password: str, device_id: str | None, *, logout: bool
    ) -> None:
        def along(tx: WriteTx) -> None:
            self._validations.take_in(tx, session)
            if third_party.owner(tx, session.medium, session.address) != owner:
                raise auth_failed()  # the address was taken from the account meanwhile
            if logout:
                self._sessions.close_all_in(tx, owner, but=device_id)
            else:
                self._sessions.withdraw_login_tokens_in(tx, owner)

        await self._accounts.reset_password(owner, password, along=along)

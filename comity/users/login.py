"""Login by password (client-server §Login), and the password stage of other requests.

Owns the forms in which a client says who it is. Sessions and password hashes are made and
checked by `comity.users.sessions` and `comity.users.accounts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comity.protocol.errors import MatrixError, bad_json, forbidden, missing_param
from comity.users.accounts import Accounts
from comity.users.interactive import PASSWORD, Interactive, Proven
from comity.users.rate_limits import LOGIN_BY_ACCOUNT, LOGIN_BY_ADDRESS, PROOFS, RateLimits
from comity.users.sessions import Opened, Sessions

#: Longer than any user id, so that no more of it goes further.
MAX_NAME_CHARACTERS = 512


class Login:
    """Opens sessions for those who know the password."""

    def __init__(self, accounts: Accounts, sessions: Sessions, limits: RateLimits) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._limits = limits

    def flows(self) -> list[dict[str, object]]:
        """The `flows` of `GET /login`."""
        return [{"type": PASSWORD}]

    async def log_in(self, body: Mapping[str, Any], address: str) -> Opened:
        """`POST /login`: a new session for the account that the body names and opens.

        Raises 400 M_MISSING_PARAM, M_BAD_JSON, M_UNKNOWN (of the type), M_INVALID_PARAM; 403
        M_FORBIDDEN, M_USER_DEACTIVATED; 429 M_LIMIT_EXCEEDED.
        """
        kind = body.get("type")
        if kind is None:
            raise missing_param("The request body lacks type")
        if kind != PASSWORD:
            raise MatrixError(400, "M_UNKNOWN", "This login type is not one of the flows")
        password = body.get("password")
        if password is None:
            raise missing_param("The request body lacks password")
        if not isinstance(password, str):
            raise bad_json("password is not a string")
        user_id = await self.identified(body)
        self._limits.check(LOGIN_BY_ADDRESS, address)
        self._limits.check(LOGIN_BY_ACCOUNT, user_id or "")
        account = await self._accounts.check_password(user_id, password)
        return await self._sessions.open(
            account.user_id, body.get("device_id"), body.get("initial_device_display_name")
        )

    async def identified(self, body: Mapping[str, Any]) -> str | None:
        """Whom `identifier`, or the older members of its place, means (client-server §Identifier types).

        None if it can be nobody of ours: a third-party identifier, another server's user.
        Raises 400 M_MISSING_PARAM, M_BAD_JSON or M_UNKNOWN.
        """
        identifier = body.get("identifier")
        if identifier is None:
            # Deprecated forms: `user`, or `medium` and `address`.
            if "user" not in body:
                if "medium" in body and "address" in body:
                    return None
                raise missing_param("The request body lacks identifier")
            return await self._named(body["user"])
        if not isinstance(identifier, dict):
            raise bad_json("identifier is not a JSON object")
        kind = identifier.get("type")
        if kind == "m.id.user":
            if "user" not in identifier:
                raise missing_param("identifier lacks user")
            return await self._named(identifier["user"])
        if kind in ("m.id.thirdparty", "m.id.phone") or (kind is None and "medium" in identifier):
            return None
        raise MatrixError(400, "M_UNKNOWN", "The identifier is of an unknown type")

    async def _named(self, name: object) -> str | None:
        if not isinstance(name, str):
            raise bad_json("user is not a string")
        return await self._accounts.resolve(name) if name and len(name) <= MAX_NAME_CHARACTERS else None


class PasswordProof:
    """The one stage that logged-in users are asked for before what cannot be undone."""

    def __init__(
        self, interactive: Interactive, accounts: Accounts, login: Login, limits: RateLimits
    ) -> None:
        self._interactive = interactive
        self._accounts = accounts
        self._login = login
        self._limits = limits

    async def require(self, operation: str, user_id: str, auth: object) -> Proven:
        """Return once `user_id` has given their password again, for `operation`.

        Raises as `Interactive.require`.
        """

        async def check(stage: str, given: Mapping[str, Any]) -> None:
            password = given.get("password")
            if not isinstance(password, str):
                raise missing_param("auth lacks password")
            if ("identifier" in given or "user" in given) and await self._login.identified(given) != user_id:
                raise forbidden("The password of the user who asks is needed")
            self._limits.check(PROOFS, user_id)
            await self._accounts.check_password(user_id, password)

        return await self._interactive.require(f"{operation} {user_id}", [[PASSWORD]], auth, check)

    def finish(self, proven: Proven) -> None:
        """The operation is done."""
        self._interactive.finish(proven)

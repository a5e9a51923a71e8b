"""Registration by the people themselves (client-server §Account registration).

Owns who may register, and who may be a guest. What they must do for it is `comity.users.welcome`'s
affair; accounts are made by `comity.users.accounts`; operators' ways around this are `shared_secret`
and `administration`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from comity.config import Registration as RegistrationConfig
from comity.protocol.errors import bad_json, forbidden, invalid_param, missing_param
from comity.store.database import WriteTx
from comity.users.accounts import Accounts
from comity.users.interactive import EMAIL, Interactive
from comity.users.rate_limits import REGISTRATION, REGISTRATION_QUESTIONS, RateLimits
from comity.users.sessions import Opened, Sessions
from comity.users.welcome import Welcome


@dataclass(frozen=True, slots=True)
class Registered:
    """A new account, and the session that was opened with it, if one was."""

    user_id: str
    session: Opened | None


class Registration:
    """Makes accounts for whom the configuration lets in."""

    def __init__(
        self,
        config: RegistrationConfig,
        accounts: Accounts,
        sessions: Sessions,
        interactive: Interactive,
        limits: RateLimits,
        welcome: Welcome,
    ) -> None:
        self._config = config
        self._welcome = welcome
        self._accounts = accounts
        self._sessions = sessions
        self._interactive = interactive
        self._limits = limits

    def _check_open(self) -> None:
        if not self._config.enabled:
            raise forbidden("Registration is not open on this server")

    async def register(self, body: Mapping[str, Any], kind: str, address: str) -> Registered:
        """`POST /register`. `kind` is the query parameter, `address` where the request came from.

        Raises 401 with flows (AuthenticationNeededError); 400 M_USER_IN_USE, M_INVALID_USERNAME,
        M_BAD_JSON, M_MISSING_PARAM, M_INVALID_PARAM, M_THREEPID_IN_USE, M_THREEPID_AUTH_FAILED; 403
        M_FORBIDDEN; 429 M_LIMIT_EXCEEDED.
        """
        if kind == "guest":
            return await self._register_guest(body, address)
        if kind != "user":
            raise invalid_param("kind is neither user nor guest")
        if body.get("type") == "m.login.application_service":
            raise forbidden("No application service is registered here")
        self._check_open()
        self._limits.check(REGISTRATION_QUESTIONS, address)
        username, password = _optional(body, "username"), _optional(body, "password")
        guest_token = _optional(body, "guest_access_token")
        inhibit_login = body.get("inhibit_login", False)
        if not isinstance(inhibit_login, bool):
            raise bad_json("inhibit_login is not a boolean")
        if guest_token is not None:
            user_id = await self._guest(guest_token, username, address)
        else:
            user_id = self._new_user_id(username)
            await self._accounts.check_available(user_id)
        if body.get("auth") is not None:
            if password is None and inhibit_login:
                raise missing_param("An account without a password needs a session: inhibit_login is true")
            if not _asks_for_email(body):
                self._limits.check(REGISTRATION, address)
        # A password that is refused may be replaced in the session that stands.
        asked = {name: value for name, value in body.items() if name != "password"}
        check = partial(self._welcome.check, address=address)
        needed = self._welcome.requirements
        proven = await self._interactive.require("register", needed.flows, asked, check, params=needed.params)
        if _asks_for_email(body):
            self._limits.check(REGISTRATION, address)
        opened: Opened | None = None
        store_session: Callable[[WriteTx], None] | None = None
        if not inhibit_login:
            opened, store_session = self._sessions.prepare(
                user_id,
                body.get("device_id"),
                body.get("initial_device_display_name"),
                body.get("refresh_token"),
            )

        def along(tx: WriteTx) -> None:
            self._welcome.complete_in(tx, proven, user_id)
            if guest_token is not None:
                self._sessions.reread_in(tx, user_id)
            if store_session is not None:
                store_session(tx)

        if guest_token is not None:
            await self._accounts.upgrade_guest(user_id, password, along=along)
        else:
            await self._accounts.create(user_id, password, along=along)
        self._interactive.finish(proven)
        return Registered(user_id, opened)

    def _new_user_id(self, username: str | None) -> str:
        if username is None:
            return self._accounts.generated_user_id()
        return self._accounts.new_user_id(username)

    # -- guests (client-server §Guest Access)

    async def _register_guest(self, body: Mapping[str, Any], address: str) -> Registered:
        """An account of its own for somebody who proves nothing and names nothing but their device."""
        if not self._config.guests:
            raise forbidden("This server has no guest accounts")
        self._limits.check(REGISTRATION, address)
        user_id = self._accounts.generated_user_id()
        # Everything else in the body is to be ignored.
        opened, store = self._sessions.prepare(user_id, display_name=body.get("initial_device_display_name"))
        await self._accounts.create_guest(user_id, along=store)
        return Registered(user_id, opened)

    async def _guest(self, token: str, username: str | None, address: str) -> str:
        """The user id of the guest who wants a full account, and who names themselves beside the token."""
        if username is None:
            raise missing_param("Whoever was a guest before names their user name beside guest_access_token")
        session = await self._sessions.authenticate(token, address)
        if session is None or not session.guest:
            raise forbidden("guest_access_token is no token of a guest")
        if session.user_id not in (username, f"@{username}:{self._accounts.server_name}"):
            raise invalid_param("username is not that of the guest whose token is guest_access_token")
        return session.user_id

    # -- what is asked on the way

    async def request_token(self, body: Mapping[str, Any], address: str) -> dict[str, object]:
        """`POST /register/email/requestToken`. Raises as `Validations.request`, and 403 M_FORBIDDEN."""
        self._check_open()
        return await self._welcome.request_token(body, address)

    async def check_available(self, username: str, address: str) -> None:
        """`GET /register/available`. Raises 400 M_USER_IN_USE or M_INVALID_USERNAME, 403, 429."""
        self._check_open()
        self._limits.check(REGISTRATION_QUESTIONS, address)
        await self._accounts.check_available(self._accounts.new_user_id(username))

    async def is_valid_token(self, token: str, address: str) -> bool:
        """Whether a registration token is good. Raises 403 M_FORBIDDEN, 429 M_LIMIT_EXCEEDED."""
        self._check_open()
        self._limits.check(REGISTRATION_QUESTIONS, address)
        return await self._welcome.is_valid_token(token)


def _asks_for_email(body: Mapping[str, Any]) -> bool:
    """Whether a client asks if an e-mail address is confirmed meanwhile: it does so every few seconds."""
    auth = body.get("auth")
    return isinstance(auth, dict) and auth.get("type") == EMAIL


def _optional(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise bad_json(f"{name} is not a string")
    return value

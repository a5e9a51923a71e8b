"""Login by password or token (client-server §Login), and the password stage of other requests.

Owns the forms in which a client says who it is. Sessions and password hashes are made and
checked by `comity.users.sessions` and `comity.users.accounts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from comity.ports import Clock
from comity.protocol.errors import MatrixError, bad_json, forbidden, missing_param
from comity.protocol.third_party_ids import EMAIL, canonical
from comity.store import sessions as stored
from comity.store import third_party
from comity.store.accounts import User
from comity.store.database import Database, WriteTx
from comity.users.accounts import Accounts, wrong_password
from comity.users.interactive import PASSWORD, SSO, Interactive, Proven, RefusedError
from comity.users.rate_limits import LOGIN_BY_ACCOUNT, LOGIN_BY_ADDRESS, PROOFS, RateLimits
from comity.users.sessions import MAX_TOKEN_CHARACTERS, Opened, Sessions, hash_of, user_locked
from comity.users.upstream.links import Links

TOKEN = "m.login.token"  # noqa: S105 - the name of a login type
#: A password's hash may be renewed by another login between check and use; not twice.
ATTEMPTS_AT_A_MOVING_HASH = 2

#: Longer than any user id, so that no more of it goes further.
MAX_NAME_CHARACTERS = 512


class Login:
    """Opens sessions for those who know the password, or hold a login token."""

    def __init__(
        self,
        database: Database,
        accounts: Accounts,
        sessions: Sessions,
        limits: RateLimits,
        clock: Clock,
        sso_flow: Mapping[str, object] | None = None,
    ) -> None:
        """`sso_flow` is what `GET /login` tells of `m.login.sso`; None if there is none."""
        self._sso_flow = sso_flow
        self._database = database
        self._accounts = accounts
        self._sessions = sessions
        self._limits = limits
        self._clock = clock

    def flows(self) -> list[dict[str, object]]:
        """The `flows` of `GET /login`."""
        flows: list[dict[str, object]] = [{"type": PASSWORD}, {"type": TOKEN, "get_login_token": True}]
        if self._sso_flow is not None:
            flows.insert(1, {"type": SSO, **self._sso_flow})
        return flows

    async def has_password(self, user_id: str) -> bool:
        """Whether there is a password that lets that user in."""
        account = await self._accounts.find(user_id)
        return account is not None and account.password_hash is not None

    async def log_in(self, body: Mapping[str, Any], address: str) -> Opened:
        """`POST /login`: a new session for the account that the body names and opens.

        Raises 400 M_MISSING_PARAM, M_BAD_JSON, M_UNKNOWN (of the type), M_INVALID_PARAM; 401
        M_USER_LOCKED; 403 M_FORBIDDEN, M_USER_DEACTIVATED; 429 M_LIMIT_EXCEEDED.
        """
        kind = body.get("type")
        if kind is None:
            raise missing_param("The request body lacks type")
        if kind == TOKEN:
            return await self._by_token(body, address)
        if kind != PASSWORD:
            raise MatrixError(400, "M_UNKNOWN", "This login type is not one of the flows")
        password = _text(body, "password")
        # In a storm of logins, those that are turned away cost next to nothing.
        self._limits.check(LOGIN_BY_ADDRESS, address)
        self._accounts.check_room_for_passwords()
        user_id = await self.identified(body)
        self._limits.check(LOGIN_BY_ACCOUNT, user_id or "")
        for _ in range(ATTEMPTS_AT_A_MOVING_HASH):
            account = await self.check_password(user_id, password, address)
            opened, store = self._prepare(account.user_id, body)
            if await self._database.write(partial(self._open_in, account=account, store=store)):
                return opened
        raise wrong_password()

    def _prepare(self, user_id: str, body: Mapping[str, Any]) -> tuple[Opened, Callable[[WriteTx], None]]:
        return self._sessions.prepare(
            user_id,
            body.get("device_id"),
            body.get("initial_device_display_name"),
            body.get("refresh_token"),
        )

    def _open_in(self, tx: WriteTx, *, account: User, store: Callable[[WriteTx], None]) -> bool:
        """A login that overlaps a change of the password must not open a session behind it."""
        if not self._accounts.still_stands_in(tx, account):
            return False
        if stored.moderation(tx, account.user_id)[1]:
            raise user_locked()
        store(tx)
        return True

    async def check_person(self, name: str, password: str, address: str) -> User:
        """The account of who writes a name and a password on a page: counted as a login.

        Raises as `check_password`.
        """
        identifier = {"type": "m.id.user", "user": name}
        if "@" in name and not name.startswith("@"):
            identifier = {"type": "m.id.thirdparty", "medium": EMAIL, "address": name}
        user_id = await self.identified({"identifier": identifier})
        self._limits.check(LOGIN_BY_ADDRESS, address)
        self._limits.check(LOGIN_BY_ACCOUNT, user_id or "")
        return await self.check_password(user_id, password, address)

    async def check_password(self, user_id: str | None, password: str, address: str) -> User:
        """The account that this password opens; whoever guesses waits longer each time.

        `address` is where the request came from, "" for one of the account's own sessions.
        Raises as `Accounts.check_password`, and 429 M_LIMIT_EXCEEDED.
        """
        # An account is not closed to its owner by who guesses elsewhere: failures count with the address.
        whose = [(user_id or "nobody", address)] + ([("", address)] if address else [])
        self._limits.check_attempt(*whose)
        try:
            account = await self._accounts.check_password(user_id, password)
        except MatrixError as error:
            if error.status == 403:
                self._limits.note_attempt(*whose, failed=True)
            raise
        self._limits.note_attempt(*whose, failed=False)
        return account

    # -- by a token that another session has asked for

    async def _by_token(self, body: Mapping[str, Any], address: str) -> Opened:
        token = _text(body, "token")
        self._limits.check(LOGIN_BY_ADDRESS, address)
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise _bad_login_token()
        token_hash, now = hash_of(token), self._clock.now_ms()
        user_id = await self._database.look_up(lambda tx: stored.login_token_owner(tx, token_hash, now))
        if user_id is None:
            raise _bad_login_token()
        opened, store = self._prepare(user_id, body)

        def take(tx: WriteTx) -> None:
            if not stored.take_login_token(tx, token_hash):
                raise _bad_login_token()
            if stored.moderation(tx, user_id)[1]:
                raise user_locked()
            store(tx)

        await self._database.write(take)
        return opened

    async def identified(self, body: Mapping[str, Any]) -> str | None:
        """Whom `identifier`, or the older members of its place, means (client-server §Identifier types).

        None if it can be nobody of ours: an address that is no account's, another server's user.
        Raises 400 M_MISSING_PARAM, M_BAD_JSON or M_UNKNOWN.
        """
        identifier = body.get("identifier")
        if identifier is None:
            # Deprecated forms: `user`, or `medium` and `address`.
            if "user" not in body:
                if "medium" in body and "address" in body:
                    return await self._addressed(body)
                raise missing_param("The request body lacks identifier")
            return await self._named(body["user"])
        if not isinstance(identifier, dict):
            raise bad_json("identifier is not a JSON object")
        kind = identifier.get("type")
        if kind == "m.id.user":
            if "user" not in identifier:
                raise missing_param("identifier lacks user")
            return await self._named(identifier["user"])
        if kind == "m.id.thirdparty" or (kind is None and "medium" in identifier):
            return await self._addressed(identifier)
        if kind == "m.id.phone":
            return None  # no number was ever confirmed here
        raise MatrixError(400, "M_UNKNOWN", "The identifier is of an unknown type")

    async def _addressed(self, identifier: Mapping[str, Any]) -> str | None:
        """Whose a third-party identifier is (client-server §Third-party ID)."""
        medium, address = _text(identifier, "medium"), _text(identifier, "address")
        try:
            found = canonical(medium, address)
        except ValueError:
            return None
        return await self._database.look_up(lambda tx: third_party.owner(tx, medium, found))

    async def _named(self, name: object) -> str | None:
        if not isinstance(name, str):
            raise bad_json("user is not a string")
        return await self._accounts.resolve(name) if name and len(name) <= MAX_NAME_CHARACTERS else None


class PasswordProof:
    """The one stage that logged-in users are asked for before what cannot be undone: their password, or
    another sign-in at a provider that they are linked to."""

    def __init__(
        self, interactive: Interactive, login: Login, limits: RateLimits, links: Links | None = None
    ) -> None:
        self._links = links
        self._interactive = interactive
        self._login = login
        self._limits = limits

    async def require(self, operation: str, user_id: str, body: Mapping[str, Any]) -> Proven:
        """Return once `user_id` has proven again who they are, for `operation` with that `body`.

        Raises as `Interactive.require`.
        """

        async def check(stage: str, given: Mapping[str, Any]) -> User:
            if stage == SSO:
                raise forbidden("This is proven in a browser, at the fallback page of m.login.sso")
            password = given.get("password")
            if not isinstance(password, str):
                raise missing_param("auth lacks password")
            if ("identifier" in given or "user" in given) and await self._login.identified(given) != user_id:
                raise _not_theirs(given.get("identifier"))
            self._limits.check(PROOFS, user_id)
            return await self._login.check_password(user_id, password, "")

        return await self._interactive.require(
            f"{operation} {user_id}", await self._flows(user_id), body, check, user_id=user_id
        )

    async def _flows(self, user_id: str) -> list[list[str]]:
        linked = self._links is not None and bool(await self._links.usable(user_id))
        if not linked:
            return [[PASSWORD]]
        return [[PASSWORD], [SSO]] if await self._login.has_password(user_id) else [[SSO]]

    def account_of(self, proven: Proven) -> User:
        """The account of who has proven it, with the hash of its password at that moment."""
        account = proven.completed.get(PASSWORD) or proven.completed.get(SSO)
        assert isinstance(account, User)
        return account

    def finish(self, proven: Proven) -> None:
        """The operation is done."""
        self._interactive.finish(proven)


def _not_theirs(identifier: object) -> MatrixError:
    """Somebody else, or nobody, is named where users prove who they are.

    client-server §User-Interactive Authentication API, Password-based: of addresses that are not known, 403.
    Those of others are told alike, for whose they are is nobody's affair.
    """
    text = "The password of the user who asks is needed"
    is_user = not isinstance(identifier, dict) or identifier.get("type") == "m.id.user"
    return forbidden(text) if is_user else RefusedError(403, "M_FORBIDDEN", text)


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if value is None:
        raise missing_param(f"The request lacks {name}")
    if not isinstance(value, str):
        raise bad_json(f"{name} is not a string")
    return value


def _bad_login_token() -> MatrixError:
    return forbidden("The login token is unknown, used or over")

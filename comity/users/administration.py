"""What the operator does with accounts at the command line.

The database is opened by the caller and may be in use by a running server: nothing here
needs that server's memory, and nothing here gives out positions. What needs them (a device goes, a
room is left) is left to the server as an errand (`comity.users.errands`).
"""

from __future__ import annotations

from dataclasses import dataclass

from comity.ports import Clock, Entropy, Offload
from comity.protocol.errors import invalid_param, not_found
from comity.protocol.identifiers import is_opaque
from comity.store import accounts as stored
from comity.store import errands, server_notices, upstream
from comity.store import sessions as stored_sessions
from comity.store.accounts import Device, RegistrationToken, User
from comity.store.database import Database, Tx, WriteTx
from comity.store.errands import Errand
from comity.store.server_notices import Notice
from comity.store.sessions import Connection
from comity.store.upstream import Link
from comity.users.accounts import Accounts
from comity.users.foreign_hashes import check_hash
from comity.users.moderation import set_standing_in
from comity.users.passwords import Cost, Passwords
from comity.users.text import checked_text
from comity.users.welcome import MAX_REGISTRATION_TOKEN_CHARACTERS

GENERATED_TOKEN_LENGTH = 20
NOTICE_ID_LENGTH = 20
#: One event holds it, with all that belongs to an event.
MAX_NOTICE_BYTES = 32_768


@dataclass(frozen=True, slots=True)
class Described:
    """An account as the operator sees it; `errands` are what the server has still to do for it."""

    user: User
    suspended: bool
    locked: bool
    devices: list[Device]
    connections: list[Connection]
    errands: list[Errand]
    links: list[Link]


class Administration:
    """Accounts and registration tokens, for who owns the machine."""

    def __init__(
        self,
        database: Database,
        offload: Offload,
        clock: Clock,
        entropy: Entropy,
        server_name: str,
        cost: Cost | None = None,
    ) -> None:
        """`cost` is what the hash of a new password takes."""
        self._database = database
        self._clock = clock
        self._entropy = entropy
        self._passwords = Passwords(offload, entropy, cost)
        self._accounts = Accounts(database, self._passwords, clock, entropy, server_name)

    async def _known(self, name: str) -> str:
        """The user id that a localpart or a user id means. Raises MatrixError 404 M_NOT_FOUND."""
        user_id = await self._accounts.resolve(name)
        if user_id is None or not await self._accounts.exists(user_id):
            raise not_found(f"There is no user {name} on this server")
        return user_id

    async def add_user(
        self, name: str, password: str | None, *, admin: bool = False, brought: str | None = None
    ) -> str:
        """Create an account; `name` is a localpart or a user id of this server. The user id.

        `brought` is a hash from elsewhere, in the place of a password.
        Raises MatrixError 400 M_INVALID_USERNAME, M_USER_IN_USE or M_INVALID_PARAM.
        """
        localpart = name
        if name.startswith("@") and self._accounts.is_local(name):
            localpart = name[1:].partition(":")[0]
        user_id = self._accounts.new_user_id(localpart)
        if brought is not None:
            check_hash(brought)
        await self._accounts.create(user_id, password, admin=admin, brought=brought)
        return user_id

    async def set_password(
        self, name: str, password: str | None, *, brought: str | None = None, log_out: bool = False
    ) -> str:
        """Give an account another password, or a `brought` hash of one; the user id.

        Its sessions go on unless it is to `log_out`. Raises MatrixError 404 M_NOT_FOUND, 400 M_INVALID_PARAM.
        """
        user_id = await self._known(name)
        if brought is not None:
            check_hash(brought)
        password_hash = brought if password is None else await self._passwords.hash(password)

        def store(tx: WriteTx) -> None:
            stored.set_password_hash(tx, user_id, password_hash)
            stored_sessions.delete_login_tokens(tx, user_id)
            if log_out:
                self._end_tokens_in(tx, user_id)
                errands.put(tx, user_id, errands.LOGOUT, self._clock.now_ms())

        await self._database.write(store)
        return user_id

    @staticmethod
    def _end_tokens_in(tx: WriteTx, user_id: str) -> None:
        """End every token; a running server believes none within seconds."""
        stored_sessions.delete_login_tokens(tx, user_id)
        for device in stored.devices(tx, user_id):
            stored_sessions.delete_tokens(tx, user_id, device.device_id)

    async def log_out(self, name: str) -> str:
        """End every session of an account; the user id. Raises MatrixError 404 M_NOT_FOUND."""
        user_id = await self._known(name)

        def store(tx: WriteTx) -> None:
            self._end_tokens_in(tx, user_id)
            errands.put(tx, user_id, errands.LOGOUT, self._clock.now_ms())

        await self._database.write(store)
        return user_id

    async def deactivate(self, name: str, *, erase: bool) -> str:
        """End an account for good; the user id. Raises MatrixError 404 M_NOT_FOUND.

        With `erase`, what the user said is told redacted to whoever comes later (client-server §Account
        deactivation). The server does what is left: rooms are left, devices and their keys go.
        """
        user_id = await self._known(name)

        def store(tx: WriteTx) -> None:
            stored.deactivate(tx, user_id)
            self._end_tokens_in(tx, user_id)
            errands.put(tx, user_id, errands.END, self._clock.now_ms(), erase=erase)

        await self._database.write(store)
        return user_id

    async def set_admin(self, name: str, *, admin: bool) -> str:
        """Make an account an administrator's, or not; the user id. Raises MatrixError 404 M_NOT_FOUND."""
        user_id = await self._known(name)
        await self._database.write(lambda tx: stored.set_admin(tx, user_id, admin=admin))
        return user_id

    async def describe(self, name: str) -> Described:
        """An account, ended ones too. Raises MatrixError 404 M_NOT_FOUND."""
        user_id = await self._accounts.resolve(name)

        def read(tx: Tx) -> Described | None:
            user = None if user_id is None else stored.user(tx, user_id)
            if user is None:
                return None
            return Described(
                user,
                *stored_sessions.moderation(tx, user.user_id),
                stored.devices(tx, user.user_id),
                stored_sessions.connections(tx, user.user_id),
                errands.of(tx, user.user_id),
                upstream.of_user(tx, user.user_id),
            )

        described = await self._database.read(read)
        if described is None:
            raise not_found(f"There is no user {name} on this server")
        return described

    async def users(self) -> list[User]:
        """Every account, by user id."""
        return await self._database.read(stored.users)

    async def standings(self) -> dict[str, tuple[bool, bool]]:
        """user id -> (whether suspended, whether locked), of those who are."""
        return await self._database.read(stored_sessions.moderated)

    async def set_standing(
        self, name: str, *, suspended: bool | None = None, locked: bool | None = None
    ) -> str:
        """Suspend or lock an account, or end either; the user id. A running server knows it in seconds.

        `name` is a localpart or a user id; administrators may be among them: the machine's owner
        stands above all. Raises MatrixError 404 M_NOT_FOUND.
        """
        user_id = await self._known(name)
        await self._database.write(
            lambda tx: set_standing_in(tx, user_id, suspended=suspended, locked=locked)
        )
        return user_id

    async def links(self) -> dict[str, list[Link]]:
        """user id -> the links by which its user signs in through other providers."""
        found: dict[str, list[Link]] = {}
        for link in await self._database.read(upstream.every):
            found.setdefault(link.user_id, []).append(link)
        return found

    async def unlink(self, name: str, issuer: str) -> tuple[str, int]:
        """End the links of an account to one provider; the user id, and how many there were.

        `name` is a localpart or a user id. Raises MatrixError 404 M_NOT_FOUND.
        """
        user_id = await self._accounts.resolve(name)
        if user_id is None or await self._accounts.find(user_id) is None:
            raise not_found(f"There is no user {name} on this server")
        gone = await self._database.write(lambda tx: upstream.delete_of_issuer(tx, user_id, issuer))
        return user_id, gone

    async def add_notice(self, name: str, body: str) -> str:
        """Have the server tell a user something (`comity.users.server_notices`); the user id.

        `name` is a localpart or a user id. Raises MatrixError 404 M_NOT_FOUND, 400 M_INVALID_PARAM.
        """
        checked_text(body, "The text", most=MAX_NOTICE_BYTES)
        user_id = await self._known(name)
        notice = Notice(self._entropy.token(NOTICE_ID_LENGTH), user_id, body)
        now = self._clock.now_ms()
        await self._database.write(lambda tx: server_notices.put(tx, notice, now))
        return user_id

    async def add_registration_token(
        self, token: str | None = None, *, uses_allowed: int | None = None, expires_at: int | None = None
    ) -> str:
        """Create a registration token: `token`, or one that is made up. Times in ms.

        Raises MatrixError 400 M_INVALID_PARAM if it exists or is outside the grammar.
        """
        chosen = token or self._entropy.token(GENERATED_TOKEN_LENGTH)
        if not is_opaque(chosen) or len(chosen) > MAX_REGISTRATION_TOKEN_CHARACTERS:
            raise invalid_param(
                f"A registration token is 1 to {MAX_REGISTRATION_TOKEN_CHARACTERS} of A-Z a-z 0-9 . _ ~ -"
            )
        if uses_allowed is not None and uses_allowed < 1:
            raise invalid_param("A registration token may be used at least once")
        if not await self._database.write(
            lambda tx: stored.put_registration_token(tx, chosen, uses_allowed, expires_at)
        ):
            raise invalid_param("There is such a registration token already")
        return chosen

    async def delete_registration_token(self, token: str) -> None:
        """Let nobody register with a token any more. Raises MatrixError 404 M_NOT_FOUND."""
        if not await self._database.write(lambda tx: stored.delete_registration_token(tx, token)):
            raise not_found("There is no such registration token")

    async def registration_tokens(self) -> list[RegistrationToken]:
        """Every registration token."""
        return await self._database.read(stored.registration_tokens)

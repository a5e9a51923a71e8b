"""What the operator does with accounts at the command line.

The database is opened by the caller and may be in use by a running server: nothing here
needs that server's memory, and nothing here gives out positions.
"""

from __future__ import annotations

from comity.ports import Clock, Entropy, Offload
from comity.protocol.errors import invalid_param, not_found
from comity.protocol.identifiers import is_opaque
from comity.store import accounts as stored
from comity.store import server_notices
from comity.store import sessions as stored_sessions
from comity.store.accounts import RegistrationToken, User
from comity.store.database import Database
from comity.store.server_notices import Notice
from comity.users.accounts import Accounts
from comity.users.moderation import set_standing_in
from comity.users.passwords import Cost, Passwords
from comity.users.registration import MAX_REGISTRATION_TOKEN_CHARACTERS
from comity.users.text import checked_text

GENERATED_TOKEN_LENGTH = 20
NOTICE_ID_LENGTH = 20
#: One event holds it, with all that belongs to an event.
MAX_NOTICE_BYTES = 32_768


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
        passwords = Passwords(offload, entropy, cost)
        self._accounts = Accounts(database, passwords, clock, entropy, server_name)

    async def add_user(self, name: str, password: str, *, admin: bool = False) -> str:
        """Create an account; `name` is a localpart or a user id of this server. The user id.

        Raises MatrixError 400 M_INVALID_USERNAME, M_USER_IN_USE or M_INVALID_PARAM.
        """
        localpart = name
        if name.startswith("@") and self._accounts.is_local(name):
            localpart = name[1:].partition(":")[0]
        user_id = self._accounts.new_user_id(localpart)
        await self._accounts.create(user_id, password, admin=admin)
        return user_id

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
        user_id = await self._accounts.resolve(name)
        if user_id is None or not await self._accounts.exists(user_id):
            raise not_found(f"There is no user {name} on this server")
        await self._database.write(
            lambda tx: set_standing_in(tx, user_id, suspended=suspended, locked=locked)
        )
        return user_id

    async def add_notice(self, name: str, body: str) -> str:
        """Have the server tell a user something (`comity.users.server_notices`); the user id.

        `name` is a localpart or a user id. Raises MatrixError 404 M_NOT_FOUND, 400 M_INVALID_PARAM.
        """
        checked_text(body, "The text", most=MAX_NOTICE_BYTES)
        user_id = await self._accounts.resolve(name)
        if user_id is None or not await self._accounts.exists(user_id):
            raise not_found(f"There is no user {name} on this server")
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

    async def registration_tokens(self) -> list[RegistrationToken]:
        """Every registration token."""
        return await self._database.read(stored.registration_tokens)

"""Accounts: their names, their making and their end (client-server §Account registration).

Owns the grammar of new user names and the check of a password against an account. What an
access token is, and who may register, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from comity.ports import Clock, Entropy
from comity.protocol.errors import MatrixError, forbidden
from comity.protocol.identifiers import MAX_IDENTIFIER_BYTES, is_new_localpart, split_user_id
from comity.store import accounts, guests
from comity.store.accounts import User
from comity.store.database import Database, WriteTx
from comity.users.passwords import Passwords

#: Characters of a localpart that is made up here: one in 36^12 is taken twice.
GENERATED_LOCALPART_LENGTH = 12


class Accounts:
    """The accounts of this server."""

    def __init__(
        self, database: Database, passwords: Passwords, clock: Clock, entropy: Entropy, server_name: str
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._clock = clock
        self._entropy = entropy
        self.server_name = server_name

    # -- names

    def new_user_id(self, username: str) -> str:
        """The user id that registering as `username` gives: its localpart in lower case.

        Raises 400 M_INVALID_USERNAME.
        """
        localpart = username.lower() if username.isascii() else username
        if not is_new_localpart(localpart):
            raise _invalid_username("A user name is made of a-z, 0-9 and . _ = - / +")
        user_id = f"@{localpart}:{self.server_name}"
        if len(user_id) > MAX_IDENTIFIER_BYTES:
            raise _invalid_username(f"A user id is at most {MAX_IDENTIFIER_BYTES} characters long")
        return user_id

    def generated_user_id(self) -> str:
        """A user id for somebody who names none."""
        return f"@{self._entropy.token(GENERATED_LOCALPART_LENGTH).lower()}:{self.server_name}"

    def is_local(self, user_id: str) -> bool:
        """Whether a user id is of this server; it need not exist."""
        parts = split_user_id(user_id)
        return parts is not None and parts[1] == self.server_name

    async def check_available(self, user_id: str) -> None:
        """Raise 400 M_USER_IN_USE if there is or ever was such an account."""
        if await self.find(user_id) is not None:
            raise user_in_use()

    async def find(self, user_id: str) -> User | None:
        """The account of that user id, deactivated ones included."""
        return await self._database.look_up(lambda tx: accounts.user(tx, user_id))

    async def exists(self, user_id: str) -> bool:
        """Whether it is the id of an account that is in use."""
        found = await self.find(user_id)
        return found is not None and not found.deactivated

    async def resolve(self, name: str) -> str | None:
        """The user id that somebody who logs in means: a user id of ours, or a localpart."""
        user_id = name if name.startswith("@") else f"@{name}:{self.server_name}"
        if name.startswith("@") and not self.is_local(name):
            return None
        if await self.find(user_id) is not None or not user_id.isascii():
            return user_id
        localpart, _, server = user_id.partition(":")
        return f"{localpart.lower()}:{server}"

    # -- making and ending

    async def create(
        self,
        user_id: str,
        password: str | None,
        *,
        admin: bool = False,
        brought: str | None = None,
        along: Callable[[WriteTx], None] | None = None,
    ) -> None:
        """Create an account, and do `along` in the same transaction.

        `brought` is a password's hash from elsewhere, in the place of a password.

        Raises 400 M_USER_IN_USE, 400 M_INVALID_PARAM for a password that cannot be, and what
        `along` raises; then nothing is stored.
        """
        # This spares the work of hashing; what counts is decided in the transaction.
        await self.check_available(user_id)
        password_hash = brought if password is None else await self._passwords.hash(password)
        now = self._clock.now_ms()

        def store(tx: WriteTx) -> None:
            if not accounts.insert_user(tx, user_id, password_hash, admin=admin, now_ms=now):
                raise user_in_use()
            if along is not None:
                along(tx)

        await self._database.write(store)

    async def create_guest(self, user_id: str, *, along: Callable[[WriteTx], None]) -> None:
        """Create a guest account, and do `along` in the same transaction. Raises 400 M_USER_IN_USE."""
        now = self._clock.now_ms()

        def store(tx: WriteTx) -> None:
            if not guests.insert(tx, user_id, now):
                raise user_in_use()
            along(tx)

        await self._database.write(store)

    async def upgrade_guest(
        self, user_id: str, password: str | None, *, along: Callable[[WriteTx], None]
    ) -> None:
        """Make a guest's account a full one, and do `along` in the same transaction.

        Raises 400 M_INVALID_PARAM for a password that cannot be, 403 M_FORBIDDEN if it is no
        guest's any more, and what `along` raises; then nothing is stored.
        """
        password_hash = None if password is None else await self._passwords.hash(password)

        def store(tx: WriteTx) -> None:
            if not guests.upgrade(tx, user_id, password_hash):
                raise forbidden("The account is not a guest's any more")
            along(tx)

        await self._database.write(store)

    def check_room_for_passwords(self) -> None:
        """Raise 429 M_LIMIT_EXCEEDED if too many passwords wait to be checked."""
        self._passwords.check_room()

    async def check_password(self, user_id: str | None, password: str) -> User:
        """The account that this password opens, with the hash that says so.

        What follows from it looks in its own transaction whether that hash still stands
        (`still_stands_in`): the password may be changed meanwhile. Raises 403 M_FORBIDDEN, alike for
        a wrong password and for no such account, and 403 M_USER_DEACTIVATED.
        """
        account = await self.find(user_id) if user_id is not None else None
        right = await self._passwords.matches(account.password_hash if account else None, password)
        if account is not None and account.deactivated:
            raise user_deactivated()
        if account is None or not right:
            raise wrong_password()
        if account.password_hash and self._passwords.is_outdated(account.password_hash, password):
            return await self._renew_hash(account, account.password_hash, password)
        return account

    async def _renew_hash(self, account: User, outdated: str, password: str) -> User:
        renewed = await self._passwords.hash(password)
        # Only in the place of what was checked: the password may have been changed meanwhile.
        if await self._database.write(
            lambda tx: accounts.replace_password_hash(tx, account.user_id, outdated, renewed)
        ):
            return replace(account, password_hash=renewed)
        return account

    def still_stands_in(self, tx: WriteTx, account: User) -> bool:
        """Whether an account is in use, and its password is what it was when its user proved who they are.

        One without a password has none still.
        """
        return accounts.has_password_hash(tx, account.user_id, account.password_hash)

    async def set_password(
        self, proven: User, password: str, *, along: Callable[[WriteTx], None] | None = None
    ) -> None:
        """Replace the password that was `proven`, and do `along` in the same transaction.

        Raises 400 M_INVALID_PARAM, 403 M_FORBIDDEN if it has been replaced meanwhile.
        """
        password_hash = await self._passwords.hash(password)

        def store(tx: WriteTx) -> None:
            if not self.still_stands_in(tx, proven):
                raise wrong_password()
            accounts.set_password_hash(tx, proven.user_id, password_hash)
            if along is not None:
                along(tx)

        await self._database.write(store)

    async def reset_password(self, user_id: str, password: str, *, along: Callable[[WriteTx], None]) -> None:
        """Set a password for who was proven to be the user otherwise, and do `along` likewise.

        Raises 400 M_INVALID_PARAM, 403 M_USER_DEACTIVATED, and what `along` raises.
        """
        password_hash = await self._passwords.hash(password)

        def store(tx: WriteTx) -> None:
            account = accounts.user(tx, user_id)
            if account is None or account.deactivated:
                raise user_deactivated()
            along(tx)
            accounts.set_password_hash(tx, user_id, password_hash)

        await self._database.write(store)

    async def deactivate(self, proven: User, along: Callable[[WriteTx], None]) -> None:
        """End an account for good, and do `along` (closing its sessions) in the same transaction.

        Raises 403 M_FORBIDDEN if the password that was `proven` has been replaced meanwhile.
        """

        def store(tx: WriteTx) -> None:
            if not self.still_stands_in(tx, proven):
                raise wrong_password()
            accounts.deactivate(tx, proven.user_id)
            along(tx)

        await self._database.write(store)


def wrong_password() -> MatrixError:
    """403 M_FORBIDDEN, without saying which of the two it is."""
    return forbidden("The user name or the password is wrong")


def user_deactivated() -> MatrixError:
    """403 M_USER_DEACTIVATED."""
    return MatrixError(403, "M_USER_DEACTIVATED", "This account has been deactivated")


def user_in_use() -> MatrixError:
    """400 M_USER_IN_USE."""
    return MatrixError(400, "M_USER_IN_USE", "This user name is taken")


def _invalid_username(text: str) -> MatrixError:
    return MatrixError(400, "M_INVALID_USERNAME", text)

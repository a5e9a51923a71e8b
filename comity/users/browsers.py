"""Browsers in which people are signed in to this server's own pages.

Owns what a browser's cookie stands for and how long; not the cookie itself, which `comity.web`
sets and reads, and not the sessions of clients (`comity.users.sessions`): a browser has no device.
"""

from __future__ import annotations

from dataclasses import dataclass

from comity.ports import Clock, Entropy
from comity.protocol.errors import MatrixError, forbidden
from comity.store import accounts, sessions
from comity.store import browser_sessions as stored
from comity.store.accounts import User
from comity.store.browser_sessions import Browser
from comity.store.database import Database, WriteTx
from comity.users.accounts import Accounts, wrong_password
from comity.users.login import ATTEMPTS_AT_A_MOVING_HASH, Login
from comity.users.sessions import MAX_TOKEN_CHARACTERS, MAX_USER_AGENT_CHARACTERS, hash_of, user_locked

#: 43 characters of 62: 256 bits.
TOKEN_LENGTH = 43
#: Browsers in which one user is signed in at once; the one that was not used for longest goes.
MAX_BROWSERS = 20
#: Whoever does not come for so long signs in again.
IDLE_MS = 14 * 24 * 3_600_000
#: And whoever signed in so long ago, in any case.
LONGEST_MS = 90 * 24 * 3_600_000
#: How often it is written that a browser was used.
TOUCH_INTERVAL_MS = 3_600_000
#: For so long after who sits there was proven, what cannot be undone needs no new proof.
FRESH_MS = 10 * 60_000


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who sits at a browser; times in ms since the epoch."""

    user_id: str
    created_at: int
    #: Whether that was proven a short while ago.
    is_fresh: bool
    suspended: bool
    #: What tells this browser from the user's others.
    key: str


@dataclass(frozen=True, slots=True)
class ListedBrowser:
    """A browser as its user is shown it; times in ms since the epoch."""

    key: str
    created_at: int
    last_used_at: int
    address: str
    user_agent: str


class Browsers:
    """Signs people in to the pages of this server, and out."""

    def __init__(
        self, database: Database, accounts: Accounts, login: Login, clock: Clock, entropy: Entropy
    ) -> None:
        self._database = database
        self._accounts = accounts
        self._login = login
        self._clock = clock
        self._entropy = entropy

    def new_token(self) -> str:
        """A token for a browser's cookie, which stands for nobody yet."""
        return self._entropy.token(TOKEN_LENGTH)

    async def find(self, token: str) -> SignedIn | None:
        """Who is signed in where that token came from; nobody once their account is locked or ended."""
        if len(token) > MAX_TOKEN_CHARACTERS:
            return None
        token_hash, now = hash_of(token), self._clock.now_ms()
        found = await self._database.look_up(lambda tx: stored.find(tx, token_hash, now))
        if found is None:
            return None
        browser, suspended = found
        if now - browser.last_used_at >= TOUCH_INTERVAL_MS:
            until = min(now + IDLE_MS, browser.created_at + LONGEST_MS)
            await self._database.write(lambda tx: stored.touch(tx, token_hash, now, until))
        is_fresh = now - browser.proven_at < FRESH_MS
        return SignedIn(browser.user_id, browser.created_at, is_fresh, suspended, _key(browser.token_hash))

    # -- in

    async def sign_in(self, name: str, password: str, address: str, user_agent: str) -> str:
        """Sign in who knows the password of the account that `name` means: the new token.

        Raises 401 M_USER_LOCKED, 403 M_FORBIDDEN or M_USER_DEACTIVATED, 429 M_LIMIT_EXCEEDED.
        """
        token = self.new_token()
        for _ in range(ATTEMPTS_AT_A_MOVING_HASH):
            account = await self._login.check_person(name, password, address)

            def store(tx: WriteTx, account: User = account) -> bool:
                # The password may have been changed meanwhile.
                if not self._accounts.still_stands_in(tx, account):
                    return False
                self._open_in(tx, token, account.user_id, address, user_agent)
                return True

            if await self._database.write(store):
                return token
        raise wrong_password()

    async def open(self, user_id: str, address: str, user_agent: str) -> str:
        """Sign in a user who was proven otherwise: the new token.

        Raises 401 M_USER_LOCKED, 403 M_USER_DEACTIVATED.
        """
        token = self.new_token()
        await self._database.write(lambda tx: self._open_in(tx, token, user_id, address, user_agent))
        return token

    def _open_in(self, tx: WriteTx, token: str, user_id: str, address: str, user_agent: str) -> None:
        account = accounts.user(tx, user_id)
        if account is None or account.deactivated:
            raise MatrixError(403, "M_USER_DEACTIVATED", "This account has been deactivated")
        if sessions.moderation(tx, user_id)[1]:
            raise user_locked()
        now = self._clock.now_ms()
        program = user_agent[:MAX_USER_AGENT_CHARACTERS].encode("utf-8", "replace").decode().replace("\0", "")
        browser = Browser(hash_of(token), user_id, now, now, now, now + IDLE_MS, address, program)
        stored.insert(tx, browser, MAX_BROWSERS)

    async def prove(self, token: str, user_id: str, password: str, address: str) -> User:
        """Note that who sits there knows the password, for what cannot be undone; their account.

        Where an account has none, it is enough to have signed in a short while ago. Raises 403
        M_FORBIDDEN, 429 M_LIMIT_EXCEEDED.
        """
        found = await self._accounts.find(user_id)
        if found is not None and found.password_hash is None:
            signed_in = await self.find(token)
            if signed_in is None or signed_in.user_id != user_id or not signed_in.is_fresh:
                raise forbidden("You signed in a while ago: sign in again, to be sure that it is you")
            return found
        account = await self._login.check_person(user_id, password, address)
        token_hash, now = hash_of(token), self._clock.now_ms()
        await self._database.write(lambda tx: stored.prove(tx, token_hash, now))
        return account

    # -- out

    async def sign_out(self, token: str) -> None:
        """The token stands for nobody any more."""
        token_hash = hash_of(token)
        await self._database.write(lambda tx: stored.delete(tx, token_hash))

    async def all(self, user_id: str) -> list[ListedBrowser]:
        """Every browser in which a user is signed in, last used first."""
        now = self._clock.now_ms()
        found = await self._database.look_up(lambda tx: stored.of_user(tx, user_id))
        return [
            ListedBrowser(
                _key(browser.token_hash),
                browser.created_at,
                browser.last_used_at,
                browser.address,
                browser.user_agent,
            )
            for browser in found
            if browser.expires_at > now
        ]

    async def sign_out_other(self, user_id: str, key: str) -> None:
        """Sign a user out of the browser of that `key`, if there is one."""

        def store(tx: WriteTx) -> None:
            for browser in stored.of_user(tx, user_id):
                if _key(browser.token_hash) == key:
                    stored.delete(tx, browser.token_hash)

        await self._database.write(store)


def _key(token_hash: bytes) -> str:
    """A part of the hash: it tells browsers apart, and nothing can be done with it but by their user."""
    return token_hash[:12].hex()

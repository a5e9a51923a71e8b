"""Access tokens and the devices they act for (client-server §Using access tokens).

A token is opaque chance; the database holds its SHA-256, and a bounded map in memory makes
authenticating a request one lookup. Who may open a session is decided in `comity.users.login`
and `comity.users.registration`; how one goes on with new tokens, in `comity.users.refreshing`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from comity.config import Sessions as Lifetimes
from comity.ports import Clock, Entropy
from comity.protocol.errors import MatrixError, bad_json
from comity.store import accounts, browser_sessions, oauth
from comity.store import sessions as stored
from comity.store.cache import Followed
from comity.store.database import (
    Database,
    StoreFailedError,
    StoreOverloadedError,
    StoreUnavailableError,
    Tx,
    WriteTx,
)
from comity.users.text import checked_text, optional_text

#: Sessions held in memory, about 400 bytes each: as many devices as are active at once.
MAX_CACHED_SESSIONS = 100_000
#: How long what was read of a session is believed: by then, what `comity user lock` wrote beside this
#: server holds in it.
BELIEVED_SECONDS = 10.0
#: How often a device's "last seen" is written (client-server §Device Management allows minutes).
LAST_SEEN_INTERVAL_MS = 5 * 60_000
TOKEN_PREFIX = "comity_"  # noqa: S105 - what the tokens of this program begin with, for secret scanners
REFRESH_TOKEN_PREFIX = "comity_refresh_"  # noqa: S105 - likewise
#: 36 characters of 62: more than 200 bits.
TOKEN_LENGTH = 36
#: Anything longer is no token of ours and is not even hashed.
MAX_TOKEN_CHARACTERS = 200
DEVICE_ID_LENGTH = 10
#: Addresses and programs from which a device was used that are remembered, and how much of a program's name.
MAX_CONNECTIONS, MAX_USER_AGENT_CHARACTERS = 10, 300
#: How long an access token that has ended is told from one that never was (`soft_logout`).
ENDED_TOKENS_KEPT_MS = 30 * 24 * 3_600_000
#: Revoked refresh tokens of one device that are remembered, so that a stolen one is noticed.
MAX_REVOKED_KEPT = 100
MAX_DEVICE_NAME_BYTES = 255


@dataclass(frozen=True, slots=True)
class Session:
    """Whom a valid access token stands for: a user by one of their devices."""

    user_id: str
    device_id: str
    admin: bool = False
    guest: bool = False
    suspended: bool = False
    locked: bool = False
    #: Whether it was opened by OAuth 2.0.
    by_oauth: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """New tokens of a session: the only place where they themselves are.

    `refresh_token` and `expires_in_ms` are None unless the client can refresh.
    """

    user_id: str
    device_id: str
    access_token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    expires_in_ms: int | None = None

    def tokens(self) -> dict[str, object]:
        """Those members of the answer that tell the tokens."""
        told: dict[str, object] = {"access_token": self.access_token}
        if self.refresh_token is not None:
            told["refresh_token"] = self.refresh_token
        if self.expires_in_ms is not None:
            told["expires_in_ms"] = self.expires_in_ms
        return told


@dataclass(frozen=True, slots=True)
class Held:
    """A session that was remembered, for who comes again with the same token.

    It holds as long as `Sessions.changes` is what it was, and until a moment of the monotonic clock.
    """

    session: Session
    changes: int
    until: float


@dataclass(slots=True)
class _Cached:
    session: Session
    last_seen_ms: int
    expires_at: int | None
    refresh_hash: bytes | None
    #: On the monotonic clock.
    believed_until: float


def soft_logged_out(text: str) -> MatrixError:
    """401 M_UNKNOWN_TOKEN: the device and its keys stay, its user must log in again (§Soft logout)."""
    return MatrixError(401, "M_UNKNOWN_TOKEN", text, extra={"soft_logout": True})


def user_locked() -> MatrixError:
    """401 M_USER_LOCKED (client-server §Account locking)."""
    return MatrixError(401, "M_USER_LOCKED", "This account has been locked", extra={"soft_logout": True})


def hash_of(token: str) -> bytes:
    """What is stored of an access token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


class Sessions:
    """Opens, finds and closes sessions."""

    def __init__(
        self, database: Database, clock: Clock, entropy: Entropy, lifetimes: Lifetimes | None = None
    ) -> None:
        """`lifetimes` are for sessions that can be refreshed; without, their tokens have no end."""
        self._database = database
        self._lifetimes = lifetimes
        self.clock = clock
        self._entropy = entropy
        self._cache: Followed[bytes, _Cached] = Followed(MAX_CACHED_SESSIONS)
        #: How often anybody's tokens were forgotten: as long as it is the same, who was let in still is.
        self.changes = 0
        #: Called with (tx, user id, device id) in the transaction that deletes a device.
        self._on_device_gone: list[Callable[[WriteTx, str, str], None]] = []
        #: The same, in the transaction that makes one.
        self._on_device_come: list[Callable[[WriteTx, str, str], None]] = []

    def when_device_goes(self, callback: Callable[[WriteTx, str, str], None]) -> None:
        """Have what belongs to a device (its keys, its messages) deleted with it."""
        self._on_device_gone.append(callback)

    def when_device_comes(self, callback: Callable[[WriteTx, str, str], None]) -> None:
        """Have it noted that there is a new device."""
        self._on_device_come.append(callback)

    def remembered(self, token: str) -> Held | None:
        """Whom a token stands for, where there is nothing to be read, written or said for it; else None.

        `authenticate` tells the rest; most requests come a moment after another of their session.
        """
        if len(token) > MAX_TOKEN_CHARACTERS:
            return None
        cached, now = self._cache.get(hash_of(token)), self.clock.now_ms()
        if cached is None or cached.refresh_hash is not None:
            return None
        # It is looked up again when it ends, and when it is to be noted that the device is here.
        left_ms = cached.last_seen_ms + LAST_SEEN_INTERVAL_MS - now
        if cached.expires_at is not None:
            left_ms = min(left_ms, cached.expires_at - now)
        monotonic = self.clock.monotonic()
        until = min(cached.believed_until, monotonic + left_ms / 1000)
        if until <= monotonic or now < cached.last_seen_ms:
            return None
        return Held(cached.session, self.changes, until)

    async def authenticate(self, token: str, address: str, user_agent: str = "") -> Session | None:
        """Whom a token stands for, or None; `address` is where the request came from, with what program.

        Raises 401 M_UNKNOWN_TOKEN with `soft_logout` for a token that has ended while its device stays.
        """
        if len(token) > MAX_TOKEN_CHARACTERS:
            return None
        token_hash = hash_of(token)
        cached = self._cache.get(token_hash)
        if cached is None or cached.believed_until <= self.clock.monotonic():
            cached = await self._database.look_up(lambda tx: self._load(tx, token_hash))
            if cached is None:
                return None
        now = self.clock.now_ms()
        session = cached.session
        if cached.expires_at is not None and cached.expires_at <= now:
            raise soft_logged_out("The access token has ended: refresh it, or log in again")
        if cached.refresh_hash is not None:
            # The first use of new tokens is the end of the old ones, before anything is answered.
            refresh_hash, cached.refresh_hash = cached.refresh_hash, None
            await self._database.write(
                lambda tx: self.confirm_in(tx, session.user_id, session.device_id, refresh_hash)
            )
        if not 0 <= now - cached.last_seen_ms < LAST_SEEN_INTERVAL_MS:
            cached.last_seen_ms = now
            self._note_seen(session, now, address, user_agent)
        return session

    def _load(self, tx: Tx, token_hash: bytes) -> _Cached | None:
        owner = stored.token_owner(tx, token_hash)
        if owner is None:
            self._cache.drop(token_hash)
            return None
        session = Session(
            owner.user_id,
            owner.device_id,
            owner.admin,
            owner.guest,
            owner.suspended,
            owner.locked,
            owner.by_oauth,
        )
        # Another request of the same session may have been faster, and has noted that it was seen.
        before = self._cache.get(token_hash)
        cached = _Cached(
            session,
            before.last_seen_ms if before is not None else 0,
            owner.expires_at,
            owner.refresh_hash,
            self.clock.monotonic() + BELIEVED_SECONDS,
        )
        # Not if a session was closed since: it could be this one.
        self._cache.keep(token_hash, cached, tx.as_of)
        return cached

    def _note_seen(self, session: Session, now: int, address: str, user_agent: str) -> None:
        program = user_agent[:MAX_USER_AGENT_CHARACTERS].encode("utf-8", "replace").decode().replace("\0", "")

        def store(tx: WriteTx) -> None:
            accounts.touch_device(tx, session.user_id, session.device_id, now, address)
            stored.note_connection(
                tx, session.user_id, session.device_id, address, program, now, MAX_CONNECTIONS
            )

        try:
            self._database.submit(store)
        except (StoreOverloadedError, StoreFailedError, StoreUnavailableError):
            pass  # a courtesy to the user, not worth a failed request

    # -- opening

    def prepare(
        self,
        user_id: str,
        device_id: object = None,
        display_name: object = None,
        refreshing: object = None,
    ) -> tuple[Opened, Callable[[WriteTx], None]]:
        """A new session, and the function that stores it, for the caller's own transaction.

        A device that exists is used again, under its old name, and its other tokens end; one
        that does not is made. The arguments are as the client sent them, None for absent;
        `refreshing` is whether it can refresh. Raises 400 M_BAD_JSON or M_INVALID_PARAM.
        """
        name = optional_text(display_name, "initial_device_display_name", most=MAX_DEVICE_NAME_BYTES)
        if device_id is None or device_id == "":
            device = self._entropy.token(DEVICE_ID_LENGTH).upper()
        else:
            device = checked_text(device_id, "device_id")
        if refreshing is not None and not isinstance(refreshing, bool):
            raise bad_json("refresh_token is not a boolean")
        opened = self.new_tokens(user_id, device, refreshing=bool(refreshing))
        now = self.clock.now_ms()

        def store(tx: WriteTx) -> None:
            if not self.add_device_in(tx, user_id, device, name, now):
                self._end_tokens(tx, user_id, device)
            self.store_tokens_in(tx, opened, now)

        return opened, store

    def new_tokens(self, user_id: str, device_id: str, *, refreshing: bool) -> Opened:
        """Tokens that nobody has yet; `store_tokens_in` makes them good."""
        token = TOKEN_PREFIX + self._entropy.token(TOKEN_LENGTH)
        if not refreshing:
            return Opened(user_id, device_id, token)
        refresh_token = REFRESH_TOKEN_PREFIX + self._entropy.token(TOKEN_LENGTH)
        expires_in = None if self._lifetimes is None else self._lifetimes.access_token_lifetime * 1000
        return Opened(user_id, device_id, token, refresh_token, expires_in)

    def store_tokens_in(self, tx: WriteTx, opened: Opened, now: int, parent: bytes | None = None) -> None:
        """Let tokens be good from now on.

        With `parent`, they take the place of that refresh token once one of them is used.
        """
        user_id, device_id = opened.user_id, opened.device_id
        refresh_hash = None
        if opened.refresh_token is not None:
            refresh_hash = hash_of(opened.refresh_token)
            lifetime = None if self._lifetimes is None else self._lifetimes.refresh_token_lifetime
            until = None if lifetime is None else now + lifetime * 1000
            stored.insert_refresh(tx, refresh_hash, user_id, device_id, now, expires_at=until, parent=parent)
        stored.insert_token(
            tx, hash_of(opened.access_token), user_id, device_id, now,
            expires_at=None if opened.expires_in_ms is None else now + opened.expires_in_ms,
            refresh_hash=None if parent is None else refresh_hash,
        )  # fmt: skip

    async def open(self, user_id: str, device_id: object = None, display_name: object = None) -> Opened:
        """Open a session of its own; see `prepare`."""
        opened, store = self.prepare(user_id, device_id, display_name)
        await self._database.write(store)
        return opened

    def add_device_in(self, tx: WriteTx, user_id: str, device_id: str, name: str | None, now_ms: int) -> bool:
        """Make a device in a transaction of the caller's; False if there is one of that id."""
        is_new = accounts.insert_device(tx, user_id, device_id, name, now_ms)
        if is_new:
            for callback in self._on_device_come:
                callback(tx, user_id, device_id)
        return is_new

    # -- new tokens in the place of old ones (client-server §Refreshing access tokens)

    def confirm_in(self, tx: WriteTx, user_id: str, device_id: str, refresh_hash: bytes) -> None:
        """A refresh token, or the access token given with it, is used: the device's older ones end."""
        found = stored.refresh(tx, refresh_hash)
        if found is None or found.parent is None:
            return  # another request was faster
        now = self.clock.now_ms()
        stored.confirm_refresh(tx, refresh_hash, user_id, device_id)
        ended = stored.end_tokens(tx, user_id, device_id, now, but=refresh_hash)
        changed = stored.confirm_access(tx, refresh_hash, user_id, device_id)
        forgotten = stored.forget_ended_tokens(tx, user_id, device_id, now - ENDED_TOKENS_KEPT_MS)
        stored.forget_revoked(tx, user_id, device_id, MAX_REVOKED_KEPT)
        self._forget_after(tx, [*ended, *changed, *forgotten])

    def withdraw_in(self, tx: WriteTx, user_id: str, device_id: str, refresh_hash: bytes) -> None:
        """A pair of tokens that was never used is not needed any more."""
        self._forget_after(tx, stored.delete_pair(tx, refresh_hash, user_id, device_id))

    def log_out_softly_in(self, tx: WriteTx, user_id: str, device_id: str) -> None:
        """End a device's tokens, and keep the device: its user logs in to it again (§Soft logout)."""
        stored.revoke_refresh(tx, user_id, device_id)
        self._forget_after(tx, stored.end_tokens(tx, user_id, device_id, self.clock.now_ms()))

    # -- closing

    async def close(self, user_id: str, device_ids: Iterable[str]) -> None:
        """Delete devices and end their tokens; unknown ones are passed over."""
        wanted = list(device_ids)
        await self._database.write(lambda tx: self.close_in(tx, user_id, wanted))

    async def close_all(self, user_id: str) -> None:
        """Delete every device of a user and end every token."""
        await self._database.write(lambda tx: self.close_all_in(tx, user_id))

    def close_all_in(self, tx: WriteTx, user_id: str, *, but: str | None = None) -> None:
        """Delete every device of a user, `but` one, in a transaction of the caller's.

        Nor does a login token let anybody in any more, nor a browser's cookie.
        """
        self.withdraw_login_tokens_in(tx, user_id)
        browser_sessions.delete_all(tx, user_id)
        self.close_in(
            tx,
            user_id,
            [device.device_id for device in accounts.devices(tx, user_id) if device.device_id != but],
        )

    def withdraw_login_tokens_in(self, tx: WriteTx, user_id: str) -> None:
        """No login token or grant that is out lets that user in any more."""
        stored.delete_login_tokens(tx, user_id)
        oauth.forget_grants(tx, user_id)

    def close_in(self, tx: WriteTx, user_id: str, device_ids: list[str]) -> None:
        """Delete devices and end their tokens, in a transaction of the caller's."""
        for device_id in device_ids:
            self._end_tokens(tx, user_id, device_id)
            for callback in self._on_device_gone:
                callback(tx, user_id, device_id)
            stored.delete_connections(tx, user_id, device_id)
            accounts.delete_device(tx, user_id, device_id)

    def reread_in(self, tx: WriteTx, user_id: str) -> None:
        """What a user may do changes with this transaction of the caller's: their tokens are read anew."""
        self._forget_after(tx, stored.token_hashes(tx, user_id))

    def _end_tokens(self, tx: WriteTx, user_id: str, device_id: str) -> None:
        self._forget_after(tx, stored.delete_tokens(tx, user_id, device_id))
        oauth.forget_session(tx, user_id, device_id)

    def _forget_after(self, tx: WriteTx, token_hashes: Iterable[bytes]) -> None:
        def forget() -> None:
            self.changes += 1
            for token_hash in token_hashes:
                self._cache.change(token_hash, self._database.commits)

        tx.after_commit(forget)

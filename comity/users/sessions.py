"""Access tokens and the devices they act for (client-server §Using access tokens).

A token is opaque chance; the database holds its SHA-256, and a bounded map in memory makes
authenticating a request one lookup. Who may open a session is decided in `comity.users.login`
and `comity.users.registration`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from comity.ports import Clock, Entropy
from comity.store import accounts
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
#: How often a device's "last seen" is written (client-server §Device Management allows minutes).
LAST_SEEN_INTERVAL_MS = 5 * 60_000
TOKEN_PREFIX = "comity_"  # noqa: S105 - what the tokens of this program begin with, for secret scanners
#: 36 characters of 62: more than 200 bits.
TOKEN_LENGTH = 36
#: Anything longer is no token of ours and is not even hashed.
MAX_TOKEN_CHARACTERS = 200
DEVICE_ID_LENGTH = 10
MAX_DEVICE_NAME_BYTES = 255


@dataclass(frozen=True, slots=True)
class Session:
    """Whom a valid access token stands for."""

    user_id: str
    device_id: str
    admin: bool
    guest: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """A new session: the only place where the token itself is."""

    user_id: str
    device_id: str
    access_token: str = field(repr=False)


@dataclass(slots=True)
class _Cached:
    session: Session
    last_seen_ms: int


def hash_of(token: str) -> bytes:
    """What is stored of an access token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


class Sessions:
    """Opens, finds and closes sessions."""

    def __init__(self, database: Database, clock: Clock, entropy: Entropy) -> None:
        self._database = database
        self._clock = clock
        self._entropy = entropy
        self._cache: Followed[bytes, _Cached] = Followed(MAX_CACHED_SESSIONS)
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

    async def authenticate(self, token: str, address: str) -> Session | None:
        """Whom a token stands for, or None; `address` is where the request came from."""
        if len(token) > MAX_TOKEN_CHARACTERS:
            return None
        token_hash = hash_of(token)
        cached = self._cache.get(token_hash)
        if cached is None:
            cached = await self._database.look_up(lambda tx: self._load(tx, token_hash))
            if cached is None:
                return None
        now = self._clock.now_ms()
        if not 0 <= now - cached.last_seen_ms < LAST_SEEN_INTERVAL_MS:
            cached.last_seen_ms = now
            self._note_seen(cached.session, now, address)
        return cached.session

    def _load(self, tx: Tx, token_hash: bytes) -> _Cached | None:
        owner = accounts.token_owner(tx, token_hash)
        if owner is None:
            return None
        # Another request of the same session may have been faster, and has noted that it was seen.
        cached = self._cache.get(token_hash) or _Cached(Session(*owner), 0)
        # Not if a session was closed since: it could be this one.
        self._cache.keep(token_hash, cached, tx.as_of)
        return cached

    def _note_seen(self, session: Session, now: int, address: str) -> None:
        try:
            self._database.submit(
                lambda tx: accounts.touch_device(tx, session.user_id, session.device_id, now, address)
            )
        except (StoreOverloadedError, StoreFailedError, StoreUnavailableError):
            pass  # a courtesy to the user, not worth a failed request

    # -- opening

    def prepare(
        self, user_id: str, device_id: object = None, display_name: object = None
    ) -> tuple[Opened, Callable[[WriteTx], None]]:
        """A new session, and the function that stores it, for the caller's own transaction.

        A device that exists is used again, under its old name, and its other tokens end; one
        that does not is made. `device_id` and `display_name` are as the client sent them, None
        for absent. Raises 400 M_BAD_JSON or M_INVALID_PARAM.
        """
        name = optional_text(display_name, "initial_device_display_name", most=MAX_DEVICE_NAME_BYTES)
        if device_id is None or device_id == "":
            device = self._entropy.token(DEVICE_ID_LENGTH).upper()
        else:
            device = checked_text(device_id, "device_id")
        token = TOKEN_PREFIX + self._entropy.token(TOKEN_LENGTH)
        token_hash = hash_of(token)
        now = self._clock.now_ms()

        def store(tx: WriteTx) -> None:
            if not self.add_device_in(tx, user_id, device, name, now):
                self._end_tokens(tx, user_id, device)
            accounts.insert_token(tx, token_hash, user_id, device, now)

        return Opened(user_id, device, token), store

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

    # -- closing

    async def close(self, user_id: str, device_ids: Iterable[str]) -> None:
        """Delete devices and end their tokens; unknown ones are passed over."""
        wanted = list(device_ids)
        await self._database.write(lambda tx: self.close_in(tx, user_id, wanted))

    async def close_all(self, user_id: str) -> None:
        """Delete every device of a user and end every token."""
        await self._database.write(lambda tx: self.close_all_in(tx, user_id))

    def close_all_in(self, tx: WriteTx, user_id: str, *, but: str | None = None) -> None:
        """Delete every device of a user, `but` one, in a transaction of the caller's."""
        self.close_in(
            tx,
            user_id,
            [device.device_id for device in accounts.devices(tx, user_id) if device.device_id != but],
        )

    def close_in(self, tx: WriteTx, user_id: str, device_ids: list[str]) -> None:
        """Delete devices and end their tokens, in a transaction of the caller's."""
        for device_id in device_ids:
            self._end_tokens(tx, user_id, device_id)
            for callback in self._on_device_gone:
                callback(tx, user_id, device_id)
            accounts.delete_device(tx, user_id, device_id)

    def reread_in(self, tx: WriteTx, user_id: str) -> None:
        """What a user may do changes with this transaction of the caller's: their tokens are read anew."""
        self._forget_after(tx, accounts.token_hashes(tx, user_id))

    def _end_tokens(self, tx: WriteTx, user_id: str, device_id: str) -> None:
        self._forget_after(tx, accounts.delete_tokens(tx, user_id, device_id))

    def _forget_after(self, tx: WriteTx, token_hashes: Iterable[bytes]) -> None:
        def forget() -> None:
            for token_hash in token_hashes:
                self._cache.change(token_hash, self._database.commits)

        tx.after_commit(forget)

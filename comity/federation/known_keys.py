"""Other servers' public keys that are known, and for what each may be used when.

Owns the cache in memory and what is stored. It fetches nothing and verifies nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from comity.ports import Clock
from comity.protocol.room_versions import RoomVersion
from comity.protocol.signing import MAX_KEY_VALIDITY_MS, PublishedKey
from comity.store import keys as stored_keys
from comity.store.cache import Bounded
from comity.store.database import (
    Database,
    StoreFailedError,
    StoreOverloadedError,
    StoreUnavailableError,
    WriteTx,
)
from comity.store.keys import KeyDocument
from comity.store.lists import MAX_LIST

_log = logging.getLogger(__name__)
#: Servers whose keys are in memory, about 500 bytes each.
MAX_CACHED_SERVERS = 20_000
#: Keys kept of one server. Honest servers have had a handful; one that invents a new key with
#: every fetch must not fill the disk.
MAX_KEYS_PER_SERVER = 256


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A published key, and when we were told of it (ms since the epoch)."""

    key: PublishedKey
    fetched_at: int

    @property
    def good_until(self) -> int:
        """Until when it signs: rooms/v5 bounds a current key to 7 days from when it was fetched."""
        if self.key.expired:
            return self.key.valid_until_ms
        return min(self.key.valid_until_ms, self.fetched_at + MAX_KEY_VALIDITY_MS)

    def signs_event(self, version: RoomVersion, origin_server_ts: int) -> bool:
        """Whether an event of that time may be signed with it (rooms/v5; before, any known key may)."""
        return not version.enforces_key_validity or origin_server_ts <= self.good_until

    def signs_requests(self, now: int) -> bool:
        """Whether a request may be signed with it now (server-server §Publishing Keys)."""
        return not self.key.expired and now <= self.good_until


class KnownKeys:
    """The keys of every server we have met."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._cache: Bounded[str, dict[str, KnownKey]] = Bounded(MAX_CACHED_SERVERS)

    async def of(self, server: str) -> Mapping[str, KnownKey]:
        """key id -> key."""
        return (await self.of_all([server]))[server]

    async def of_all(self, servers: Iterable[str]) -> dict[str, Mapping[str, KnownKey]]:
        """server -> key id -> key, for every one of the servers: what is not in memory in one read."""
        found: dict[str, Mapping[str, KnownKey]] = {}
        missing: list[str] = []
        for server in servers:
            known = self._cache.get(server)
            if known is None:
                missing.append(server)
            else:
                found[server] = known
        if not missing:
            return found
        if len(missing) <= MAX_LIST:
            rows = await self._database.look_up(lambda tx: stored_keys.load(tx, missing))
        else:
            rows = await self._database.read(lambda tx: stored_keys.load(tx, missing))
        for server in missing:
            known = self._cache.get(server)
            if known is None:  # else it was learnt meanwhile
                known = {key.key_id: KnownKey(key, fetched_at) for key, fetched_at in rows.get(server, ())}
                self._cache.put(server, known)
            found[server] = known
        return found

    async def learn(
        self,
        server: str,
        published: Iterable[PublishedKey],
        *,
        from_notary: bool = False,
        document: KeyDocument | None = None,
    ) -> None:
        """Take up what the server publishes now, or what a notary says that it published.

        A notary's word may be old: it never shortens what the server told us itself. `document`
        is where the server itself published it, to be kept for those who ask us as a notary.
        """
        known = dict(await self.of(server))
        now = self._clock.now_ms()
        changed = []
        for key in published:
            before = known.get(key.key_id)
            if before is None and len(known) >= MAX_KEYS_PER_SERVER:
                _log.warning("%s has published more than %d keys", server, MAX_KEYS_PER_SERVER)
                break
            if from_notary and before is not None and not _is_news(before, key):
                continue
            known[key.key_id] = KnownKey(key, now)
            changed.append(key)
        self._cache.put(server, known)
        if not changed and document is None:
            return

        def store(tx: WriteTx) -> None:
            if changed:
                stored_keys.put(tx, server, changed, now)
            if document is not None:
                stored_keys.put_document(tx, server, document)

        try:
            # Nobody waits for it: a key that is lost is fetched again.
            self._database.submit(store)
        except (StoreFailedError, StoreOverloadedError, StoreUnavailableError) as error:
            _log.warning("the keys of %s were not stored: %s", server, error)


def _is_news(before: KnownKey, key: PublishedKey) -> bool:
    if key.public != before.key.public:
        # Two keys under one id; what we were told first, by the server itself perhaps, stands.
        return False
    return (key.expired and not before.key.expired) or (
        key.expired == before.key.expired and key.valid_until_ms > before.good_until
    )

"""Fetches other servers' keys: from the server itself, else from a notary (server-server §Retrieving
server keys).

Owns who is asked, in what order and how often; one server is asked once at a time, and one that
does not answer is left alone for a while. One that knows the endpoint of 2014 alone is asked
there. What is fetched goes to `KnownKeys`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comity.federation.answers import is_unknown_endpoint
from comity.federation.client import FederationError
from comity.federation.key_calls import KeyCalls
from comity.federation.known_keys import KnownKeys
from comity.ports import Clock, Offload
from comity.protocol import canonical_json, identifiers
from comity.protocol.pacing import Bucket, Rate, take
from comity.protocol.signing import PublishedKey, parse_key_document, parse_key_document_v1, verify_json
from comity.store.cache import Bounded
from comity.store.keys import KeyDocument

_log = logging.getLogger(__name__)
#: Servers asked for their keys at once; the others wait.
MAX_CONCURRENT_FETCHES = 64
#: Fetches under way and waiting; past it somebody invents servers, and the rest go without.
MAX_FETCHES = 5_000
#: When more servers than this are wanted at once (a large room was joined), a notary is asked
#: first: one answer of its spares a wait for each server that is gone.
NOTARY_FIRST_ABOVE = 8
#: Servers in one query to a notary.
MAX_SERVERS_PER_QUERY = 50
#: Queries to notaries at once.
MAX_CONCURRENT_QUERIES = 4
#: Servers of one room whose keys are asked for before it is known which of them are needed.
MAX_FORESEEN = 2_000
#: Servers whose last fetch is remembered.
MAX_REMEMBERED = 50_000
#: A server that answered is not asked again within this time, whatever unknown keys are met, and
#: one that did not is not asked within this time for the sake of events.
PAUSE_MS = 60_000
#: And for the sake of a request of its own, for then it is alive: after this time.
REQUEST_PAUSE_MS = 5_000

#: How long a key of a document of 2014 counts, which does not say: as long as a common document of today.
V1_VALIDITY_MS = 24 * 3600 * 1000
#: Bytes of a key document that is kept for others: one with 30 keys. Ordinary ones have 500.
MAX_KEPT_DOCUMENT_BYTES = 8 * 1024
#: Servers being asked because somebody wants their keys from us as a notary: anybody may want that.
MAX_FETCHES_FOR_OTHERS = 128
#: And how many in the long run: whoever has a domain can invent servers, and each is a row on our disk.
FETCHES_FOR_OTHERS = Rate(per_second=1, burst=1_000)

#: server -> key id -> the time (ms since the epoch) at which the key must still sign.
Wanted = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class _Fetched:
    at: int
    succeeded: bool


class KeyFetcher:
    """Fetches keys that are wanted, if anybody has them."""

    def __init__(
        self,
        keys: KnownKeys,
        calls: KeyCalls,
        clock: Clock,
        offload: Offload,
        server_name: str,
        trusted_key_servers: Sequence[str],
    ) -> None:
        """`server_name` is ours; `trusted_key_servers` are the notaries, in the order to ask them."""
        self._keys = keys
        self._calls = calls
        self._clock = clock
        self._offload = offload
        self._server_name = server_name
        self._notaries = [name for name in trusted_key_servers if name != server_name]
        self._fetched: Bounded[str, _Fetched] = Bounded(MAX_REMEMBERED)
        self._asked_notary: Bounded[str, int] = Bounded(MAX_REMEMBERED)
        self._foreseen: Bounded[str, int] = Bounded(MAX_REMEMBERED)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._for_others = 0
        self._for_others_bucket: Bucket | None = None
        self._places = asyncio.Semaphore(MAX_CONCURRENT_FETCHES)
        self._queries = asyncio.Semaphore(MAX_CONCURRENT_QUERIES)

    async def fetch(self, wanted: Wanted, *, by_request: bool = False) -> None:
        """Try to get the keys; what was got is in `KnownKeys`. Never raises but for cancellation.

        `by_request` says that the server itself is waiting for us with a request.
        """
        wanted = {
            server: keys
            for server, keys in wanted.items()
            if server != self._server_name and identifiers.is_server_name(server)
        }
        if len(wanted) > NOTARY_FIRST_ABOVE and self._notaries:
            await self._ask_notaries(wanted)
            wanted = await self._lacking(wanted)
        tasks = [
            task
            for server, keys in wanted.items()
            if (task := self._start(server, keys, by_request=by_request)) is not None
        ]
        if tasks:
            # Those who give up leave the fetch to the others who wait for it.
            await asyncio.gather(*map(asyncio.shield, tasks))

    async def foresee(self, servers: Iterable[str]) -> None:
        """Ask a notary for all keys of those of the servers of which no key is known. Never raises.

        For many servers whose keys will be needed as soon as something else has come; it is not known
        yet which. What this does not bring is left to `fetch`, which asks as if this had not been.
        """
        if not self._notaries:
            return
        notary, now = self._notaries[0], self._clock.now_ms()
        names = [name for name in servers if name not in (self._server_name, notary)]
        known = await self._keys.of_all(names)
        unknown = [name for name in names if not known[name] and not self._was_foreseen(name, now)]
        if len(unknown) <= NOTARY_FIRST_ABOVE:
            return
        del unknown[MAX_FORESEEN:]
        for name in unknown:
            self._foreseen.put(name, now)
        wanted: list[dict[str, dict[str, int]]] = [
            {name: {} for name in unknown[start : start + MAX_SERVERS_PER_QUERY]}
            for start in range(0, len(unknown), MAX_SERVERS_PER_QUERY)
        ]
        await asyncio.gather(*(self._query(notary, part) for part in wanted))

    def _was_foreseen(self, server: str, now: int) -> bool:
        last = self._foreseen.get(server)
        return last is not None and 0 <= now - last < PAUSE_MS

    async def refresh(self, servers: Iterable[str]) -> None:
        """Ask the servers themselves, for somebody who asks us as a notary; the store has what they say.

        Those that were asked lately are not asked, nor any while too many are being asked.
        """
        tasks = []
        for server in servers:
            if server == self._server_name or not self._may_ask(server, by_request=False):
                continue
            task = self._running.get(server)
            if task is None:
                if self._for_others >= MAX_FETCHES_FOR_OTHERS or not self._may_ask_for_others():
                    continue
                task = self._start(server, {}, by_request=False)
                if task is None:
                    continue
                self._for_others += 1
                task.add_done_callback(self._one_less)
            tasks.append(task)
        if tasks:
            await asyncio.gather(*map(asyncio.shield, tasks))

    def _may_ask_for_others(self) -> bool:
        self._for_others_bucket, wait_ms = take(
            FETCHES_FOR_OTHERS, self._for_others_bucket, self._clock.now_ms()
        )
        return wait_ms == 0

    def _one_less(self, _: asyncio.Task[None]) -> None:
        self._for_others -= 1

    def _start(self, server: str, keys: Mapping[str, int], *, by_request: bool) -> asyncio.Task[None] | None:
        task = self._running.get(server)
        if task is not None:
            return task
        if len(self._running) >= MAX_FETCHES:
            _log.warning("too many servers' keys are being fetched; those of %s are not", server)
            return None
        task = asyncio.get_running_loop().create_task(self._fetch_one(server, keys, by_request))
        self._running[server] = task
        task.add_done_callback(lambda _: self._running.pop(server, None))
        return task

    async def _fetch_one(self, server: str, keys: Mapping[str, int], by_request: bool) -> None:
        async with self._places:
            if self._may_ask(server, by_request):
                await self._ask_itself(server, by_request)
        lacking = await self._lacking({server: keys})
        if lacking and self._notaries:
            await self._ask_notaries(lacking)

    def _may_ask(self, server: str, by_request: bool) -> bool:
        last = self._fetched.get(server)
        if last is None:
            return True
        pause = REQUEST_PAUSE_MS if by_request and not last.succeeded else PAUSE_MS
        # A clock that was set back must not forbid asking.
        return not 0 <= self._clock.now_ms() - last.at < pause

    async def _lacking(self, wanted: Wanted) -> dict[str, dict[str, int]]:
        """What of `wanted` is not known, or not for long enough."""
        lacking: dict[str, dict[str, int]] = {}
        known = await self._keys.of_all(wanted)
        for server, keys in wanted.items():
            for key_id, until in keys.items():
                key = known[server].get(key_id)
                if key is None or key.good_until < until:
                    lacking.setdefault(server, {})[key_id] = until
        return lacking

    async def _ask_itself(self, server: str, by_request: bool) -> None:
        kept: KeyDocument | None = None
        try:
            try:
                document = await self._calls.server_keys(server, even_if_backing_off=by_request)
            except FederationError as error:
                if not is_unknown_endpoint(error):
                    raise
                published = await self._keys_of_2014(server, by_request)
            else:
                published = parse_key_document(document, server)
                kept = self._to_be_kept(document, self._clock.now_ms())
        except (FederationError, ValueError) as error:
            _log.info("no keys from %s: %s", server, error)
            self._fetched.put(server, _Fetched(self._clock.now_ms(), succeeded=False))
            return
        self._fetched.put(server, _Fetched(self._clock.now_ms(), succeeded=True))
        await self._keys.learn(server, published, document=kept)

    async def _keys_of_2014(self, server: str, by_request: bool) -> list[PublishedKey]:
        """The keys of a server that knows /_matrix/key/v1 alone. Raises FederationError, ValueError."""
        document, certificate = await self._calls.server_keys_v1(server, even_if_backing_off=by_request)
        keys = parse_key_document_v1(document, server, certificate)
        until = self._clock.now_ms() + V1_VALIDITY_MS
        return [PublishedKey(key_id, public, until, expired=False) for key_id, public in keys.items()]

    def _to_be_kept(self, document: dict[str, Any], fetched_at: int) -> KeyDocument | None:
        """A document that was found right, for those who ask us as a notary; None if it is too large.

        `fetched_at` is 0 for one that a notary gave.
        """
        encoded = canonical_json.encode(document)
        if len(encoded) > MAX_KEPT_DOCUMENT_BYTES:
            return None
        return KeyDocument(encoded, document["valid_until_ts"], fetched_at)

    async def _ask_notaries(self, wanted: Wanted) -> None:
        for notary in self._notaries:
            lacking = [
                (server, keys)
                for server, keys in (await self._lacking(wanted)).items()
                if self._may_query(notary, server)
            ]
            parts = [
                dict(lacking[start : start + MAX_SERVERS_PER_QUERY])
                for start in range(0, len(lacking), MAX_SERVERS_PER_QUERY)
            ]
            now = self._clock.now_ms()
            for server, _ in lacking:
                self._asked_notary.put(f"{notary} {server}", now)
            if parts:
                await asyncio.gather(*(self._query(notary, part) for part in parts))

    def _may_query(self, notary: str, server: str) -> bool:
        """Whether the notary may be asked about the server: not about itself, nor again and again."""
        last = self._asked_notary.get(f"{notary} {server}")
        return notary != server and (last is None or not 0 <= self._clock.now_ms() - last < PAUSE_MS)

    async def _query(self, notary: str, wanted: Wanted) -> None:
        async with self._queries:
            own_keys = await self._notary_keys(notary)
            if not own_keys:
                return
            try:
                documents = await self._calls.query_keys(notary, wanted)
            except FederationError as error:
                _log.info("the notary %s gives no keys: %s", notary, error)
                return
        given = [(str(document.get("server_name")), document) for document in documents]
        given = [(name, document) for name, document in given if name in wanted]
        learning: list[Coroutine[Any, Any, None]] = []
        read = await self._offload.run(_read_countersigned, given, notary, own_keys)
        for (name, document), published in zip(given, read, strict=True):
            if isinstance(published, ValueError):
                _log.warning("the notary %s gave unusable keys of %s: %s", notary, name, published)
            else:
                kept = self._to_be_kept(document, fetched_at=0)
                learning.append(self._keys.learn(name, published, from_notary=True, document=kept))
        # Together, so that they are stored by one write.
        await asyncio.gather(*learning)

    async def _notary_keys(self, notary: str) -> dict[str, bytes]:
        """The keys with which a notary may sign now."""
        for attempt in range(2):
            now = self._clock.now_ms()
            usable = {
                key_id: known.key.public
                for key_id, known in (await self._keys.of(notary)).items()
                if known.signs_requests(now)
            }
            if usable or attempt or not self._may_ask(notary, by_request=False):
                return usable
            await self._ask_itself(notary, by_request=False)
        return {}


def _read_countersigned(
    given: Sequence[tuple[str, dict[str, Any]]], notary: str, notary_keys: Mapping[str, bytes]
) -> list[list[PublishedKey] | ValueError]:
    """The keys in each of the documents (by server) that a notary gave, or what is wrong with it.

    Made to be run in a thread: there are two signatures on each.
    """
    read: list[list[PublishedKey] | ValueError] = []
    for name, document in given:
        try:
            # The server's own signature first: it also checks the values that are signed.
            published = parse_key_document(document, name)
            if not verify_json(document, notary, notary_keys):
                raise ValueError("it is not signed by the notary")
            read.append(published)
        except ValueError as error:
            read.append(error)
    return read

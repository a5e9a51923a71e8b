"""The keyring: whose signatures hold, of events and of requests.

Owns which key counts when (server-server §Validating hashes and signatures; rooms/v5 §Signing key
validity period). The arithmetic is done in threads; fetching is `key_fetcher`'s.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from comity.federation.key_calls import KeyCalls
from comity.federation.key_fetcher import KeyFetcher
from comity.federation.known_keys import KnownKey, KnownKeys
from comity.federation.own_keys import OwnKeys
from comity.ports import Clock, Offload
from comity.protocol import canonical_json
from comity.protocol.errors import unauthorized
from comity.protocol.event import Event
from comity.protocol.room_versions import RoomVersion
from comity.protocol.signing import (
    Authorization,
    PublishedKey,
    SigningKey,
    required_signers,
    verify,
    verify_batch,
)
from comity.store.database import Database

#: Signatures in one job for a thread: a few milliseconds of work.
SIGNATURES_PER_JOB = 64
#: Jobs of one call under way at once, so that a large state does not hold every thread.
MAX_JOBS = 4
#: Up to this many signatures are verified on the spot: going to a thread costs as much.
VERIFIED_ON_THE_SPOT = 2
#: A request's signature over more than this is verified in a thread.
LARGE_MESSAGE_BYTES = 64 * 1024
#: Signatures of one server on one event that are looked at; honest ones have one.
MAX_SIGNATURES_PER_SERVER = 4

_Check = tuple[bytes, bytes, str]
#: server -> key id -> key, as `KnownKeys.of_all` gives it.
_Known = Mapping[str, Mapping[str, KnownKey]]
#: A job under way, and for each of its signatures the index of the event and whose it is.
_Job = tuple[asyncio.Task[list[bool]], list[tuple[int, str]]]


class Keyring:
    """Verifies what other servers sign."""

    def __init__(
        self,
        database: Database,
        calls: KeyCalls,
        clock: Clock,
        offload: Offload,
        server_name: str,
        own_keys: Sequence[SigningKey],
        trusted_key_servers: Sequence[str],
        *,
        old_keys: Sequence[PublishedKey] = (),
        certificate: bytes | None = None,
    ) -> None:
        """`own_keys` are those we sign with now, the first before all; `trusted_key_servers` the notaries.

        `old_keys` are those we signed with before; `certificate` is the DER of the TLS certificate
        that others reach us with, where that is known.
        """
        self._clock = clock
        self._offload = offload
        self._server_name = server_name
        self._own_keys = list(own_keys)
        self._keys = KnownKeys(database, clock)
        self._fetcher = KeyFetcher(self._keys, calls, clock, offload, server_name, trusted_key_servers)
        self._own = OwnKeys(server_name, self._own_keys, old_keys, certificate, clock)

    # -- events

    async def verify_events(self, events: Sequence[Event]) -> list[frozenset[str]]:
        """For each event, those of its required signers whose signature holds.

        Under a key that was valid at its `origin_server_ts` where the room version enforces that
        (rooms/v5); keys that are not known, or not for long enough, are fetched first.
        """
        signers = [required_signers(event) for event in events]
        others = set[str]().union(*signers) - {self._server_name}
        known = await self._keys.of_all(others)
        found = [self._checks(event, servers, known) for event, servers in zip(events, signers, strict=True)]
        wanted: dict[str, dict[str, int]] = {}
        for event, servers, held in zip(events, signers, found, strict=True):
            if servers != {server for server, _ in held}:
                self._collect_wanted(event, servers, known, wanted)
        if wanted:
            await self._fetcher.fetch(wanted)
            known.update(await self._keys.of_all(wanted))
            found = [
                self._checks(event, servers, known) for event, servers in zip(events, signers, strict=True)
            ]
        valid: list[set[str]] = [set() for _ in events]
        checks: list[_Check] = []
        owners: list[tuple[int, str]] = []
        under_way: collections.deque[_Job] = collections.deque()
        try:
            for index, held in enumerate(found):
                for server, check in held:
                    checks.append(check)
                    owners.append((index, server))
                if len(checks) >= SIGNATURES_PER_JOB:
                    task = asyncio.create_task(self._verify_batch(checks))
                    under_way.append((task, owners))
                    checks, owners = [], []
                    if len(under_way) >= MAX_JOBS:
                        await _note(under_way.popleft(), valid)
            while under_way:
                await _note(under_way.popleft(), valid)
        finally:
            for unfinished, _ in under_way:
                unfinished.cancel()
        for (index, server), holds in zip(owners, await self._verify_batch(checks), strict=True):
            if holds:
                valid[index].add(server)
        return [frozenset(servers) for servers in valid]

    async def prepare(self, wanted: Mapping[str, Mapping[str, int]]) -> None:
        """Have keys at hand that `verify_events` will need, fetched all at once.

        `wanted` is server -> key id -> the time (ms) at which the key must have been valid.
        """
        lacking: dict[str, dict[str, int]] = {}
        known = await self._keys.of_all(wanted)
        for server, keys in wanted.items():
            if server == self._server_name:
                continue
            for key_id, until in keys.items():
                key = known[server].get(key_id)
                if key is None or (key.good_until < until and not key.key.expired):
                    lacking.setdefault(server, {})[key_id] = until
        if lacking:
            await self._fetcher.fetch(lacking)

    async def usable(
        self, servers: Iterable[str], version: RoomVersion
    ) -> dict[str, dict[str, tuple[bytes, int | None]]]:
        """server -> key id -> (public key, until when (ms) events of that room version may be signed with it;
        None: whenever), of other servers' keys that are known."""
        others = set(servers) - {self._server_name}
        return {
            server: {
                key_id: (known.key.public, known.good_until if version.enforces_key_validity else None)
                for key_id, known in keys.items()
            }
            for server, keys in (await self._keys.of_all(others)).items()
        }

    async def foresee(self, servers: Iterable[str]) -> None:
        """Ask for the keys of servers before it is known which `prepare` will want. See KeyFetcher."""
        await self._fetcher.foresee(servers)

    async def _verify_batch(self, checks: list[_Check]) -> list[bool]:
        if len(checks) <= VERIFIED_ON_THE_SPOT:
            return verify_batch(checks)
        return await self._offload.run(verify_batch, checks)

    def _collect_wanted(
        self, event: Event, servers: frozenset[str], known: _Known, wanted: dict[str, dict[str, int]]
    ) -> None:
        """Add the keys that the event needs and that are not known, or not for its time."""
        for server in servers:
            if server == self._server_name:
                continue
            signatures = _signatures(event, server)
            if not signatures:
                continue
            lacking = {}
            for key_id, _ in signatures:
                key = known[server].get(key_id)
                if key is None:
                    lacking[key_id] = event.origin_server_ts if event.version.enforces_key_validity else 0
                elif key.signs_event(event.version, event.origin_server_ts):
                    break
                elif not key.key.expired:
                    lacking[key_id] = event.origin_server_ts
            else:
                for key_id, until in lacking.items():
                    keys = wanted.setdefault(server, {})
                    keys[key_id] = max(until, keys.get(key_id, 0))

    def _checks(self, event: Event, servers: frozenset[str], known: _Known) -> list[tuple[str, _Check]]:
        """(server, what to verify) for each signature under a key that counts."""
        found: list[tuple[str, _Check]] = []
        message: bytes | None = None
        for server in servers:
            for key_id, signature in _signatures(event, server):
                public: bytes | None = None
                if server == self._server_name:
                    public = self._own.that_signs(event, key_id)
                elif (key := known[server].get(key_id)) is not None and key.signs_event(
                    event.version, event.origin_server_ts
                ):
                    public = key.key.public
                if public is None:
                    continue
                if message is None:
                    message = event.signed
                found.append((server, (public, message, signature)))
        return found

    # -- requests

    async def verify_request(
        self, origin: str, authorization: Authorization, message: Mapping[str, Any]
    ) -> None:
        """Check the signature of a request (server-server §Request Authentication).

        `message` is `protocol.signing.request_object` of it. Raises MatrixError 401 M_UNAUTHORIZED.
        """
        if authorization.origin != origin:
            raise unauthorized("The request is signed by another server than its origin")
        public = await self._request_key(origin, authorization.key_id)
        encoded = canonical_json.encode(message)
        if await self._holds(public, encoded, authorization.signature):
            return
        try:
            canonical_json.check_values(message)
        except canonical_json.CanonicalJsonError:
            # Events of old room versions may hold floats, which others write in another way.
            try:
                lenient = canonical_json.encode_lenient(message)
            except ValueError:
                lenient = encoded
            if lenient != encoded and await self._holds(public, lenient, authorization.signature):
                return
        raise unauthorized(
            "The signature of the request does not fit its method, path, origin, destination and body"
        )

    async def _holds(self, public: bytes, message: bytes, signature: str) -> bool:
        if len(message) <= LARGE_MESSAGE_BYTES:
            return verify(public, message, signature)
        return await self._offload.run(verify, public, message, signature)

    async def _request_key(self, origin: str, key_id: str) -> bytes:
        """The key with which `origin` may sign requests now. Raises MatrixError 401."""
        now = self._clock.now_ms()
        known = (await self._keys.of(origin)).get(key_id)
        if known is None or (not known.key.expired and not known.signs_requests(now)):
            await self._fetcher.fetch({origin: {key_id: now}}, by_request=True)
            known = (await self._keys.of(origin)).get(key_id)
        if known is None:
            raise unauthorized(f"The key {key_id[:100]} of {origin} could not be found")
        if not known.signs_requests(now):
            raise unauthorized(f"The key {key_id} of {origin} has expired")
        return known.key.public

    # -- as a notary

    async def refresh(self, servers: Iterable[str]) -> None:
        """Have the servers' key documents in the store as they are now, if those answer. See KeyFetcher."""
        await self._fetcher.refresh(servers)

    def countersigned(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Another server's key document with our signature beside its own."""
        return self._own.sign(document)

    # -- ours

    async def key_document(self) -> bytes:
        """Our answer to GET /_matrix/key/v2/server: signed, and valid for half a day at least."""
        return self._own.document()

    def key_document_v1(self) -> bytes:
        """Our answer to GET /_matrix/key/v1, of 2014. Raises MatrixError 404 without a certificate."""
        return self._own.document_v1()


def _signatures(event: Event, server: str) -> list[tuple[str, str]]:
    """(key id, signature) of a server on an event, those that could be Ed25519, a few at most."""
    signatures = event.source.get("signatures", {}).get(server, {})
    found = [(key_id, text) for key_id, text in signatures.items() if key_id.startswith("ed25519:")]
    return found[:MAX_SIGNATURES_PER_SERVER]


async def _note(job: _Job, valid: list[set[str]]) -> None:
    task, owners = job
    for (index, server), holds in zip(owners, await task, strict=True):
        if holds:
            valid[index].add(server)

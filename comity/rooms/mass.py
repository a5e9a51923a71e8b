"""Masses of events that are held for authorization: the state of a large room, and its auth chain.

They come as bytes and are never all objects at once: a few hundred at a time are checked (of a large mass in
processes, else the signatures in threads), judged and stored, while the next are being checked. What comes
before its auth events is put in order and stored behind them. What was stored before an interruption is
found there.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
import orjson

from comity.federation.keyring import Keyring
from comity.ports import Offload
from comity.protocol import identifiers
from comity.protocol.admission import AuthEvents, Outcome
from comity.protocol.event import Event, StateKey
from comity.protocol.room_versions import EventIds, RoomVersion
from comity.protocol.snapshot import in_auth_order
from comity.rooms.batch import Batch
from comity.rooms.decisions import Decisions
from comity.rooms.fetch import Fetcher
from comity.rooms.judge import Judge, Missing
from comity.rooms.mass_check import Keys, check_all
from comity.rooms.room import Room
from comity.store import compression
from comity.store.database import Tx
from comity.store.events import ACCEPTED, REJECTED, Events

RoomOf = Callable[[], Awaitable[Room | None]]

_log = logging.getLogger(__name__)
#: Events that are checked together, then judged and stored by one write: each of these steps holds the
#: loop for some milliseconds, and the objects are a megabyte or two.
AT_ONCE = 250
#: As many of those are under way together: while one is stored, the next are being checked.
CHECKS_AT_ONCE = 5
#: Events of which processes are made use of, and the servers of a room that lets expect as many: they are
#: not there at once, and fewer are checked meanwhile.
MANY_EVENTS, MANY_SERVERS = 1_000, 100
#: Events whose signers are looked at before other tasks get a turn.
_GLANCED_AT_ONCE = 2_000


class _Glance(msgspec.Struct):
    """What tells whose key an event needs."""

    sender: str = ""
    origin_server_ts: int | float = 0
    signatures: dict[str, dict[str, str]] = {}


@dataclass(slots=True)
class _Part:
    """A checked event that waits for others, small: all of an auth chain are held at once."""

    event_id: str
    auth_event_ids: tuple[str, ...]
    depth: int
    packed: bytes

    def whole(self, version: RoomVersion) -> _Checked:
        """The whole event."""
        encoded = compression.unpack(self.packed)
        return Event(version, orjson.loads(encoded), event_id=self.event_id, encoded=encoded), self.packed


#: A checked event, and its bytes as they are stored.
_Checked = tuple[Event, bytes]


@dataclass(frozen=True, slots=True)
class _Mass:
    """What the events of one mass have in common."""

    version: RoomVersion
    room_id: str
    keys: Keys
    is_large: bool


@dataclass(slots=True)
class Taken:
    """What has been stored of a mass: the numbers of the events that may stand, by id, and their keys."""

    numbers: dict[str, int] = field(default_factory=dict)
    keys: dict[str, StateKey] = field(default_factory=dict)
    #: The ids of the events that claim to be the state.
    state: list[str] = field(default_factory=list)
    #: event number -> membership, of member events
    memberships: dict[int, str] = field(default_factory=dict)
    rejected: int = 0


class Mass:
    """Takes in the events of a state and its auth chain."""

    def __init__(
        self,
        *,
        events: Events,
        judge: Judge,
        decisions: Decisions,
        fetcher: Fetcher,
        keyring: Keyring,
        offload: Offload,
        crowd: Offload,
    ) -> None:
        """`crowd`: processes, see `Ports.crowd`."""
        self._events = events
        self._judge = judge
        self._decisions = decisions
        self._fetcher = fetcher
        self._keyring = keyring
        self._offload = offload
        self._crowd = crowd

    async def foresee(self, servers: Iterable[str]) -> None:
        """Events by users of these servers are about to come: have the keys of most at hand."""
        listed = list(servers)
        if len(listed) < MANY_SERVERS:
            await self._keyring.foresee(listed)
            return
        # Whoever has nothing to check yet makes itself ready.
        ready = [self._crowd.run(check_all, "1", "", (), {}) for _ in range(CHECKS_AT_ONCE)]
        await asyncio.gather(self._keyring.foresee(listed), *ready)

    async def take_in(
        self,
        room_of: RoomOf,
        version: RoomVersion,
        room_id: str,
        state: Sequence[msgspec.Raw],
        chain: Sequence[msgspec.Raw],
    ) -> Taken:
        """Check, judge and store a state and its auth chain, auth events first.

        What is malformed, wrongly signed or lacks an auth event is left out.
        """
        servers = await self._prepare_keys([*chain, *state])
        known = await self._keyring.usable(servers, version)
        # An id that a server chose may be an event's of another room: that is looked up here.
        is_large = len(servers) >= MANY_EVENTS and version.event_ids is not EventIds.ASSIGNED
        mass = _Mass(version, room_id, known, is_large)
        taken = Taken()
        waiting: dict[str, _Part] = {}

        async def put_off(checked: Sequence[_Checked]) -> None:
            for event, packed in checked:
                waiting[event.event_id] = _Part(event.event_id, event.auth_event_ids, event.depth, packed)

        async def store(checked: Sequence[_Checked]) -> None:
            taken.state.extend(event.event_id for event, _ in checked)
            lacking = await self._decisions.make(
                room_of, lambda tx, batch: self._store(tx, batch, checked, taken)
            )
            await put_off(lacking or ())

        # An auth chain comes in any order. What stands on it is stored as it is checked.
        await self._check_all(mass, chain, servers, put_off)
        await self._store_waiting(room_of, version, waiting, taken)
        await self._check_all(mass, state, servers[len(chain) :], store)
        await self._store_waiting(room_of, version, waiting, taken)
        for event_id in waiting:
            _log.debug("event %s lacks auth events and is left out", event_id)
        return taken

    async def _store_waiting(
        self, room_of: RoomOf, version: RoomVersion, waiting: dict[str, _Part], taken: Taken
    ) -> None:
        """Store those that lack no auth event any more; the others go on waiting."""
        ordered = in_auth_order(waiting)
        for start in range(0, len(ordered), AT_ONCE):
            checked = [part.whole(version) for part in ordered[start : start + AT_ONCE]]
            lacking = await self._decisions.make(
                room_of,
                lambda tx, batch: self._store(tx, batch, checked, taken),  # noqa: B023
            )
            left = {event.event_id for event, _ in lacking or ()}
            for event, _ in checked:
                if event.event_id not in left:
                    del waiting[event.event_id]

    async def _prepare_keys(self, raws: Sequence[msgspec.Raw]) -> list[str]:
        """Fetch the keys of all signers at once: one by one, each dead server would be waited for.

        The servers of their senders, "" where there is none.
        """
        servers = [""] * len(raws)
        wanted: dict[str, dict[str, int]] = {}
        for index, raw in enumerate(raws):
            if index % _GLANCED_AT_ONCE == _GLANCED_AT_ONCE - 1:
                await asyncio.sleep(0)
            try:
                glance = msgspec.json.decode(raw, type=_Glance)
                server = identifiers.server_of(glance.sender)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError, IndexError):
                continue
            servers[index] = server
            for key_id in list(glance.signatures.get(server, ()))[:4]:
                if key_id.startswith("ed25519:"):
                    keys = wanted.setdefault(server, {})
                    keys[key_id] = max(keys.get(key_id, 0), int(glance.origin_server_ts))
        await self._keyring.prepare(wanted)
        return servers

    async def _check_all(
        self,
        mass: _Mass,
        raws: Sequence[msgspec.Raw],
        servers: Sequence[str],
        take: Callable[[Sequence[_Checked]], Awaitable[None]],
    ) -> None:
        """Check events some at a time, and hand the valid ones on. `servers`: those of their senders.

        While some are taken, the next are checked in processes, or verified and compressed in threads.
        """
        under_way: collections.deque[asyncio.Task[list[_Checked]]] = collections.deque()
        try:
            for start in range(0, len(raws), AT_ONCE):
                some, theirs = raws[start : start + AT_ONCE], servers[start : start + AT_ONCE]
                check = (
                    self._check_elsewhere(mass, some, theirs) if mass.is_large else self._check(mass, some)
                )
                under_way.append(asyncio.create_task(check))
                if len(under_way) == CHECKS_AT_ONCE:
                    await take(await under_way.popleft())
            while under_way:
                await take(await under_way.popleft())
        finally:
            for unfinished in under_way:
                unfinished.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _check_elsewhere(
        self, mass: _Mass, raws: Sequence[msgspec.Raw], servers: Sequence[str]
    ) -> list[_Checked]:
        """`_check` in a process, as far as the events are plainly valid."""
        listed = [bytes(raw) for raw in raws]
        keys = {server: mass.keys[server] for server in servers if server in mass.keys}
        told = await self._crowd.run(check_all, mass.version.identifier, mass.room_id, listed, keys)
        plain: list[_Checked] = []
        others: list[msgspec.Raw] = []
        for raw, data, found in zip(raws, listed, told, strict=True):
            if found is None:
                others.append(raw)
                continue
            value = orjson.loads(data)
            value.pop("unsigned", None)
            event_id, packed = found
            plain.append((Event(mass.version, value, event_id=event_id), packed))
        return plain + await self._check(mass, others) if others else plain

    async def _check(self, mass: _Mass, raws: Sequence[msgspec.Raw]) -> list[_Checked]:
        values: list[object] = []
        for raw in raws:
            try:
                values.append(orjson.loads(memoryview(raw)))
            except orjson.JSONDecodeError:
                continue
        events = list((await self._fetcher.check(mass.version, values, mass.room_id)).values())
        packed = await self._offload.run(compression.pack_all, [event.encoded for event in events])
        return list(zip(events, packed, strict=True))

    def _store(self, tx: Tx, batch: Batch, checked: Sequence[_Checked], taken: Taken) -> list[_Checked]:
        """Judge and store events in their order; those that lack auth events are given back."""
        known = self._events.numbers(tx, [event.event_id for event, _ in checked])
        held = self._events.load(tx, known.values())
        lacking: list[_Checked] = []
        shared: dict[tuple[str, ...], AuthEvents] = {}
        for event, packed in checked:
            number = known.get(event.event_id)
            if number is not None:
                verdict = held[number].verdict
            else:
                outcome = self._judge.judge_outlier(tx, batch, event, shared)
                if isinstance(outcome, Missing):
                    lacking.append((event, packed))
                    continue
                number = batch.add_outlier(tx, event, outcome, is_new=True, packed=packed)
                verdict = REJECTED if outcome is Outcome.REJECT else ACCEPTED
            if verdict == REJECTED:
                taken.rejected += 1
                continue
            taken.numbers[event.event_id] = number
            if event.type == "m.room.member" and event.membership is not None:
                taken.memberships[number] = event.membership
            if event.is_state:
                taken.keys[event.event_id] = event.key
        return lacking

"""Masses of events that are held for authorization: the state of a large room, and its auth chain.

They come as bytes and are never all objects at once: checked a few hundred at a time (the signatures
in threads), put in the order of their auth events, then judged and stored a few hundred at a time.
What was stored before an interruption is found there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import orjson

from comity.federation.keyring import Keyring
from comity.protocol import identifiers
from comity.protocol.event import Event, StateKey
from comity.protocol.room_versions import RoomVersion
from comity.protocol.snapshot import in_auth_order
from comity.rooms.batch import Batch
from comity.rooms.decisions import Decisions
from comity.rooms.fetch import Fetcher
from comity.rooms.judge import Judge, Missing
from comity.rooms.room import Room
from comity.store.database import Tx
from comity.store.events import REJECTED, Events

_log = logging.getLogger(__name__)
#: Events that are objects at once while they are checked: some megabytes.
CHECKED_AT_ONCE = 400
#: As many of those are under way together.
CHECKS_AT_ONCE = 2
#: Events that are judged and stored by one write; the loop is held for some milliseconds.
STORED_AT_ONCE = 250
#: Events whose signers are looked at before other tasks get a turn.
_GLANCED_AT_ONCE = 2_000


class _Glance(msgspec.Struct):
    """What tells whose key an event needs."""

    sender: str = ""
    origin_server_ts: int | float = 0
    signatures: dict[str, dict[str, str]] = {}


@dataclass(slots=True)
class _Part:
    """A checked event, small."""

    event_id: str
    auth_event_ids: tuple[str, ...]
    key: StateKey | None
    membership: str | None
    depth: int
    encoded: bytes


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
        self, *, events: Events, judge: Judge, decisions: Decisions, fetcher: Fetcher, keyring: Keyring
    ) -> None:
        self._events = events
        self._judge = judge
        self._decisions = decisions
        self._fetcher = fetcher
        self._keyring = keyring

    async def take_in(
        self,
        room_of: Callable[[], Awaitable[Room | None]],
        version: RoomVersion,
        room_id: str,
        state: Sequence[msgspec.Raw],
        chain: Sequence[msgspec.Raw],
    ) -> Taken:
        """Check, judge and store a state and its auth chain, auth events first.

        What is malformed, wrongly signed or lacks an auth event is left out.
        """
        await self._prepare_keys([*state, *chain])
        parts: dict[str, _Part] = {}
        taken = Taken()
        await self._check_all(version, room_id, chain, parts)
        taken.state.extend(await self._check_all(version, room_id, state, parts))
        ordered = in_auth_order(parts)
        for start in range(0, len(ordered), STORED_AT_ONCE):
            some = ordered[start : start + STORED_AT_ONCE]
            await self._decisions.make(
                room_of,
                lambda tx, batch: self._store(tx, batch, version, some, taken),  # noqa: B023
            )
            for part in some:
                part.encoded = b""
        return taken

    async def _prepare_keys(self, raws: Sequence[msgspec.Raw]) -> None:
        """Fetch the keys of all signers at once: one by one, each dead server would be waited for."""
        wanted: dict[str, dict[str, int]] = {}
        for index, raw in enumerate(raws):
            if index % _GLANCED_AT_ONCE == _GLANCED_AT_ONCE - 1:
                await asyncio.sleep(0)
            try:
                glance = msgspec.json.decode(raw, type=_Glance)
                server = identifiers.server_of(glance.sender)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError, IndexError):
                continue
            for key_id in list(glance.signatures.get(server, ()))[:4]:
                if key_id.startswith("ed25519:"):
                    keys = wanted.setdefault(server, {})
                    keys[key_id] = max(keys.get(key_id, 0), int(glance.origin_server_ts))
        await self._keyring.prepare(wanted)

    async def _check_all(
        self, version: RoomVersion, room_id: str, raws: Sequence[msgspec.Raw], parts: dict[str, _Part]
    ) -> list[str]:
        """Check events some at a time; the ids of the valid ones."""
        ids: list[str] = []
        width = CHECKED_AT_ONCE * CHECKS_AT_ONCE
        for start in range(0, len(raws), width):
            some = raws[start : start + width]
            # While the signatures of some are verified in threads, the next are parsed.
            found = await asyncio.gather(
                *(
                    self._check(version, room_id, some[at : at + CHECKED_AT_ONCE], parts)
                    for at in range(0, len(some), CHECKED_AT_ONCE)
                )
            )
            for each in found:
                ids.extend(each)
            _log.debug("checked %d of %d events of %s", start + len(some), len(raws), room_id)
        return ids

    async def _check(
        self, version: RoomVersion, room_id: str, raws: Sequence[msgspec.Raw], parts: dict[str, _Part]
    ) -> list[str]:
        values: list[object] = []
        for raw in raws:
            try:
                values.append(orjson.loads(memoryview(raw)))
            except orjson.JSONDecodeError:
                continue
        checked = await self._fetcher.check(version, values, room_id)
        for event_id, event in checked.items():
            key = event.key if event.is_state else None
            membership = event.membership if event.type == "m.room.member" else None
            auth = tuple(event.auth_event_ids)
            parts[event_id] = _Part(event_id, auth, key, membership, event.depth, event.encoded)
        await asyncio.sleep(0)
        return list(checked)

    def _store(self, tx: Tx, batch: Batch, version: RoomVersion, some: Sequence[_Part], taken: Taken) -> None:
        known = self._events.numbers(tx, [part.event_id for part in some])
        held = self._events.load(tx, known.values())
        for part in some:
            number = known.get(part.event_id)
            if number is not None:
                if held[number].verdict == REJECTED:
                    taken.rejected += 1
                    continue
            else:
                event = Event(
                    version, orjson.loads(part.encoded), event_id=part.event_id, encoded=part.encoded
                )
                outcome = self._judge.judge_outlier(tx, batch, event)
                if isinstance(outcome, Missing):
                    _log.debug("event %s lacks auth events and is left out", part.event_id)
                    continue
                number = batch.add_outlier(tx, event, outcome)
                if self._events.get(tx, number).verdict == REJECTED:  # type: ignore[union-attr]
                    taken.rejected += 1
                    continue
            taken.numbers[part.event_id] = number
            if part.membership is not None:
                taken.memberships[number] = part.membership
            if part.key is not None:
                taken.keys[part.event_id] = part.key

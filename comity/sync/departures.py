"""One room's part of a sync, for a user who is not in the room: left, invited, knocked.

A room that was left is told as it was up to the leaving; an invite or a knock is told by
stripped state alone (client-server §Stripped state).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from comity.rooms.read import Reader
from comity.rooms.read.access import end_of_last_stay
from comity.rooms.read.format import stripped
from comity.store import heads
from comity.store import rooms as stored_rooms
from comity.store.database import Tx
from comity.store.events import StoredEvent, live_line
from comity.store.rooms import LocalMembership
from comity.store.state import EMPTY
from comity.sync.asked import Asked, Stretch
from comity.sync.delta import MEMBER, Delta, Deltas
from comity.sync.slice import AccountData, account_data_events, event_lists
from comity.sync.timeline import stretch

STRIPPED_TYPES = (
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
)
_STRIPPED_KEYS = ("content", "sender", "state_key", "type")
#: Where a state has no entry.
NO_SLOT = -1
_PAST = ("leave", "ban")
#: Memberships of which a client has been told with a timeline.
_TOLD = ("join", *_PAST)
#: Stripped events from another server that are handed on.
MAX_STRIPPED = 100


class OtherRooms:
    """Cuts the parts of rooms that the user is not in."""

    def __init__(self, reader: Reader, deltas: Deltas) -> None:
        self._reader = reader
        self._deltas = deltas

    # -- left

    def left(
        self,
        tx: Tx,
        asked: Asked,
        room_id: str,
        entry: LocalMembership,
        account_data: AccountData,
        wanted: Callable[[str, str], bool] | None = None,
    ) -> dict[str, Any] | None:
        """A room that the user left, or was kicked or banned from, up to then.

        `wanted`: which state is, by type and state key; the user's own membership always is.
        """
        history = [
            item
            for item in stored_rooms.local_history(tx, asked.user_id, entry.room_num)
            if item.position <= asked.now
        ]
        # A room that is forgotten is told of once: how else would the user's other apps know that it was
        # left? Nothing of it is shown then, unless it was forgotten in leaving.
        if asked.is_initial and any(item.forgotten for item in history[-1:]):
            return None
        before = [item for item in history if item.position <= asked.after]
        was_joined = bool(before) and before[-1].membership == "join"
        was_told = any(item.membership in _TOLD for item in before)
        # What was forgotten is not told again when another membership comes of it, such as a ban.
        left_at = end_of_last_stay([item for item in history if history[-1].at_once or not item.forgotten])
        view = self._reader.visibility.view(tx, asked.user_id, entry.room_num, is_leaving=True)
        if left_at is None or (not asked.is_initial and left_at <= asked.after):
            # An invite that was turned down, or a ban after leaving: only that is news.
            if asked.is_initial:
                return None
            shown, delta = self._only(tx, entry), Delta(EMPTY, EMPTY)
            is_old = left_at is not None and was_told and shown.before < live_line(left_at)
            if is_old:
                # State resolution chose a membership from further back: the timeline ends where it did.
                shown = Stretch([], False, shown.before)
            if (asked.request.use_state_after or is_old) and entry.event_num:
                # The timeline is no state then; and the room's own state may not be held here.
                delta.entries[NO_SLOT] = entry.event_num
        else:
            after = asked.after if was_joined else 0
            shown = stretch(
                tx, self._reader, asked, view, room_id, None,
                after=live_line(after), upto=live_line(entry.position),
            )  # fmt: skip
            if not after and was_told:
                # Told from the room's beginning: it does not go on where what the client has ended.
                shown = Stretch(shown.events, True, shown.before, shown.hidden)
            known = heads.at(tx, entry.room_num, after) if after else EMPTY
            delta = self._delta(
                tx, asked, entry.room_num, known, heads.at(tx, entry.room_num, left_at), shown
            )
        if wanted is not None:
            delta.entries = {
                slot: number
                for slot, number in delta.entries.items()
                if number == entry.event_num or wanted(*self._reader.states.key(tx, entry.room_num, slot))
            }
        part = event_lists(tx, self._reader, asked, view, room_id, shown, delta, self._deltas)
        part["account_data"] = {
            "events": account_data_events(asked.wanted.room.account_data, room_id, account_data)
        }
        return part

    def end_before(self, tx: Tx, user_id: str, entry: LocalMembership, after: int) -> LocalMembership | None:
        """What ended a stay, or an earlier invite, before an invite `entry` that the user is not told of.

        None if who was told everything up to `after` takes the user to be out of the room already.
        """
        history = stored_rooms.local_history(tx, user_id, entry.room_num)
        before = [item for item in history if item.position <= after]
        if not before or before[-1].membership in _PAST:
            return None
        since = [item for item in history if after < item.position < entry.position]
        return next((item for item in reversed(since) if item.membership in _PAST), None)

    def _delta(self, tx: Tx, asked: Asked, room_num: int, known: bytes, last: bytes, shown: Stretch) -> Delta:
        """The state up to the leaving; of members, if they are loaded lazily, those who matter.

        client-server §Lazy-loading room members: who sent an event is told of, redundant or not.
        """
        lazy, at_end = asked.wanted.room.state.lazy_load_members, asked.request.use_state_after
        needed = frozenset({asked.user_id, *(stored.event.sender for stored in shown.events)})
        delta = self._deltas.between(
            tx, room_num, known, last, shown,
            at_end=at_end, only_members=needed if lazy and known == EMPTY else None,
        )  # fmt: skip
        if lazy:
            in_timeline = set() if at_end else {stored.number for stored in shown.events}
            members = self._deltas.members_at(tx, room_num, delta, shown, sorted(needed), at_end=at_end)
            for slot, _, number in members:
                if number not in in_timeline:
                    delta.entries.setdefault(slot, number)
        return delta

    def _only(self, tx: Tx, entry: LocalMembership) -> Stretch:
        stored = self._reader.events.get(tx, entry.event_num) if entry.event_num else None
        line = (stored.line if stored is not None else None) or live_line(entry.position)
        return Stretch([] if stored is None else [stored], stored is not None, line - 1)

    # -- invited, knocked

    def invited(self, tx: Tx, asked: Asked, entry: LocalMembership) -> dict[str, Any] | None:
        """An invite; None if the user wants none (client-server §Invite permission), or none of who sent it
        (§Ignoring Users). It is kept, and told of to who asks afresh once they want invites again."""
        if asked.blocks_invites:
            return None
        event = self._reader.events.get(tx, entry.event_num) if entry.event_num else None
        if event is not None and event.event.sender in asked.ignored:
            return None
        return {"invite_state": {"events": self._stripped(tx, asked, entry, event)}}

    def knocked(self, tx: Tx, asked: Asked, entry: LocalMembership) -> dict[str, Any]:
        """A knock that waits for an answer."""
        event = self._reader.events.get(tx, entry.event_num) if entry.event_num else None
        return {"knock_state": {"events": self._stripped(tx, asked, entry, event)}}

    def _stripped(
        self, tx: Tx, asked: Asked, entry: LocalMembership, own: StoredEvent | None
    ) -> Sequence[object]:
        """What a stranger is shown of the room, the user's own membership last."""
        if entry.stripped is not None:
            events = _pruned(orjson.loads(entry.stripped), asked.user_id if own is not None else None)
        else:
            events = self._stripped_here(tx, asked, entry, own)
        return [*events, stripped(own.event)] if own is not None else events

    def _stripped_here(
        self, tx: Tx, asked: Asked, entry: LocalMembership, own: StoredEvent | None
    ) -> list[object]:
        keys = [(event_type, "") for event_type in STRIPPED_TYPES]
        if own is not None and own.event.sender != asked.user_id:
            # Whoever invites has a name that the client will want to show.
            keys.append((MEMBER, own.event.sender))
        state = heads.at(tx, entry.room_num, asked.now)
        found: list[object] = []
        for key in keys:
            slot = self._reader.states.slot(tx, entry.room_num, key)
            number = 0 if slot is None else self._reader.states.get(tx, state, slot)
            stored = self._reader.events.get(tx, number) if number else None
            if stored is not None:
                found.append(stripped(stored.event))
        return found


def _pruned(listed: object, without: str | None) -> list[object]:
    """Stripped state from elsewhere, cut to what it may have; the member `without` is added anew."""
    found: list[object] = []
    for item in listed[:MAX_STRIPPED] if isinstance(listed, list) else ():
        if not isinstance(item, dict) or not isinstance(item.get("content"), dict):
            continue
        if not all(isinstance(item.get(key), str) for key in _STRIPPED_KEYS[1:]):
            continue
        if without is not None and item["type"] == MEMBER and item["state_key"] == without:
            continue
        found.append({key: item[key] for key in _STRIPPED_KEYS})
    return found

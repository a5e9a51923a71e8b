"""Lists of sliding sync: which of a user's rooms are in each, in which order (MSC4186).

The rooms of a user are kept sorted by what happened in them last; a look costs what changed since
the one before, not the number of rooms.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from comity.bus import Bus
from comity.store import personal
from comity.store.cache import Bounded
from comity.store.database import Tx
from comity.store.local_stays import LocalStay, local_stays
from comity.store.rooms import LocalMembership
from comity.store.state import EMPTY
from comity.sync.sliding.room_facts import Facts, RoomFacts
from comity.sync.sliding.wish import ListFilter, ListWish
from comity.sync.user_rooms import UserRooms

#: Users whose rooms are kept sorted, and their direct chats: about 200 bytes a room.
MAX_USERS = 2_000
#: Of who is in a room, or may come to be.
PRESENT = ("join", "invite", "knock")


@dataclass(frozen=True, slots=True)
class Entry:
    """A room of a user; `bump` is the position by which it is sorted, `came` that at which they came."""

    room_id: str
    bump: int
    own: LocalMembership
    came: int

    @property
    def is_present(self) -> bool:
        """Whether the user is in the room, or may come to be."""
        return self.own.membership in PRESENT


@dataclass(slots=True)
class SortedRooms:
    """A user's rooms as of `position`, newest first, and by their ids."""

    position: int
    memberships: object
    entries: list[Entry]
    by_id: dict[str, Entry]


class RoomLists:
    """Sorts and filters the rooms of users."""

    def __init__(self, facts: RoomFacts, bus: Bus) -> None:
        self._facts = facts
        self._bus = bus
        self._sorted: Bounded[str, SortedRooms] = Bounded(MAX_USERS)
        #: User -> their direct chats, as of a position.
        self._direct: Bounded[str, tuple[int, frozenset[str]]] = Bounded(MAX_USERS)

    def direct(self, tx: Tx, user_id: str, now: int) -> frozenset[str]:
        """The rooms that a user marked as direct chats (client-server §Direct Messaging)."""
        known = self._direct.get(user_id)
        if known is None or self._bus.changed((user_id,), known[0]):
            known = (now, _direct_rooms(tx, user_id))
            self._direct.put(user_id, known)
        return known[1]

    def entries(self, tx: Tx, user_id: str, rooms: UserRooms, now: int) -> SortedRooms:
        """The rooms that lists may show: joined, invited, knocked on, and what they were removed from."""
        known = self._sorted.get(user_id)
        if known is not None and known.memberships is rooms.memberships:
            changed = self._bus.keys_after(known.position)
            if changed is not None:
                mine = [key for key in changed if key in rooms.memberships]
                if mine:
                    known = self._renewed(tx, known, rooms, mine, now)
                    self._sorted.put(user_id, known)
                elif now > known.position:
                    known.position = now
                return known
        # client-server §Invite permission: whoever blocks invites is not told of any.
        shown = set(PRESENT) - ({"invite"} if rooms.blocks_invites else set())
        stays = local_stays(tx, user_id, now)
        removed = self._removed_from(tx, user_id, rooms, stays)
        listed = {
            room_id: own
            for room_id, own in rooms.memberships.items()
            if not own.forgotten
            and (own.membership in shown or own.room_num in removed)
            and not self._is_ignored(tx, own, rooms)
        }
        bumps = self._facts.activity(tx, ((own.room_num, room_id) for room_id, own in listed.items()), now)
        # Another membership event in the same stay, such as a new name, is no activity: it would lift every
        # room, and all in another order.
        entries = [
            _entry(room_id, own, stays[own.room_num].since, bumps[own.room_num])
            for room_id, own in listed.items()
        ]
        entries.sort(key=_by_bump)
        by_id = {entry.room_id: entry for entry in entries}
        found = SortedRooms(now, rooms.memberships, entries, by_id)
        self._sorted.put(user_id, found)
        return found

    def _removed_from(
        self, tx: Tx, user_id: str, rooms: UserRooms, stays: Mapping[int, LocalStay]
    ) -> set[int]:
        """The numbers of rooms that the user was in and that others removed them from (MSC4186, Lists).

        They stay in lists until they are forgotten: the user may not have seen it otherwise. Of rooms that
        they left themselves they know.
        """
        ended = [own for own in rooms.memberships.values() if not own.forgotten]
        banned = {own.room_num for own in ended if own.membership == "ban" and stays[own.room_num].was_joined}
        gone = [own for own in ended if own.membership == "leave" and stays[own.room_num].before == "join"]
        senders = self._facts.senders(tx, [own.event_num for own in gone])
        return banned.union(own.room_num for own in gone if senders.get(own.event_num, user_id) != user_id)

    def _is_ignored(self, tx: Tx, own: LocalMembership, rooms: UserRooms) -> bool:
        """Whether it is an invite of somebody whom the user ignores (client-server §Ignoring Users)."""
        if own.membership != "invite" or not rooms.ignored:
            return False
        return self._facts.senders(tx, [own.event_num]).get(own.event_num) in rooms.ignored

    def _renewed(
        self, tx: Tx, known: SortedRooms, rooms: UserRooms, changed: Sequence[str], now: int
    ) -> SortedRooms:
        """The same with `changed` at their new places; the others are neither looked at nor compared."""
        moved = [entry for entry in map(known.by_id.get, changed) if entry is not None]
        pairs = [(entry.own.room_num, entry.room_id) for entry in moved]
        bumps = self._facts.activity(tx, pairs, now)
        entries, by_id = known.entries.copy(), known.by_id.copy()
        for entry in moved:
            del entries[bisect_left(entries, _by_bump(entry), key=_by_bump)]
            renewed = _entry(entry.room_id, entry.own, entry.came, bumps[entry.own.room_num])
            insort(entries, renewed, key=_by_bump)
            by_id[entry.room_id] = renewed
        return SortedRooms(now, known.memberships, entries, by_id)

    def select(
        self, tx: Tx, user_id: str, wish: ListWish, entries: list[Entry], rooms: UserRooms, now: int
    ) -> list[Entry]:
        """The rooms of one list, in its order."""
        test = self._test(tx, user_id, wish.filter, rooms, now)
        found = entries if test is None else [entry for entry in entries if test(entry)]
        if wish.by_name:
            found = sorted(found, key=lambda entry: self._name(tx, entry, now))
        return found

    def _name(self, tx: Tx, entry: Entry, now: int) -> tuple[bool, str, str]:
        name = self._facts_of(tx, entry, now).name
        return name is None, (name or "").casefold(), entry.room_id

    def _test(
        self, tx: Tx, user_id: str, wanted: ListFilter, rooms: UserRooms, now: int
    ) -> Callable[[Entry], bool] | None:
        """Whether a room passes the filter; None if all do."""
        tests: list[Callable[[Entry], bool]] = []
        if wanted.is_invite is not None:
            tests.append(lambda entry: (entry.own.membership == "invite") is wanted.is_invite)
        if wanted.is_dm is not None:
            direct = self.direct(tx, user_id, now)
            tests.append(lambda entry: (entry.room_id in direct) is wanted.is_dm)
        if wanted.tags is not None or wanted.not_tags:
            tests.append(_tag_test(tx, user_id, wanted))
        if wanted.spaces is not None:
            inside = self._children(tx, wanted.spaces, rooms, now)
            tests.append(lambda entry: entry.room_id in inside)
        if wanted.is_encrypted is not None or wanted.room_types is not None or wanted.not_room_types:
            tests.append(lambda entry: self._fits(tx, entry, wanted, now))
        if wanted.room_name_like:
            part = wanted.room_name_like.casefold()
            tests.append(lambda entry: part in self._name(tx, entry, now)[1])
        if not tests:
            return None
        return lambda entry: all(test(entry) for test in tests)

    def _fits(self, tx: Tx, entry: Entry, wanted: ListFilter, now: int) -> bool:
        facts = self._facts_of(tx, entry, now)
        if wanted.is_encrypted is not None and facts.is_encrypted is not wanted.is_encrypted:
            return False
        if wanted.room_types is not None and facts.room_type not in wanted.room_types:
            return False
        return facts.room_type not in wanted.not_room_types

    def _facts_of(self, tx: Tx, entry: Entry, now: int) -> Facts:
        own = entry.own
        if own.stripped is not None:
            # Of a room that we are not in, its inviter's word is all there is.
            return _stripped_facts(own.stripped, own.position)
        if not entry.is_present:
            # What became of it since is no affair of theirs.
            return self._facts.at(tx, own.room_num, own.position)
        return self._facts.get(tx, own.room_num, entry.room_id, now)

    def _children(self, tx: Tx, spaces: Iterable[str], rooms: UserRooms, now: int) -> frozenset[str]:
        """The rooms inside spaces that the user is in."""
        found: set[str] = set()
        for space in spaces:
            own = rooms.joined.get(space)
            if own is not None:
                found |= self._facts.get(tx, own.room_num, space, now).children
        return frozenset(found)


def _by_bump(entry: Entry) -> tuple[int, str]:
    return -entry.bump, entry.room_id


def _entry(room_id: str, own: LocalMembership, came: int, activity: int) -> Entry:
    """What happened before somebody came, or where they only are invited, does not lift a room for them."""
    return Entry(room_id, max(activity, came) if own.membership == "join" else own.position, own, came)


def _direct_rooms(tx: Tx, user_id: str) -> frozenset[str]:
    content: Any = orjson.loads(personal.account_data(tx, user_id, "", "m.direct") or "{}")
    found: set[str] = set()
    for rooms in content.values() if isinstance(content, dict) else ():
        found.update(room for room in rooms if isinstance(room, str)) if isinstance(rooms, list) else None
    return frozenset(found)


def _tag_test(tx: Tx, user_id: str, wanted: ListFilter) -> Callable[[Entry], bool]:
    tags: dict[str, frozenset[str]] = {}
    for room_id, text in personal.of_type_in_rooms(tx, user_id, "m.tag"):
        content: Any = orjson.loads(text)
        named = content.get("tags") if isinstance(content, dict) else None
        tags[room_id] = frozenset(named) if isinstance(named, dict) else frozenset()

    def test(entry: Entry) -> bool:
        own = tags.get(entry.room_id, frozenset())
        return (wanted.tags is None or bool(own & wanted.tags)) and not own & wanted.not_tags

    return test


def _stripped_facts(text: str, position: int) -> Facts:
    """The facts about a room that stripped state tells."""
    listed: Any = orjson.loads(text)
    found: dict[str, dict[str, Any]] = {}
    for item in listed if isinstance(listed, list) else ():
        content = item.get("content") if isinstance(item, dict) else None
        if isinstance(content, dict) and isinstance(item.get("type"), str):
            found[item["type"]] = content
    room_type = found.get("m.room.create", {}).get("type")
    name = found.get("m.room.name", {}).get("name")
    return Facts(
        position,
        EMPTY,
        room_type if isinstance(room_type, str) else None,
        "m.room.encryption" in found,
        name if isinstance(name, str) and name else None,
    )

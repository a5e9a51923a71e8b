"""The user directory: people found by their names and ids (client-server §User Directory).

Owns who finds whom. A name that somebody bears in a room is shown to those alone who may see it
there: our own users are shown by their profiles, others by a membership in a room that the searcher
is in, or that anybody may join or read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from comity.protocol.errors import bad_json, invalid_param, missing_param
from comity.protocol.identifiers import server_of
from comity.protocol.names import id_words, match, name_words, phrase_of, term_readings
from comity.rooms.read.access import is_world_readable
from comity.store import accounts, user_directory
from comity.store import rooms as stored_rooms
from comity.store.cache import Bounded
from comity.store.database import Database, StoreFailedError, StoreOverloadedError, Tx
from comity.store.events import Events
from comity.store.state import States
from comity.store.user_directory import Place

_log = logging.getLogger(__name__)
#: People in one answer, and where the client does not say how many.
MAX_LIMIT, DEFAULT_LIMIT = 50, 10
#: Bytes of what is searched for: nobody types more.
MAX_TERM_BYTES = 1_024
#: Entries of the index that one search looks at, in the order of the words: exact ones come first.
MAX_SCANNED = 3_000
#: People whose rooms and names are looked at together.
CHUNK = 128
#: Rooms of those that are looked at: beyond it there is somebody who is in very many.
MAX_PLACES = 10_000
#: Names of one user of another server, who may bear another one in each room.
MAX_NAMES = 5
#: Such names that one search looks at: about 100 microseconds each if they are not in memory.
MAX_NAMES_READ = 1_000
#: Rooms of which it is remembered whether anybody may join or read them; about 150 bytes each.
MAX_ROOMS = 20_000
#: Such rooms that one search asks the state of.
MAX_ROOMS_ASKED = 500
#: Steps of the index that a search waits for; the rest is done behind it.
STEPS_WAITED = 4
_FIELDS = ("displayname", "avatar_url")


@dataclass(frozen=True, slots=True)
class _Found:
    user_id: str
    name: str | None
    avatar: str | None
    whole: int
    is_near: bool

    def told(self) -> dict[str, str]:
        """As clients get it."""
        told = {"user_id": self.user_id, "display_name": self.name, "avatar_url": self.avatar}
        return {name: value for name, value in told.items() if value is not None}

    def rank(self) -> tuple[object, ...]:
        """The best first: most words whole, in a room with the searcher, with a profile."""
        return (-self.whole, not self.is_near, self.name is None and self.avatar is None, self.user_id)


class UserDirectory:
    """Finds people, and keeps the index by which it does."""

    def __init__(
        self, database: Database, states: States, events: Events, server_name: str, *, finds_all: bool
    ) -> None:
        """`finds_all`: whether every account of this server is found, wherever it is."""
        self._database = database
        self._states = states
        self._events = events
        self._server_name = server_name
        self._finds_all = finds_all
        #: Room number -> (the name of its state, whether anybody may join or read it then).
        self._open: Bounded[int, tuple[bytes, bool]] = Bounded(MAX_ROOMS)
        self._indexing: asyncio.Task[None] | None = None

    async def search(self, user_id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """`POST /user_directory/search`.

        Raises 400 M_MISSING_PARAM, M_BAD_JSON or M_INVALID_PARAM.
        """
        term, limit = body.get("search_term"), body.get("limit")
        if term is None:
            raise missing_param("The request body lacks search_term")
        if not isinstance(term, str):
            raise bad_json("search_term is not a string")
        if len(term.encode("utf-8", "surrogatepass")) > MAX_TERM_BYTES:
            raise invalid_param(f"search_term is longer than {MAX_TERM_BYTES} bytes")
        if limit is None:
            limit = DEFAULT_LIMIT
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise bad_json("limit is not an integer")
        if limit < 1:
            raise invalid_param("limit is not greater than 0")
        readings, phrase, most = term_readings(term), phrase_of(term), min(limit, MAX_LIMIT)
        if readings:
            await self._catch_up()
        found, is_cut = list[_Found](), False
        for asked in readings:
            found, is_cut = await self._database.read(
                lambda tx, asked=asked: self._find(tx, user_id, phrase, asked, most)  # type: ignore[misc]
            )
            if found:
                break
        listed = sorted(found, key=_Found.rank)
        return {"results": [each.told() for each in listed[:most]], "limited": is_cut or len(listed) > most}

    # -- the index

    async def _catch_up(self) -> None:
        """Have the index know who came since; of a great many, some are known a little later."""
        if self._indexing is not None and not self._indexing.done():
            return
        for _ in range(STEPS_WAITED):
            if not await self._database.read(user_directory.is_behind):
                return
            if not await self._step():
                return
        self._indexing = asyncio.get_running_loop().create_task(self._index())

    async def _step(self) -> bool:
        return await self._database.write(lambda tx: user_directory.step(tx, self._server_name))

    async def _index(self) -> None:
        try:
            more = True
            while more:
                # Each is a transaction of its own: whoever else wants to write goes between.
                more = await self._step()
        except (StoreFailedError, StoreOverloadedError) as error:
            _log.warning("the user directory is not up to date, the next search goes on: %s", error)

    async def close(self) -> None:
        """Stop working on the index; the next search goes on."""
        if self._indexing is not None:
            self._indexing.cancel()
            await asyncio.gather(self._indexing, return_exceptions=True)

    # -- one search

    def _find(
        self, tx: Tx, searcher: str, phrase: str, asked: Sequence[str], most: int
    ) -> tuple[list[_Found], bool]:
        """Up to `most` people and one more, and whether there may be others that were not looked at."""
        scanned = user_directory.beginning_with(tx, asked[0], MAX_SCANNED)
        is_cut = len(scanned) == MAX_SCANNED
        if len(asked) > 1:
            # Whoever is called so as a whole is found however common each of the words is.
            scanned = user_directory.beginning_with(tx, phrase, MAX_SCANNED) + scanned
        candidates = list(dict.fromkeys(user_id for _, user_id in scanned))
        looking = _Looking(self, tx, user_directory.rooms_of(tx, searcher), asked)
        found: list[_Found] = []
        for start in range(0, len(candidates), CHUNK):
            found += looking.at(candidates[start : start + CHUNK])
            if len(found) > most or looking.is_tired:
                return found, True
        return found, is_cut

    def is_ours(self, user_id: str) -> bool:
        """Whether it is a user of this server."""
        return server_of(user_id) == self._server_name

    @property
    def finds_all(self) -> bool:
        """Whether every account of this server is found."""
        return self._finds_all

    def profile_in(self, tx: Tx, place: Place) -> tuple[str | None, str | None]:
        """(display name, avatar) of a membership."""
        stored = self._events.get(tx, place.event_num)
        content = stored.event.content if stored is not None else {}
        name, avatar = (content.get(field) for field in _FIELDS)
        return name if isinstance(name, str) else None, avatar if isinstance(avatar, str) else None

    def is_open(self, tx: Tx, room_num: int) -> bool | None:
        """Whether anybody may join a room that we are in, or read it, as remembered of its present state.

        None if that has to be asked.
        """
        room = stored_rooms.by_number(tx, room_num)
        if room is None or not room.resident:
            return False
        known = self._open.get(room_num)
        return known[1] if known is not None and known[0] == room.state else None

    def ask_open(self, tx: Tx, room_num: int) -> bool:
        """The same, from its state."""
        room = stored_rooms.by_number(tx, room_num)
        if room is None or not room.resident:
            return False
        slot = self._states.slot(tx, room_num, ("m.room.join_rules", ""))
        number = 0 if slot is None else self._states.get(tx, room.state, slot)
        rules = self._events.get(tx, number) if number else None
        is_open = rules is not None and rules.event.content.get("join_rule") == "public"
        is_open = is_open or is_world_readable(tx, self._states, self._events, room_num, room.state)
        self._open.put(room_num, (room.state, is_open))
        return is_open


class _Looking:
    """One search: what it has learnt of rooms, and the people that it holds against the term."""

    def __init__(self, directory: UserDirectory, tx: Tx, mine: set[int], asked: Sequence[str]) -> None:
        self._directory = directory
        self._tx = tx
        self._mine = mine
        self._asked = asked
        self._rooms: dict[int, bool] = {}
        self._rooms_asked = 0
        self._names_read = 0

    @property
    def is_tired(self) -> bool:
        """Whether it has looked at as many names as one search may."""
        return self._names_read >= MAX_NAMES_READ

    def at(self, user_ids: Sequence[str]) -> list[_Found]:
        """Those of some people who match and whom the searcher may find."""
        ours = [user_id for user_id in user_ids if self._directory.is_ours(user_id)]
        living = user_directory.accounts_among(self._tx, ours)
        profiles = accounts.profiles(self._tx, living, _FIELDS) if living else {}
        places = user_directory.places(self._tx, user_ids, MAX_PLACES)
        found = []
        for user_id in user_ids:
            seen = places.get(user_id, [])
            if user_id in living:
                each = self._one_of_ours(user_id, profiles.get(user_id, {}), seen, is_guest=living[user_id])
            elif not self._directory.is_ours(user_id):
                each = self._one_elsewhere(user_id, seen)
            else:
                continue
            if each is not None:
                found.append(each)
        return found

    def _one_of_ours(
        self, user_id: str, profile: Mapping[str, str], places: Sequence[Place], *, is_guest: bool
    ) -> _Found | None:
        name, avatar = (_text(profile.get(field)) for field in _FIELDS)
        whole = match(self._asked, {*id_words(user_id), *name_words(name)})
        if whole is None:
            return None
        is_near = any(place.room_num in self._mine for place in places)
        may_find = is_near or (self._directory.finds_all and not is_guest)
        if may_find or any(self._is_open(place.room_num) for place in places):
            return _Found(user_id, name, avatar, whole, is_near)
        return None

    def _one_elsewhere(self, user_id: str, places: Sequence[Place]) -> _Found | None:
        near = [place for place in places if place.room_num in self._mine]
        others = [place for place in places if place.room_num not in self._mine]
        names = 0
        for is_near, listed in ((True, near), (False, others)):
            for place in sorted(listed, key=lambda place: -place.position):
                if names >= MAX_NAMES:
                    return None
                if not is_near and not self._is_open(place.room_num):
                    continue
                names += 1
                self._names_read += 1
                name, avatar = self._directory.profile_in(self._tx, place)
                whole = match(self._asked, {*id_words(user_id), *name_words(name)})
                if whole is not None:
                    return _Found(user_id, name, avatar, whole, bool(near))
        return None

    def _is_open(self, room_num: int) -> bool:
        known = self._rooms.get(room_num)
        if known is None:
            known = self._directory.is_open(self._tx, room_num)
            if known is None and self._rooms_asked < MAX_ROOMS_ASKED:
                self._rooms_asked += 1
                known = self._directory.ask_open(self._tx, room_num)
            self._rooms[room_num] = known = bool(known)
        return known


def _text(value: str | None) -> str | None:
    """A text of a profile, from its JSON."""
    loaded = orjson.loads(value) if value is not None else None
    return loaded if isinstance(loaded, str) else None

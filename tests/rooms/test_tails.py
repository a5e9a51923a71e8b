"""The remembered end of a room's timeline, when history comes into the middle of it."""

from __future__ import annotations

from pathlib import Path

from comity.rooms.read.tail import Tails
from comity.store import rooms as stored_rooms
from comity.store.database import Tx
from comity.store.rooms import Gap
from tests.rooms.support import Place, a_place


class Hidden:
    """A room in whose timeline one event is missing, and may come."""

    def __init__(self, place: Place, room_id: str, event_id: str) -> None:
        self.place, self.room_id = place, room_id
        self.number = place.head(room_id).number
        row = place.database.read_now(
            lambda tx: tx.one("SELECT event_num, line FROM events WHERE event_id = ?", (event_id,))
        )
        assert row is not None
        self._event, self._line = row
        self._id = event_id
        self.tails = Tails(place.rooms.reader.events, place.app._bus)

    async def hide(self) -> None:
        def write(tx: Tx) -> None:
            tx.run("UPDATE events SET line = NULL WHERE event_num = ?", (self._event,))
            stored_rooms.put_gap(tx, self.number, Gap(self._line + 1, self._line + 1, (self._id,)))

        await self.place.database.write(write)

    async def come(self) -> None:
        def write(tx: Tx) -> None:
            tx.run("UPDATE events SET line = ? WHERE event_num = ?", (self._line, self._event))
            stored_rooms.close_gap(tx, self.number, self._line + 1)

        await self.place.database.write(write)

    def shown(self, tails: Tails) -> list[object] | None:
        """The texts of the newest three messages as they are remembered; None: ask the store."""

        def read(tx: Tx) -> list[object] | None:
            tail = tails.get(tx, self.number, self.room_id, self.place.database.last_committed)
            newest = tails.newest(tx, tail, 0, 3)
            return None if newest is None else [stored.event.content.get("body") for stored in newest]

        return self.place.database.read_now(read)


async def test_history_that_comes_unnoticed_is_not_left_out(tmp_path: Path) -> None:
    """Whoever asked for it may have gone: nobody says that it came, but the gap is closed."""
    async with a_place(tmp_path) as place:
        room_id = await place.create()
        hidden = Hidden(place, room_id, await place.say(room_id, "history"))
        await place.say(room_id, "one")
        await hidden.hide()
        assert hidden.shown(hidden.tails) is None
        await hidden.come()
        await place.say(room_id, "two")
        assert hidden.shown(hidden.tails) == ["two", "one", "history"]

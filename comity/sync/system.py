"""The parts of `sync`, built in the order in which they need each other."""

from __future__ import annotations

from comity.bus import Bus
from comity.rooms.read import Reader
from comity.store.database import Database
from comity.store.device_keys import KeyCounts
from comity.sync.delta import Deltas
from comity.sync.departures import OtherRooms
from comity.sync.devices import Devices
from comity.sync.memory import Memory
from comity.sync.notifications import Notifications
from comity.sync.old import OldSync
from comity.sync.old_stream import EventStream
from comity.sync.openings import DEFAULT_MEGABYTES, Openings
from comity.sync.presence import PresenceNews
from comity.sync.slice import JoinedRooms
from comity.sync.sliding.answer import Sliding
from comity.sync.sliding.extensions import Extensions
from comity.sync.sliding.room import SlidingRooms
from comity.sync.sliding.room_facts import RoomFacts
from comity.sync.sliding.room_lists import RoomLists
from comity.sync.summary import Summaries
from comity.sync.unread import UnreadCounts
from comity.sync.user_rooms import RoomsOfUsers
from comity.sync.v3 import Sync
from comity.users.ephemeral import Ephemeral


class SyncSystem:
    """All ways to follow rooms: views of one log, on the same parts."""

    def __init__(
        self, *, database: Database, bus: Bus, reader: Reader, ephemeral: Ephemeral, key_counts: KeyCounts,
        megabytes: int = DEFAULT_MEGABYTES,
    ) -> None:  # fmt: skip
        """`megabytes` are for what is made once for all members of a room (`comity.sync.openings`)."""
        user_rooms, devices = RoomsOfUsers(bus), Devices(database, bus, key_counts)
        deltas, summaries = Deltas(reader.states, reader.events), Summaries()
        unread, others = UnreadCounts(reader, summaries, bus), OtherRooms(reader, deltas)
        self.notifications = Notifications(
            database=database, bus=bus, reader=reader, user_rooms=user_rooms, unread=unread
        )
        joined = JoinedRooms(
            reader, deltas, summaries, unread, ephemeral, Openings(reader, deltas, megabytes)
        )
        presence = PresenceNews(ephemeral)
        memory = Memory(
            bus=bus, ephemeral=ephemeral, user_rooms=user_rooms, devices=devices, joined=joined,
            presence=presence,
        )  # fmt: skip
        self.v3 = Sync(
            database=database, bus=bus, reader=reader, ephemeral=ephemeral, user_rooms=user_rooms,
            devices=devices, others=others, joined=joined, presence=presence, memory=memory,
        )  # fmt: skip
        self.sliding = Sliding(
            database=database, bus=bus, reader=reader, ephemeral=ephemeral, user_rooms=user_rooms,
            memory=memory, lists=RoomLists(RoomFacts(reader, bus), bus),
            rooms=SlidingRooms(reader, deltas, summaries, unread, others),
            extensions=Extensions(devices, ephemeral, bus),
        )  # fmt: skip
        self.old = OldSync(database=database, bus=bus, reader=reader, sync=self.v3, ephemeral=ephemeral)
        self.old_stream = EventStream(database=database, bus=bus, reader=reader)

"""The parts of `rooms`, built in the order in which they need each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from comity.bus import Bus
from comity.config import Config
from comity.federation.calls import Calls
from comity.federation.directory_calls import DirectoryCalls
from comity.federation.keyring import Keyring
from comity.ports import Ports
from comity.protocol.signing import SigningKey
from comity.rooms.backfill import Backfill
from comity.rooms.commit import Commits
from comity.rooms.create import Creator
from comity.rooms.decisions import Decisions
from comity.rooms.directory import Directory
from comity.rooms.fetch import Fetcher
from comity.rooms.graft import Grafter
from comity.rooms.intake import Arrivals, Intake
from comity.rooms.join import Joiner, Leaver, Templates
from comity.rooms.judge import Judge
from comity.rooms.membership import Memberships
from comity.rooms.merge import Merger
from comity.rooms.portrait import Portraits
from comity.rooms.read import Reader
from comity.rooms.resident import Resident
from comity.rooms.restricted import Restricted
from comity.rooms.room import Rooms, know_all_rooms, load_numbers
from comity.rooms.serve import Server
from comity.rooms.staging import Staging
from comity.rooms.strangers import Strangers
from comity.rooms.write import Writer
from comity.store.database import Database
from comity.store.events import Events
from comity.store.state import States


class RoomSystem:
    """Everything about rooms; others take from it the parts that they name."""

    def __init__(
        self,
        config: Config,
        ports: Ports,
        database: Database,
        bus: Bus,
        states: States,
        events: Events,
        calls: Calls,
        directory_calls: DirectoryCalls,
        keyring: Keyring,
        key: SigningKey,
        *,
        member_content: Callable[[str], Awaitable[Mapping[str, Any]]],
    ) -> None:
        name = config.server_name
        database.read_now(lambda tx: know_all_rooms(tx, events))
        rooms = Rooms(database, states, events, database.read_now(load_numbers))
        merger = Merger(states, events)
        judge, fetcher = Judge(events, merger), Fetcher(calls, keyring)
        self.commits = commits = Commits(database, rooms, merger, bus, name)
        decisions = Decisions(database, rooms, merger, commits)
        self.writer = writer = Writer(
            database=database, rooms=rooms, merger=merger, judge=judge, decisions=decisions, commits=commits,
            clock=ports.clock, entropy=ports.entropy, server_name=name, key=key,
        )  # fmt: skip
        self.creator = Creator(
            rooms=rooms, merger=merger, database=database, decisions=decisions, commits=commits,
            writer=writer, clock=ports.clock, entropy=ports.entropy, server_name=name, key=key,
            default_version=config.rooms.default_version,
        )  # fmt: skip
        self.server = server = Server(database, rooms, merger)
        restricted = Restricted(database, rooms, merger, name)
        strangers, arrivals = Strangers(database, rooms, decisions, fetcher, bus, name), Arrivals()
        self.intake = Intake(
            database=database, rooms=rooms, merger=merger, judge=judge, commits=commits, fetcher=fetcher,
            arrivals=arrivals, strangers=strangers, clock=ports.clock,
        )  # fmt: skip
        grafter = Grafter(database, events, judge, fetcher, calls)
        self.staging = Staging(
            database=database, rooms=rooms, decisions=decisions, intake=self.intake, grafter=grafter,
            fetcher=fetcher, calls=calls, clock=ports.clock,
        )  # fmt: skip
        backfill = Backfill(
            database=database, rooms=rooms, merger=merger, decisions=decisions, grafter=grafter,
            fetcher=fetcher, calls=calls, server_name=name,
        )  # fmt: skip
        self.resident = Resident(
            database=database, rooms=rooms, merger=merger, judge=judge, decisions=decisions, writer=writer,
            server=server, restricted=restricted, strangers=strangers, fetcher=fetcher, server_name=name,
            key=key,
        )  # fmt: skip
        templates = Templates(ports.clock, ports.entropy, name, key)
        joiner = Joiner(
            decisions=decisions, strangers=strangers, arrivals=arrivals, templates=templates, fetcher=fetcher,
            calls=calls,
        )  # fmt: skip
        leaver = Leaver(strangers=strangers, templates=templates, calls=calls, server_name=name)
        self.memberships = Memberships(
            database=database, rooms=rooms, merger=merger, decisions=decisions, writer=writer, joiner=joiner,
            leaver=leaver, restricted=restricted, fetcher=fetcher, calls=calls, server_name=name,
            member_content=member_content,
        )  # fmt: skip
        self.directory = Directory(database, rooms, merger, directory_calls, name)
        self.portraits = Portraits(database, rooms, merger, writer, self.memberships)
        self.reader = Reader(
            database=database, states=states, events=events, bus=bus, clock=ports.clock,
            fill_gap=backfill.fill,
        )  # fmt: skip
        backfill.on_history = self.reader.history_came

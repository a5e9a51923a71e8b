"""The parts of `rooms`, built in the order in which they need each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from comity.bus import Bus
from comity.config import Config
from comity.federation.calls import Calls
from comity.federation.directory_calls import DirectoryCalls
from comity.federation.identity_keys import IdentityKeys
from comity.federation.identity_servers import IdentityServers
from comity.federation.keyring import Keyring
from comity.ports import Ports
from comity.protocol.retention import Bounds
from comity.protocol.signing import SigningKey
from comity.rooms.address_invites import AddressInvites
from comity.rooms.backfill import Backfill
from comity.rooms.commit import Commits
from comity.rooms.complete import Completer
from comity.rooms.create import Creator
from comity.rooms.decisions import Decisions
from comity.rooms.delayed import DelayedEvents
from comity.rooms.directory import Directory
from comity.rooms.extremities import Extremities
from comity.rooms.fetch import Fetcher
from comity.rooms.founding import Founder
from comity.rooms.gaps import GapFiller
from comity.rooms.graft import Grafter
from comity.rooms.guest_access import GuestAccess
from comity.rooms.guest_departures import GuestDepartures
from comity.rooms.hierarchy import Hierarchies
from comity.rooms.intake import Arrivals, Intake
from comity.rooms.join import Joiner, Leaver, Templates
from comity.rooms.judge import Judge
from comity.rooms.knock import Knocks
from comity.rooms.mass import Mass
from comity.rooms.membership import Memberships
from comity.rooms.merge import Merger
from comity.rooms.neighbours import Neighbours
from comity.rooms.notice_rooms import NoticeRooms
from comity.rooms.policy import Policies
from comity.rooms.policy_service import PolicyService
from comity.rooms.portrait import Portraits
from comity.rooms.public_rooms import PublicRooms
from comity.rooms.read import Reader
from comity.rooms.read.lifetimes import Horizon, Lifetimes, never
from comity.rooms.read.relations import RelationsReader
from comity.rooms.read.search import Search
from comity.rooms.resident import Resident
from comity.rooms.restricted import Restricted
from comity.rooms.retention import Eraser
from comity.rooms.room import Rooms, know_all_rooms, load_numbers
from comity.rooms.room_summary import Summaries
from comity.rooms.search_index import SearchIndex, load_progress
from comity.rooms.serve import Server
from comity.rooms.staging import Staging
from comity.rooms.strangers import Strangers
from comity.rooms.succession import CarryOver, Successions
from comity.rooms.third_party_invite import ThirdPartyInvites
from comity.rooms.timestamp import Timestamps
from comity.rooms.upgrade import Upgrader
from comity.rooms.vouching import Vouching
from comity.rooms.write import Writer
from comity.store.database import Database
from comity.store.erasures import Erasures
from comity.store.events import Events
from comity.store.state import States

DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class _Core:
    """What most parts stand on."""

    name: str
    key: SigningKey
    ports: Ports
    database: Database
    bus: Bus
    rooms: Rooms
    merger: Merger
    fetcher: Fetcher
    decisions: Decisions
    calls: Calls
    guest_access: GuestAccess
    identity: IdentityServers


def _retention(config: Config, core: _Core) -> tuple[Eraser | None, Horizon]:
    """What erases old messages, None if nothing does; and since when they are still there."""
    settings = config.retention
    if not settings.enabled:
        return None, never
    days = (settings.default_max_lifetime_days, settings.allowed_min_days, settings.allowed_max_days)
    bounds = Bounds(*(None if each is None else each * DAY_MS for each in days))
    horizon = Lifetimes(core.rooms.states, core.rooms.events, core.ports.clock, bounds).horizon
    every = settings.purge_every_hours * 3600.0
    return Eraser(core.database, core.rooms.events, core.ports.clock, horizon, every), horizon


class RoomSystem:
    """Everything about rooms; others take from it the parts that they name."""

    def __init__(
        self, config: Config, ports: Ports, database: Database, bus: Bus, states: States, events: Events,
        calls: Calls, directory_calls: DirectoryCalls, keyring: Keyring, key: SigningKey,
        identity: IdentityServers, *,
        member_content: Callable[[str], Awaitable[Mapping[str, Any]]], carry_over: CarryOver,
        admit: Callable[[str], None], erasures: Erasures,
    ) -> None:  # fmt: skip
        """`member_content`, `carry_over`: what is told of users; `admit` counts what a user sends."""
        name, forget = config.server_name, config.rooms.forget_upon_leave
        database.read_now(lambda tx: know_all_rooms(tx, events))
        rooms = Rooms(database, states, events, database.read_now(load_numbers))
        merger = Merger(states, events)
        judge, fetcher = Judge(events, merger), Fetcher(calls, keyring, database)
        commits = Commits(database, rooms, merger, bus, name, ports.clock, forget_upon_leave=forget)
        self.commits = commits
        self.search_index = SearchIndex(database, ports.clock, database.read_now(load_progress))
        commits.followers.append(self.search_index.follow)
        decisions = Decisions(database, rooms, merger, commits)
        guest_access = GuestAccess(database, merger, directory_calls)
        core = _Core(
            name, key, ports, database, bus, rooms, merger, fetcher, decisions, calls, guest_access, identity
        )
        policies = self._build_policies(config, core)
        self.writer = writer = Writer(
            database=database, rooms=rooms, merger=merger, judge=judge, decisions=decisions, commits=commits,
            policies=policies, guest_access=guest_access, notice_rooms=NoticeRooms(merger),
            clock=ports.clock, entropy=ports.entropy, server_name=name, key=key,
        )  # fmt: skip
        self._build_creator(config, core)
        self.server = server = Server(database, rooms, merger, erasures)
        restricted, arrivals = Restricted(database, rooms, merger, name), Arrivals()
        strangers = Strangers(database, rooms, decisions, fetcher, bus, name, forget_upon_leave=forget)
        self.intake = Intake(
            database=database, rooms=rooms, merger=merger, judge=judge, commits=commits, fetcher=fetcher,
            arrivals=arrivals, strangers=strangers, policies=policies, clock=ports.clock,
        )  # fmt: skip
        mass = Mass(events=events, judge=judge, decisions=decisions, fetcher=fetcher, keyring=keyring,
                    offload=ports.offload, crowd=ports.crowd or ports.offload)  # fmt: skip
        self.completer = completer = Completer(
            database=database, rooms=rooms, merger=merger, decisions=decisions, mass=mass, calls=calls,
            bus=bus, clock=ports.clock, server_name=name,
        )  # fmt: skip
        grafter = Grafter(database, events, judge, fetcher, calls)
        neighbours = Neighbours(database, merger, name)
        self.staging = Staging(
            database=database, rooms=rooms, decisions=decisions, intake=self.intake, policies=policies,
            grafter=grafter, fetcher=fetcher, calls=calls, neighbours=neighbours, clock=ports.clock,
        )  # fmt: skip
        backfill = Backfill(
            database=database, rooms=rooms, decisions=decisions, grafter=grafter, fetcher=fetcher,
            calls=calls, whole=completer.whole, neighbours=neighbours,
        )  # fmt: skip
        self.extremities = Extremities(database, rooms, writer, ports.clock, name)
        self.gaps = GapFiller(database, rooms, backfill, ports.clock, name)
        self.staging.on_gap = self.gaps.look
        self.resident = Resident(
            database=database, rooms=rooms, merger=merger, judge=judge, decisions=decisions, writer=writer,
            server=server, restricted=restricted, strangers=strangers, policies=policies, fetcher=fetcher,
            server_name=name, key=key,
        )  # fmt: skip
        successions = Successions(database, rooms, merger, carry_over)
        self._build_memberships(core, strangers, arrivals, restricted, policies, successions, member_content)
        self.delayed = DelayedEvents(
            database=database, rooms=rooms, merger=merger, writer=writer, memberships=self.memberships,
            clock=ports.clock, entropy=ports.entropy, position=lambda: bus.position, admit=admit,
            max_delay_ms=config.delayed_events.max_delay_seconds * 1000,
        )  # fmt: skip
        self.eraser, horizon = _retention(config, core)
        self._build_views(core, bus, directory_calls, grafter, backfill, horizon, erasures, member_content)

    def _build_creator(self, config: Config, core: _Core) -> None:
        self.creator = Creator(
            rooms=core.rooms, merger=core.merger, database=core.database, decisions=core.decisions,
            commits=self.commits, writer=self.writer, clock=core.ports.clock, entropy=core.ports.entropy,
            server_name=core.name, key=core.key, default_version=config.rooms.default_version,
        )  # fmt: skip

    def _build_policies(self, config: Config, core: _Core) -> Policies:
        self.policy_service = PolicyService(
            database=core.database, rooms=core.rooms, merger=core.merger, server_name=core.name,
            key=core.key.derived("policy_server") if config.policy.enabled else None,
            deny_servers=config.policy.deny_servers, deny_users=config.policy.deny_users,
            deny_words=config.policy.deny_words,
        )  # fmt: skip
        return Policies(core.database, core.merger, core.calls, self.policy_service, core.name)

    def _build_memberships(
        self,
        core: _Core,
        strangers: Strangers,
        arrivals: Arrivals,
        restricted: Restricted,
        policies: Policies,
        successions: Successions,
        member_content: Callable[[str], Awaitable[Mapping[str, Any]]],
    ) -> None:
        """What changes the memberships of our users."""
        ports, calls, writer, completer = core.ports, core.calls, self.writer, self.completer
        templates = Templates(ports.clock, ports.entropy, core.name, core.key)
        joiner = Joiner(
            rooms=core.rooms, decisions=core.decisions, strangers=strangers, arrivals=arrivals,
            templates=templates, fetcher=core.fetcher, calls=calls, completer=completer, clock=ports.clock,
        )  # fmt: skip
        leaver = Leaver(strangers=strangers, templates=templates, calls=calls, server_name=core.name)
        vouching = Vouching(calls=calls, templates=templates, intake=self.intake)
        self.memberships = Memberships(
            database=core.database, bus=core.bus, rooms=core.rooms, merger=core.merger,
            decisions=core.decisions, writer=writer, joiner=joiner, leaver=leaver,
            restricted=restricted, vouching=vouching, policies=policies, guest_access=core.guest_access,
            fetcher=core.fetcher, calls=calls,
            server_name=core.name, member_content=member_content, whole=completer.whole,
            successions=successions,
        )  # fmt: skip
        self.address_invites = AddressInvites(
            database=core.database, rooms=core.rooms, merger=core.merger, decisions=core.decisions,
            writer=writer, memberships=self.memberships, identity=core.identity,
        )  # fmt: skip
        self.founder = Founder(
            core.database, core.rooms, self.creator, self.memberships, self.address_invites, ports.clock,
            core.name,
        )  # fmt: skip
        self.guest_departures = GuestDepartures(
            database=core.database, rooms=core.rooms, guest_access=core.guest_access,
            memberships=self.memberships, clock=ports.clock, server_name=core.name,
        )  # fmt: skip
        self.commits.on_guests.append(self.guest_departures.look)
        self.knocks = Knocks(
            rooms=core.rooms, writer=writer, strangers=strangers, templates=templates,
            memberships=self.memberships, calls=calls, member_content=member_content,
        )  # fmt: skip
        self.upgrader = Upgrader(
            database=core.database, rooms=core.rooms, merger=core.merger, decisions=core.decisions,
            writer=writer, creator=self.creator, successions=successions, whole=completer.whole,
            member_content=member_content,
        )  # fmt: skip
        self.third_party_invites = ThirdPartyInvites(
            database=core.database, rooms=core.rooms, merger=core.merger, writer=writer,
            memberships=self.memberships, calls=calls, identity_keys=IdentityKeys(ports.outbound),
            server_name=core.name,
        )  # fmt: skip

    def _build_views(
        self, core: _Core, bus: Bus, directory_calls: DirectoryCalls, grafter: Grafter, backfill: Backfill,
        horizon: Horizon, erasures: Erasures,
        member_content: Callable[[str], Awaitable[Mapping[str, Any]]],
    ) -> None:  # fmt: skip
        """What shows rooms, to those who are in them and to those who are not."""
        database, rooms, merger, ports = core.database, core.rooms, core.merger, core.ports
        states, events, completer = rooms.states, rooms.events, self.completer
        self.directory = Directory(database, rooms, merger, directory_calls, core.name)
        summaries = Summaries(states, events)
        self.public_rooms = PublicRooms(database, summaries, directory_calls, core.name)
        self.hierarchies = Hierarchies(
            database=database, summaries=summaries, calls=directory_calls, clock=ports.clock,
            entropy=ports.entropy, server_name=core.name, candidates=self.memberships.candidates,
        )  # fmt: skip
        self.portraits = Portraits(database, rooms, merger, self.writer, self.memberships, member_content)
        self.reader = Reader(
            database=database, states=states, events=events, erasures=erasures, bus=bus, clock=ports.clock,
            fill_gap=backfill.fill, whole=completer.whole, horizon=horizon,
        )  # fmt: skip
        self.relations = RelationsReader(self.reader, lambda: bus.position)
        self.search = Search(self.reader, lambda: bus.position, self.search_index.catch_up)
        backfill.on_history = completer.on_complete = self.reader.history_came
        self.timestamps = Timestamps(
            database=database, rooms=rooms, server=self.server, decisions=core.decisions, grafter=grafter,
            fetcher=core.fetcher, calls=core.calls, clock=ports.clock,
            position=lambda: bus.position, history_came=self.reader.history_came,
            visibility=self.reader.visibility,
        )  # fmt: skip

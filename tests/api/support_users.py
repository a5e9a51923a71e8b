"""A server of users alone: real routes over a real database, with a clock that the test turns.

Rooms are rows that a test puts there itself; what happens in them is tested elsewhere.
"""

from __future__ import annotations

import asyncio
import random
import string
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import orjson

from comity.api.auth import UserGuard, optional_user_guard
from comity.api.client import (
    account,
    account_data,
    admin_register,
    capabilities,
    dehydrated,
    devices,
    filters,
    key_backup,
    keys,
    login,
    moderation,
    mutual_rooms,
    openid,
    presence,
    profile,
    push_rules,
    receipts,
    register,
    reports,
    services,
    third_party_ids,
    typing,
    versions,
)
from comity.api.limited import visitor_guard
from comity.api.router import Guard, Router
from comity.bus import Bus
from comity.config import Config, loads
from comity.federation.identity_servers import IdentityServers
from comity.federation.sink import NoSink
from comity.ports import NO_MAIL, NOBODY, Request, Response
from comity.protocol.errors import invalid_param
from comity.protocol.signing import SigningKey
from comity.store import errands
from comity.store.database import Database, last_position
from comity.store.erasures import Erasures
from comity.store.migrations import migrate
from comity.users.account_data import AccountData
from comity.users.accounts import Accounts
from comity.users.cross_signing import CrossSigning
from comity.users.dehydrated import DehydratedDevices
from comity.users.device_news import DeviceNews
from comity.users.devices import Devices
from comity.users.ephemeral import Ephemeral
from comity.users.filters import Filters
from comity.users.interactive import Interactive
from comity.users.key_backup import KeyBackups
from comity.users.key_queries import KeyQueries
from comity.users.keys import Keys
from comity.users.login import Login, PasswordProof
from comity.users.login_tokens import LoginTokens
from comity.users.management import Management
from comity.users.moderation import Moderation
from comity.users.mutual_rooms import MutualRooms
from comity.users.openid import OpenId
from comity.users.password_resets import PasswordResets
from comity.users.passwords import Cost, Passwords
from comity.users.profile import Follow, Profiles
from comity.users.push import PushRules
from comity.users.rate_limits import RateLimits
from comity.users.receipts import Receipts
from comity.users.refreshing import Refreshing
from comity.users.registration import Registration
from comity.users.remote_devices import RemoteDevices
from comity.users.reports import Reports
from comity.users.sessions import Sessions
from comity.users.shared_secret import SharedSecret
from comity.users.third_party_ids import ThirdPartyIds
from comity.users.to_device import ToDevice
from comity.users.validation import Validations
from comity.users.welcome import Welcome
from tests import specification
from tests.api.asking import answered
from tests.api.elsewhere import user_calls
from tests.api.headers import headers_of
from tests.engines import a_driver_of, quiet

T = TypeVar("T")
SERVER = "example.org"
#: The cheapest hash there is: what a hash costs is not what these tests are about.
CHEAP = Cost(passes=1, memory_kib=8, lanes=1)
PASSWORD = "correct horse battery staple"


class TurnedClock:
    """`ports.Clock` that stands still until the test turns it."""

    def __init__(self) -> None:
        self._now = 1_700_000_000.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        return round(self._now * 1000)

    def monotonic(self) -> float:
        return self._now - 1_699_999_000.0

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now + seconds, future))
        await future

    def jump(self, now: float) -> None:
        """It is another time at once (seconds since the epoch); nobody is woken."""
        self._now = now

    async def turn(self, seconds: float) -> None:
        """Let `seconds` pass, in steps small enough for sleepers to sleep again."""
        end = self._now + seconds
        while True:
            # Whoever was woken may want to sleep again before the clock goes on.
            await quiet(5)
            waiting = [(at, future) for at, future in self._sleepers if not future.done()]
            self._sleepers = waiting
            due = min((at for at, _ in waiting), default=end + 1)
            if due > end:
                self._now = end
                return
            self._now = max(self._now, due)
            for at, future in waiting:
                if at <= self._now:
                    future.set_result(None)


class SeededEntropy:
    """`ports.Entropy` from a seed."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)

    def bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def token(self, length: int) -> str:
        return "".join(self._random.choices(string.ascii_letters + string.digits, k=length))

    def random(self) -> float:
        return self._random.random()


class InlineOffload:
    """`ports.Offload` on the spot."""

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        return function(*arguments)


@dataclass(slots=True)
class Answer:
    """What came back: the status and the JSON body."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def code(self) -> str:
        """The errcode, or ''."""
        return str(self.body.get("errcode", ""))

    def ok(self) -> Any:
        """The body of a 200."""
        assert self.status == 200, self
        return self.body

    def failed(self, status: int, code: str) -> Any:
        """The body of that error, which must have a sentence."""
        assert (self.status, self.code) == (status, code), self
        assert self.body["error"]
        return self.body


def answer_of(router: Router, request: Request, response: Response) -> Answer:
    """What a request got, which must be what the specification says of its operation."""
    assert isinstance(response.body, bytes)
    body = orjson.loads(response.body)
    assert not (faults := specification.faults(router, request, response.status, body)), faults
    return Answer(response.status, body, response.headers)


@dataclass
class UserServer:
    """The parts that tests reach for, and requests."""

    config: Config
    database: Database
    bus: Bus
    clock: TurnedClock
    entropy: SeededEntropy
    router: Router
    sessions: Sessions
    ephemeral: Ephemeral
    profiles: Profiles
    accounts: Accounts
    #: What was handed to the rooms: (user id, profile), and users who left all rooms.
    propagated: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    #: Profiles of other servers' users.
    remote_profiles: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        address: str = "192.0.2.1",
    ) -> Answer:
        """One request. A path that does not begin with `/_` or `/.` is of the client API v3."""
        if not path.startswith(("/_", "/.")):
            path = "/_matrix/client/v3" + path
        target, _, query = path.partition("?")
        sent = headers_of(self.router, headers or {}, token)
        data = raw if raw is not None else b"" if body is None else orjson.dumps(body)
        request = Request(method, target, query, sent, data, address, frozenset({"client"}))
        response = await answered(self.router, request)
        return answer_of(self.router, request, response)

    async def user(self, name: str, *, device_id: str | None = None) -> str:
        """Make an account and log in; the access token."""
        await self.accounts.create(f"@{name}:{SERVER}", PASSWORD)
        return await self.log_in(name, device_id=device_id)

    async def log_in(self, name: str, *, device_id: str | None = None, password: str = PASSWORD) -> str:
        """Log in; the access token."""
        body: dict[str, Any] = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": name},
            "password": password,
        }
        if device_id is not None:
            body["device_id"] = device_id
        token: str = (await self.ask("POST", "/login", body)).ok()["access_token"]
        return token

    async def room(self, room_id: str, *members: str, events: int = 0) -> list[str]:
        """Put a room with joined members into the database; the ids of its events."""
        ids = [f"${room_id[1:4]}{number}" for number in range(events)]

        def store(tx: Any) -> None:
            row = tx.one("SELECT max(room_num) FROM rooms")
            number = (row[0] or 0) + 1
            tx.run("INSERT INTO rooms (room_num, room_id, version) VALUES (?, ?, '12')", (number, room_id))
            for member in members:
                tx.run(
                    "INSERT INTO memberships (room_num, user_id, server, membership, event_num, position) "
                    "VALUES (?, ?, ?, 'join', 0, 0)",
                    (number, member, member.partition(":")[2]),
                )
            for line, event_id in enumerate(ids):
                tx.run(
                    "INSERT INTO events (event_num, event_id, room_num, line, type, sender, depth, "
                    "origin_server_ts, json) VALUES (?, ?, ?, ?, 'm.room.message', '@a:b', 1, 0, ?)",
                    (number * 1000 + line, event_id, number, line, b""),
                )

        await self.database.write(store)
        return ids

    async def registration_token(self, token: str, uses: int | None = None) -> None:
        """Give out a registration token."""
        await self.database.write(
            lambda tx: tx.run(
                "INSERT INTO registration_tokens (token, uses_allowed) VALUES (?, ?)", (token, uses)
            )
        )


def at(*parts: str) -> str:
    """A path of the client API v3, every part escaped."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def configuration(directory: Path, text: str = "") -> Config:
    """A configuration of the test server: open registration, no rate limits, unless `text` differs."""
    sections = {
        "registration": '[registration]\nenabled = true\nrequires = "nothing"\nshared_secret = "s3cret"\n',
        "rate_limits": "[rate_limits]\nenabled = false\n",
    }
    rest = "".join(section for name, section in sections.items() if f"[{name}]" not in text)
    return loads(f'server_name = "{SERVER}"\n{text}\n{rest}', directory)


def position_of(token: str) -> int:
    """Sync tokens of this server are bare positions."""
    if not token.isdecimal():
        raise invalid_param("This is not a sync token")
    return int(token)


def _add_what_stands_alone(server: UserServer, guard: Guard, data: AccountData, limits: RateLimits) -> None:
    """The routes of parts that need no other part of these."""
    router, database, clock = server.router, server.database, server.clock
    versions.routes(router, server.config)
    capabilities.routes(router, guard, server.config)
    filters.routes(router, guard, Filters(database))
    push_rules.routes(router, guard, PushRules(data))
    receipts.routes(router, guard, Receipts(database, server.bus, clock))
    typing.routes(router, guard, server.ephemeral)
    presence.routes(router, guard, server.ephemeral.presences)
    openid.routes(router, guard, OpenId(database, clock, server.entropy, SERVER))
    mutual_rooms.routes(router, guard, MutualRooms(database), limits)
    reports.routes(router, guard, Reports(database, clock), limits)
    services.routes(router, guard)


def _reachable(
    config: Config,
    database: Database,
    clock: TurnedClock,
    entropy: SeededEntropy,
    limits: RateLimits,
    accounts: Accounts,
    sessions: Sessions,
    interactive: Interactive,
    proof: PasswordProof,
    ephemeral: Ephemeral,
    follow: Follow,
) -> tuple[Registration, ThirdPartyIds, Management]:
    """Who comes, who is reached where, and who goes."""
    validations = Validations(
        config.email, database, clock, entropy, NO_MAIL, limits, SERVER, f"https://{SERVER}"
    )
    welcome = Welcome(config.registration, config.terms, database, clock, limits, validations)
    registration = Registration(config.registration, accounts, sessions, interactive, limits, welcome)
    identity = IdentityServers(NOBODY, SERVER, SigningKey("1", bytes(32)))
    addresses = ThirdPartyIds(database, clock, limits, validations, proof, identity)
    resets = PasswordResets(database, accounts, sessions, interactive, validations, limits, clock)
    management = Management(
        database=database, clock=clock, accounts=accounts, sessions=sessions, proof=proof,
        erasures=Erasures(), presences=ephemeral.presences, follow=follow,
        third_party_ids=addresses, resets=resets,
    )  # fmt: skip
    return registration, addresses, management


@asynccontextmanager
async def user_server(directory: Path, text: str = "") -> AsyncIterator[UserServer]:
    """A server of users in `directory`; `text` is its configuration beside the usual."""
    config = configuration(directory, text)
    driver = a_driver_of(directory)
    migrate(driver)
    clock, entropy, offload = TurnedClock(), SeededEntropy(), InlineOffload()
    last = driver.read_now(last_position)
    database, bus = Database(driver, last), Bus(last)
    limits = RateLimits(clock, config.rate_limits)
    accounts = Accounts(database, Passwords(offload, entropy, CHEAP), clock, entropy, SERVER)
    sessions = Sessions(database, clock, entropy, config.sessions)
    interactive = Interactive(clock, entropy)
    logging_in = Login(database, accounts, sessions, limits, clock)
    proof = PasswordProof(interactive, logging_in, limits)
    refreshing = Refreshing(database, sessions, limits, clock)
    lifetime = config.sessions.login_token_lifetime
    login_tokens = LoginTokens(database, accounts, proof, limits, clock, entropy, lifetime)
    data = AccountData(database, bus)
    news = DeviceNews(bus, NoSink(), SERVER)
    device_keys = Keys(database, bus, clock, accounts, news)
    to_device = ToDevice(database, bus, clock, accounts, entropy)
    sessions.when_device_comes(news.came_or_went)
    remote_profiles: dict[str, dict[str, Any]] = {}
    calls = user_calls(remote_profiles, clock, entropy, SERVER)
    remote_devices = RemoteDevices(database, calls, clock, news, SERVER)
    queries = KeyQueries(database, device_keys, accounts, remote_devices, calls)
    sessions.when_device_goes(device_keys.device_gone)
    sessions.when_device_goes(to_device.device_gone)
    waiting = DehydratedDevices(database, bus, clock, sessions, device_keys)
    sessions.when_device_goes(waiting.device_gone)
    ephemeral = Ephemeral(database, bus, clock)
    router = Router()

    async def follow(user_id: str) -> None:
        kinds = [errand.kind for errand in database.read_now(lambda tx: errands.of(tx, user_id))]
        if errands.PROFILE in kinds:
            server.propagated.append((user_id, await server.profiles.local(user_id) or {}))
        if errands.DEPARTURE in kinds:
            server.left.append(user_id)

    profiles = Profiles(database, accounts, limits, follow, calls, clock, ephemeral.presences)
    registration, addresses, management = _reachable(
        config, database, clock, entropy, limits, accounts, sessions, interactive, proof, ephemeral, follow
    )
    server = UserServer(
        config, database, bus, clock, entropy, router, sessions, ephemeral, profiles, accounts,
        remote_profiles=remote_profiles,
    )  # fmt: skip
    guard, anybody = UserGuard(sessions, limits), optional_user_guard(sessions, limits)
    secret = SharedSecret(config.registration.shared_secret, accounts, sessions, limits, clock, entropy)
    login.routes(router, guard, visitor_guard(limits), config, logging_in, refreshing, login_tokens)
    moderation.routes(router, guard, Moderation(database, accounts, sessions))
    register.routes(router, config, registration)
    admin_register.routes(router, config, secret)
    account.routes(router, guard, sessions, management)
    third_party_ids.routes(router, guard, addresses)
    profile.routes(router, guard, anybody, profiles)
    devices.routes(router, guard, Devices(database, sessions, proof, news))
    account_data.routes(router, guard, data)
    signing = CrossSigning(database, accounts, news, proof)
    keys.routes(router, guard, device_keys, queries, signing, to_device, position_of)
    key_backup.routes(router, guard, KeyBackups(database, SERVER))
    dehydrated.routes(router, guard, waiting)
    _add_what_stands_alone(server, guard, data, limits)
    try:
        yield server
    finally:
        await remote_devices.stop()
        await ephemeral.close()
        await database.close()

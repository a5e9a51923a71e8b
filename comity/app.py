"""The composition root: every part, built in the order in which they need each other.

`build(config, ports)` opens the database and constructs; `App.handle` is the whole server
without a socket. Nobody imports this module but the commands and the tests.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from comity import __version__
from comity.api import client_routes, health, server_routes
from comity.api.auth import UserGuard, optional_user_guard
from comity.api.router import Router
from comity.api.server_auth import OriginGuard
from comity.bus import Bus
from comity.config import Config, published_certificate, signing_key
from comity.federation.availability import Availability
from comity.federation.calls import Calls
from comity.federation.certificates import ClientCertificates
from comity.federation.client import FederationClient
from comity.federation.directory_calls import DirectoryCalls
from comity.federation.discoverer import Discoverer
from comity.federation.identity_servers import IdentityServers
from comity.federation.key_calls import KeyCalls
from comity.federation.keyring import Keyring
from comity.federation.notary import Notary
from comity.federation.origin_limits import OriginLimits
from comity.federation.outbox import Outbox
from comity.federation.server_lists import ServerLists
from comity.federation.user_calls import UserCalls
from comity.ports import Ports, Request, Response
from comity.protocol.signing import SigningKey
from comity.rooms.system import RoomSystem
from comity.store import deliveries, queues
from comity.store.database import Database, StoreFailedError, StoreOverloadedError, last_position
from comity.store.engines import open_migrated
from comity.store.erasures import Erasures
from comity.store.events import Events
from comity.store.state import States
from comity.sync.system import SyncSystem
from comity.users.errands import Errands
from comity.users.server_notices import ServerNotices
from comity.users.system import UserSystem
from comity.web import system as web

_log = logging.getLogger(__name__)
#: Remembered transactions are forgotten after this long: nobody repeats one so late.
REMEMBER_TRANSACTIONS_MS = 7 * 24 * 3600 * 1000
#: How often housekeeping is done.
HOUSEKEEPING_SECONDS = 3600.0


@dataclass(slots=True)
class Federation:
    """The parts that talk to other servers."""

    calls: Calls
    users: UserCalls
    directory: DirectoryCalls
    keyring: Keyring
    notary: Notary
    certificates: ClientCertificates
    outbox: Outbox
    lists: ServerLists


class App:
    """One whole homeserver, without a socket. Make it with `build`."""

    def __init__(
        self, *, router: Router, database: Database, bus: Bus, ports: Ports, rooms: RoomSystem,
        users: UserSystem, notices: ServerNotices, errands: Errands, federation: Federation, config: Config,
    ) -> None:  # fmt: skip
        self.router = router
        self.config = config
        self._database = database
        self._bus = bus
        self._ports = ports
        self._rooms = rooms
        self._users = users
        self._notices = notices
        self._errands = errands
        self._federation = federation
        self._housekeeper: asyncio.Task[None] | None = None

    def when_taken_over(self, callback: Callable[[str], None]) -> None:
        """Have told that another process has taken the database over: this one must end."""
        self._database.driver.on_taken_over = callback

    async def start(self) -> None:
        """Take up what an earlier run left. Listeners may open after this."""
        if self.config.federation.enabled:
            await self._federation.outbox.start()
            await self._users.start_asking()
            await self._rooms.staging.start()
            await self._rooms.gaps.start()
            await self._rooms.extremities.start()
            await self._rooms.completer.start()
        await self._rooms.search_index.start()
        await self._rooms.guest_departures.start()
        await self._notices.start()
        await self._errands.start()
        await self._rooms.delayed.start()
        if self._rooms.eraser is not None:
            await self._rooms.eraser.start()
        self._housekeeper = asyncio.get_running_loop().create_task(self._keep_house())

    def handle(self, request: Request) -> Coroutine[Any, Any, Response]:
        """Answer one request, once awaited. Never raises but for cancellation."""
        return self.router.handle(request)

    def wake_waiters(self) -> None:
        """Let every long-poll answer now: the server is about to stop."""
        self._bus.close()

    async def stop(self) -> None:
        """Finish what is queued for the disk and close it. No request may come any more."""
        self.wake_waiters()
        if self._housekeeper is not None:
            self._housekeeper.cancel()
            await asyncio.gather(self._housekeeper, return_exceptions=True)
        if self._rooms.eraser is not None:
            await self._rooms.eraser.stop()
        await self._rooms.founder.stop()
        await self._rooms.delayed.stop()
        await self._rooms.search_index.stop()
        await self._errands.stop()
        await self._notices.stop()
        await self._rooms.guest_departures.stop()
        await self._rooms.completer.stop()
        await self._rooms.extremities.stop()
        await self._rooms.gaps.stop()
        await self._rooms.staging.stop()
        await self._federation.outbox.stop()
        await self._users.close()
        await self._database.close()

    async def _keep_house(self) -> None:
        while True:
            horizon = self._ports.clock.now_ms() - REMEMBER_TRANSACTIONS_MS
            try:
                gone = await self._database.write(lambda tx: queues.forget_before(tx, horizon))  # noqa: B023
                old = self._ports.clock.now_ms() - deliveries.KEEP_MS
                await self._database.write(lambda tx: deliveries.forget_before(tx, old))  # noqa: B023
                await self._users.to_device.forget_received()
                await self._rooms.delayed.forget_old()
                await self._users.cleaning.run()
            except (StoreFailedError, StoreOverloadedError) as error:
                _log.warning("old transactions were not forgotten: %s", error)
            else:
                if gone:
                    _log.info("forgot %d old transactions", gone)
            await self._ports.clock.sleep(HOUSEKEEPING_SECONDS)


def _federation(
    config: Config, ports: Ports, database: Database, events: Events, key: SigningKey
) -> Federation:
    availability = Availability(ports.clock, ports.entropy)
    discoverer = Discoverer(ports.transport, ports.resolver, ports.clock, ports.entropy)
    lists = ServerLists(config.federation.allow_servers, config.federation.deny_servers)
    client = FederationClient(
        discoverer, ports.transport, ports.clock, config.server_name, key, availability, lists
    )
    calls, key_calls = Calls(client), KeyCalls(client)
    keyring = Keyring(
        database,
        key_calls,
        ports.clock,
        ports.offload,
        config.server_name,
        [key],
        config.federation.trusted_key_servers,
        old_keys=signing_key.read_old(config.old_keys_file),
        certificate=published_certificate.read(config),
    )
    notary = Notary(database, keyring, ports.clock, config.server_name)
    certificates = ClientCertificates(key_calls, ports.clock)
    outbox = Outbox(database, events, calls, ports.clock, ports.entropy, config.server_name, availability)
    return Federation(
        calls, UserCalls(client), DirectoryCalls(client), keyring, notary, certificates, outbox, lists
    )  # fmt: skip


def build(config: Config, ports: Ports) -> App:
    """Open the database (migrating it) and construct every part. Nothing runs until `start`.

    Raises ConfigError for a signing key that cannot be read, SchemaError, EngineError.
    """
    key = signing_key.read(config.signing_key_file)
    driver = open_migrated(
        config.database.url,
        config.data_dir,
        ports.pausing,
        offload=ports.offload,
        connections=config.database.connections,
    )
    database = Database(driver, driver.read_now(last_position))
    bus = Bus(database.last_position)
    states, events = States(config.caches.megabytes // 4), Events(config.caches.megabytes // 2)
    erasures = Erasures()
    federation = _federation(config, ports, database, events, key)
    identity = IdentityServers(ports.outbound, config.server_name, key)
    users = UserSystem(
        config, ports, database, bus, states, events, federation.users, federation.outbox, erasures, identity
    )
    rooms = RoomSystem(
        config, ports, database, bus, states, events, federation.calls, federation.directory,
        federation.keyring, key, identity,
        member_content=users.member_content, carry_over=users.moving.carry_over, admit=users.admit_message,
        erasures=erasures,
    )  # fmt: skip
    errands = Errands(
        database=database, clock=ports.clock, portraits=rooms.portraits, management=users.management,
        withdraw=rooms.delayed.cancel_all,
    )  # fmt: skip
    users.connect(errands.begin, rooms.intake.admits)
    rooms.commits.followers.append(users.ephemeral.follow)
    if config.federation.enabled:
        rooms.commits.on_outbound.append(federation.outbox.wake)
    rooms.intake.on_staged = rooms.staging.work
    sync = SyncSystem(
        database=database, bus=bus, reader=rooms.reader, ephemeral=users.ephemeral,
        key_counts=users.keys.counts, megabytes=config.caches.megabytes // 8,
    )  # fmt: skip
    notices = ServerNotices(
        config=config.server_notices, database=database, clock=ports.clock, accounts=users.accounts,
        account_data=users.account_data, creator=rooms.creator, memberships=rooms.memberships,
        writer=rooms.writer,
    )  # fmt: skip

    router = Router()
    guard = UserGuard(users.sessions, users.limits)
    anybody = optional_user_guard(users.sessions, users.limits)
    health.routes(router, database.check)
    client_routes.add(router, guard, anybody, config, users, rooms, sync)
    web.add(router, config, users)
    if config.federation.enabled:
        limits = OriginLimits(
            ports.clock, per_second=config.federation.requests_per_second,
            burst=config.federation.request_burst, enabled=config.rate_limits.enabled,
        )  # fmt: skip
        origin = OriginGuard(
            federation.keyring, config.server_name, federation.outbox.spoke, federation.certificates,
            federation.lists, limits,
        )  # fmt: skip
        server_routes.add(
            router, origin, config, ports.clock, users, rooms, federation.keyring, federation.notary,
            __version__,
        )  # fmt: skip
    return App(
        router=router, database=database, bus=bus, ports=ports, rooms=rooms, users=users,
        notices=notices, errands=errands, federation=federation, config=config,
    )  # fmt: skip

"""Every route of the server-server API."""

from __future__ import annotations

from comity.api.router import Guard, Router
from comity.api.server.keys import KeysApi
from comity.api.server.query import QueryApi
from comity.api.server.rooms import RoomsApi
from comity.api.server.send import SendApi
from comity.config import Config
from comity.federation.keyring import Keyring
from comity.ports import Clock
from comity.rooms.system import RoomSystem
from comity.users.system import UserSystem


def add(
    router: Router,
    guard: Guard,
    config: Config,
    clock: Clock,
    users: UserSystem,
    rooms: RoomSystem,
    keyring: Keyring,
    version: str,
) -> None:
    """Add all of them."""
    KeysApi(keyring, version).routes(router)
    SendApi(rooms.intake).routes(router, guard)
    RoomsApi(rooms.server, rooms.resident, users.accounts, clock, config.server_name).routes(router, guard)
    QueryApi(users.profiles, rooms.directory, config.server_name).routes(router, guard)

"""Every route of the server-server API."""

from __future__ import annotations

from comity.api.router import Guard, Router
from comity.api.server.directory import DirectoryApi
from comity.api.server.keys import KeysApi
from comity.api.server.media import MediaApi
from comity.api.server.openid import OpenIdApi
from comity.api.server.policy import PolicyApi
from comity.api.server.query import QueryApi
from comity.api.server.rooms import RoomsApi
from comity.api.server.send import SendApi
from comity.api.server.third_party import ThirdPartyApi
from comity.api.server.users import UsersApi
from comity.config import Config
from comity.federation.keyring import Keyring
from comity.federation.notary import Notary
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
    notary: Notary,
    version: str,
) -> None:
    """Add all of them."""
    KeysApi(keyring, notary, clock, version).routes(router)
    SendApi(rooms.intake, users.edus).routes(router, guard)
    RoomsApi(
        rooms.server, rooms.timestamps, rooms.resident, users.accounts, clock, config.server_name
    ).routes(router, guard)
    PolicyApi(rooms.policy_service).routes(router, guard)
    ThirdPartyApi(rooms.third_party_invites, users.accounts, config.server_name).routes(router, guard)
    DirectoryApi(rooms.public_rooms, rooms.hierarchies, publish=config.federation.publish_rooms).routes(
        router, guard
    )
    UsersApi(users.keys).routes(router, guard)
    OpenIdApi(users.openid).routes(router)
    MediaApi().routes(router, guard)
    QueryApi(users.profiles, rooms.directory, config.server_name).routes(router, guard)

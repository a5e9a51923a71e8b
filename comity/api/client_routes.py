"""Every route of the client-server API."""

from __future__ import annotations

from comity.api.auth import UserGuard
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
    notifications,
    old_sync,
    openid,
    presence,
    profile,
    push_rules,
    receipts,
    register,
    relations,
    reports,
    rooms_read,
    services,
    sliding,
    third_party_ids,
    typing,
    upgrades,
    user_directory,
    versions,
)
from comity.api.client import sync as sync_routes
from comity.api.client.delayed import DelayedApi
from comity.api.client.directory import DirectoryApi
from comity.api.client.events import EventsApi
from comity.api.client.rooms import RoomsApi
from comity.api.client.rooms_by_time import ByTimeApi
from comity.api.client.search import SearchApi
from comity.api.client.spaces import SpacesApi
from comity.api.limited import visitor_guard
from comity.api.router import Guard, Router
from comity.config import Config
from comity.rooms.read.tokens import SyncToken
from comity.rooms.system import RoomSystem
from comity.sync.system import SyncSystem
from comity.users.system import UserSystem


def _position(token: str) -> int:
    return SyncToken.parse(token).position


def add(
    router: Router,
    guard: UserGuard,
    anybody: Guard,
    config: Config,
    users: UserSystem,
    rooms: RoomSystem,
    sync: SyncSystem,
) -> None:
    """Add all of them."""
    visitors = visitor_guard(users.limits)
    versions.routes(router, config)
    capabilities.routes(router, guard, config)
    login.routes(router, guard, visitors, config, users.login, users.refreshing, users.login_tokens)
    register.routes(router, config, users.registration)
    admin_register.routes(router, config, users.shared_secret)
    moderation.routes(router, guard, users.moderation)
    account.routes(router, guard, users.sessions, users.management)
    third_party_ids.routes(router, guard, users.third_party_ids)
    third_party_ids.validation_routes(
        router, anybody, visitors, users.registration, users.third_party_ids, users.password_resets,
        users.validations,
    )  # fmt: skip
    profile.routes(router, guard, anybody, users.profiles)
    devices.routes(router, guard, users.devices)
    account_data.routes(router, guard, users.account_data)
    filters.routes(router, guard, users.filters)
    push_rules.routes(router, guard, users.push_rules)
    notifications.routes(router, guard, sync.notifications)
    receipts.routes(router, guard, users.receipts)
    typing.routes(router, guard, users.ephemeral)
    presence.routes(router, guard, users.ephemeral.presences)
    keys.routes(router, guard, users.keys, users.key_queries, users.cross_signing, users.to_device, _position)
    user_directory.routes(router, guard, users.directory, users.limits)
    key_backup.routes(router, guard, users.key_backups)
    dehydrated.routes(router, guard, users.dehydrated)
    mutual_rooms.routes(router, guard, users.mutual_rooms, users.limits)
    reports.routes(router, guard, users.reports, users.limits)
    openid.routes(router, guard, users.openid)
    services.routes(router, guard)
    RoomsApi(
        rooms.founder, rooms.memberships, rooms.third_party_invites, rooms.address_invites, rooms.knocks,
        rooms.directory, users.profiles, users.limits,
    ).routes(router, guard)  # fmt: skip
    delayed = DelayedApi(rooms.delayed, users.limits)
    delayed.routes(router, guard)
    EventsApi(
        rooms.writer, rooms.memberships, rooms.directory, delayed, rooms.reader, users.limits,
        users.ephemeral.presences,
    ).routes(router, guard)  # fmt: skip
    DirectoryApi(
        rooms.directory, rooms.public_rooms, users.limits,
        publish_without_account=config.rooms.publish_without_account,
    ).routes(router, guard, anybody, visitors)  # fmt: skip
    ByTimeApi(rooms.timestamps, users.limits).routes(router, guard)
    SpacesApi(rooms.hierarchies, rooms.directory, users.limits).routes(router, guard)
    upgrades.routes(router, guard, rooms.upgrader, users.limits)
    SearchApi(rooms.search, users.limits).routes(router, guard)
    rooms_read.routes(router, guard, rooms.reader)
    relations.routes(router, guard, rooms.relations)
    sync_routes.routes(router, guard, sync.v3, users.filters, users.ephemeral.presences)
    sliding.routes(router, guard, sync.sliding, users.ephemeral.presences)
    old_sync.routes(router, guard, sync.old, sync.old_stream)

"""Lets go of what was kept for devices and is of no use any more (docs/running.md tells how long).

What belongs to a device that is deleted goes with it, by `Sessions.when_device_goes`; here is what
grows old.
"""

from __future__ import annotations

from comity.ports import Clock
from comity.store import device_lists, leftovers
from comity.store.database import Database, WriteTx
from comity.users.to_device import ToDevice

_DAY_MS = 24 * 3600 * 1000
#: News of deleted devices: a server that was away for longer asks for whole lists. Shorter than it is
#: known when positions were given (`deliveries.KEEP_MS`).
KEEP_DEVICE_CHANGES_MS = 14 * _DAY_MS
#: Messages for a device that does not come: longer than anybody is away and expects to read on.
KEEP_MESSAGES_MS = 180 * _DAY_MS
#: Devices whose messages go in one round, each with some thousands.
MAX_DEVICES = 50
#: Users of other servers who are looked at in one round.
MAX_USERS = 500


class Cleaning:
    """Does one round, when it is told to."""

    def __init__(self, database: Database, clock: Clock, to_device: ToDevice, server_name: str) -> None:
        self._database = database
        self._clock = clock
        self._to_device = to_device
        self._server_name = server_name
        #: The user of another server at whom the last round ended.
        self._last_user = ""

    async def run(self) -> None:
        """One round. Raises StoreFailedError, StoreOverloadedError."""
        now = self._clock.now_ms()
        await self._to_device.forget_received()
        await self._database.write(
            lambda tx: leftovers.forget_device_changes(tx, now - KEEP_DEVICE_CHANGES_MS)
        )
        await self._database.write(
            lambda tx: leftovers.drop_messages_of_absent(tx, now - KEEP_MESSAGES_MS, MAX_DEVICES)
        )
        self._last_user = await self._database.write(self._forget_strangers)

    def _forget_strangers(self, tx: WriteTx) -> str:
        """Forget the devices of some who share no room with a user of ours; where to go on."""
        users = leftovers.followed_users(tx, self._last_user, MAX_USERS)
        for user_id in users:
            if not device_lists.users_sharing(tx, user_id, self._server_name, 1):
                leftovers.forget_remote_user(tx, user_id)
        return users[-1] if len(users) == MAX_USERS else ""

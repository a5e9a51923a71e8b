"""Device management (client-server §Device Management): list, name, delete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comity.protocol.errors import not_found
from comity.store import accounts as stored
from comity.store.accounts import Device
from comity.store.database import Database, WriteTx
from comity.users.device_news import DeviceNews
from comity.users.login import PasswordProof
from comity.users.sessions import MAX_DEVICE_NAME_BYTES, Sessions
from comity.users.text import checked_text

#: Devices deleted by one request.
MAX_DELETED_AT_ONCE = 1_000


class Devices:
    """The devices of local users."""

    def __init__(
        self, database: Database, sessions: Sessions, proof: PasswordProof, news: DeviceNews
    ) -> None:
        self._database = database
        self._news = news
        self._sessions = sessions
        self._proof = proof

    async def all(self, user_id: str) -> list[dict[str, object]]:
        """Every device of a user, as `GET /devices` lists them."""
        found = await self._database.look_up(lambda tx: stored.devices(tx, user_id))
        return [_shown(device) for device in found]

    async def get(self, user_id: str, device_id: str) -> dict[str, object]:
        """One device. Raises 404 M_NOT_FOUND."""
        device = await self._database.look_up(lambda tx: stored.device(tx, user_id, device_id))
        if device is None:
            raise not_found("The user has no such device")
        return _shown(device)

    async def rename(self, user_id: str, device_id: str, name: object) -> None:
        """Set the display name; None leaves it. Raises 404 M_NOT_FOUND, 400 for a bad name."""
        if name is None:
            await self.get(user_id, device_id)
            return
        text = checked_text(name, "display_name", most=MAX_DEVICE_NAME_BYTES, empty=True)

        def store(tx: WriteTx) -> bool:
            device = stored.device(tx, user_id, device_id)
            if device is None:
                return False
            if device.display_name != text:
                stored.set_device_name(tx, user_id, device_id, text)
                self._news.came_or_went(tx, user_id, device_id)
            return True

        if not await self._database.write(store):
            raise not_found("The user has no such device")

    async def delete(self, user_id: str, device_ids: list[str], body: Mapping[str, Any]) -> None:
        """Delete devices and end their sessions, against the user's password.

        Unknown devices are passed over. Raises 401 with flows (AuthenticationNeededError).
        """
        proven = await self._proof.require("delete devices " + "\x00".join(sorted(device_ids)), user_id, body)
        await self.log_out(user_id, device_ids)
        self._proof.finish(proven)

    async def log_out(self, user_id: str, device_ids: list[str]) -> None:
        """Delete devices of who is signed in to the pages of this server; unknown ones are passed over."""
        await self._sessions.close(user_id, device_ids)


def _shown(device: Device) -> dict[str, object]:
    """definitions/client_device.

    COMPAT: what is not known should be absent; but clients (matrix-nio) refuse a device without
    all members, and all take null for absent.
    """
    return {
        "device_id": device.device_id,
        "display_name": device.display_name,
        "last_seen_ip": device.last_seen_ip,
        "last_seen_ts": device.last_seen_at,
    }

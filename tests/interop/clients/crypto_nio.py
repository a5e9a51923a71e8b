"""Devices of matrix-nio with encryption (vodozemac), that do what they are told.

Runs in the virtual environment that has matrix-nio[e2e], apart from the tests. Argument: the CA file.
Reads a line of JSON per command, {"do": NAME, "as": DEVICE, ...}, and answers each with a line,
{"ok": VALUE} or {"error": TEXT}; ends with its input. The commands are those of `crypto_js.mjs`, as far
as matrix-nio can do them: it knows no keys for signing, no secret storage and no key backup.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import traceback
from collections.abc import Callable
from typing import Any

from nio import AsyncClient, AsyncClientConfig
from nio.api import RoomPreset
from nio.events import Event, MegolmEvent, RoomMessageText
from nio.responses import ErrorResponse
from nio.store import SqliteMemoryStore

POLL_MS = 1_000
#: A room's whole conversation comes with one answer.
FILTER = {"room": {"timeline": {"limit": 50}}}
ENCRYPTION = {
    "type": "m.room.encryption",
    "state_key": "",
    "content": {"algorithm": "m.megolm.v1.aes-sha2"},
}


def good(response: Any) -> Any:
    if isinstance(response, ErrorResponse):
        raise TypeError(f"{type(response).__name__}: {response}")
    return response


class Device:
    """A device that is logged in and syncs in the background."""

    def __init__(self, url: str, ca: str, user: str) -> None:
        config = AsyncClientConfig(
            encryption_enabled=True, store=SqliteMemoryStore, max_limit_exceeded=0, max_timeouts=0
        )
        self.nio = AsyncClient(url, user, config=config, ssl=ssl.create_default_context(cafile=ca))
        self.messages: dict[str, list[dict[str, Any]]] = {}
        self.nio.add_event_callback(self._heard, (RoomMessageText, MegolmEvent))
        self._task: asyncio.Task[None] | None = None

    async def _heard(self, room: Any, event: Event) -> None:
        clear = isinstance(event, RoomMessageText)
        message = {"body": event.body if clear else None, "clear": clear, "reason": type(event).__name__}
        self.messages.setdefault(room.room_id, []).append(message)

    async def start(self, password: str) -> None:
        good(await self.nio.login(password, device_name="nio"))
        good(await self.nio.sync(timeout=0, sync_filter=FILTER, full_state=True))
        good(await self.nio.keys_upload())
        self._task = asyncio.create_task(self.nio.sync_forever(timeout=POLL_MS, sync_filter=FILTER))

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.nio.close()

    async def until(self, look: Callable[[], object], what: str, within_ms: int) -> bool:
        try:
            async with asyncio.timeout(within_ms / 1000):
                while not look():
                    await self.nio.synced.wait()
        except TimeoutError:
            raise AssertionError(f"{what}: not within {within_ms} ms; {self.messages}") from None
        return True


class Commands:
    """One method per command; those of a device have it as their first argument."""

    def __init__(self, ca: str) -> None:
        self.ca = ca
        self.devices: dict[str, Device] = {}

    async def login(self, name: str, url: str, user: str, password: str, **_: Any) -> dict[str, str]:
        device = self.devices[name] = Device(url, self.ca, user)
        await device.start(password)
        return {"user": device.nio.user_id, "device": device.nio.device_id}

    async def createRoom(self, device: Device, invite: list[str], **_: Any) -> str:  # noqa: N802
        made = await device.nio.room_create(
            preset=RoomPreset.private_chat, invite=invite, initial_state=[ENCRYPTION]
        )
        return str(good(made).room_id)

    async def join(self, device: Device, room: str, within: int, **_: Any) -> bool:
        good(await device.nio.join(room))
        return await device.until(lambda: room in device.nio.rooms, "the join", within)

    async def sees(self, device: Device, room: str, user: str, within: int, **_: Any) -> bool:
        def look() -> bool:
            held = device.nio.rooms.get(room)
            return (
                held is not None and held.encrypted and user in held.users and user not in held.invited_users
            )

        return await device.until(look, f"{user} in the encrypted room", within)

    async def send(self, device: Device, room: str, body: str, **_: Any) -> str:
        content = {"msgtype": "m.text", "body": body}
        sent = await device.nio.room_send(room, "m.room.message", content, ignore_unverified_devices=True)
        return str(good(sent).event_id)

    async def reads(self, device: Device, room: str, body: str, within: int, **_: Any) -> bool:
        def look() -> bool:
            return any(message["body"] == body for message in device.messages.get(room, []))

        return await device.until(look, f"the message {body}", within)

    async def messages(self, device: Device, room: str, **_: Any) -> list[dict[str, Any]]:
        return device.messages.get(room, [])

    async def run(self, command: dict[str, Any]) -> Any:
        name, who = command.pop("do"), command.pop("as")
        subject = who if name == "login" else self.devices[who]
        return await getattr(self, name)(subject, **command)


async def main() -> None:
    commands = Commands(sys.argv[1])
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        try:
            answer = {"ok": await commands.run(json.loads(line))}
        except Exception:  # noqa: BLE001 - whatever it is, the reader is told
            answer = {"error": traceback.format_exc()[-2_000:]}
        print(json.dumps(answer), flush=True)
    for device in commands.devices.values():
        await device.stop()


asyncio.run(main())

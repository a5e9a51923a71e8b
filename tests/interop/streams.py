"""Users who keep talking through trouble, and what must be true of what they said.

A stream is one user who says one thing after the other, each until it is acknowledged, as a client
does that wants it said: with the same transaction id. Afterwards nothing that was acknowledged may
be missing anywhere, nothing may be there twice, and each stream is in order.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from tests.interop.agreement import same_events, same_state
from tests.interop.client import ApiError, Client, texts
from tests.interop.programs import run_program
from tests.interop.servers import Homeserver
from tests.interop.waiting import eventually

#: Between two sends of one stream, so that the other server can follow: it is not a load test.
PACE = 0.03
#: Streams of each user.
STREAMS = 2
#: How long a client waits before it repeats a request that got no answer.
RETRY_PAUSE = 0.05


class Streams:
    """What two users, one on each server, say in one room while something befalls a server."""

    def __init__(self, room: str, alice: Client, bob: Client, answered_within: float) -> None:
        """A client that insists is answered within `answered_within` seconds, whatever happens."""
        self.room = room
        self.users = {"alice": alice, "bob": bob}
        self.acknowledged: dict[str, str] = {}
        self._answered_within = answered_within

    @asynccontextmanager
    async def talking(self) -> AsyncIterator[None]:
        """They talk for as long as this is open; then each says a last word."""
        end = asyncio.Event()
        tasks = [
            asyncio.create_task(self._stream(client, f"{name}{number}", end))
            for name, client in self.users.items()
            for number in range(STREAMS)
        ]
        try:
            yield
        except BaseException:
            for task in tasks:
                task.cancel()
            raise
        end.set()
        await asyncio.gather(*tasks)
        for name, client in self.users.items():
            await self.say(client, f"last of {name}")

    async def _stream(self, client: Client, name: str, end: asyncio.Event) -> None:
        number = 0
        while not end.is_set():
            await self.say(client, f"{name} {number}")
            number += 1
            await asyncio.sleep(PACE)

    async def say(self, client: Client, text: str) -> None:
        """Say something until it is acknowledged."""
        self.acknowledged[text] = await self._insist(client, text)

    async def _insist(self, client: Client, text: str) -> str:
        deadline = time.monotonic() + self._answered_within
        trouble: Exception | None = None
        while time.monotonic() < deadline:
            try:
                return await client.send(self.room, text, txn=f"insist {text}")
            except ApiError as error:
                if error.status < 500:
                    raise
                trouble = error
            except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
                trouble = error
            await asyncio.sleep(RETRY_PAUSE)
        raise AssertionError(f"{text!r} was not answered within {self._answered_within:g} s: {trouble!r}")

    async def check(self, within: float) -> None:
        """Within so many seconds everything that was acknowledged is on both servers, once, in order."""
        for client in self.users.values():
            await eventually(
                lambda client=client: self._told_exactly_once(client),  # type: ignore[misc]
                f"{len(self.acknowledged)} acknowledged sends at {client.server.process.title}",
                within,
            )
        await same_events(self.room, *self.users.values())
        await same_state(self.room, *self.users.values())
        for client in self.users.values():
            _each_in_order(await client.history(self.room, page=100), client.server.process.title)

    async def _told_exactly_once(self, client: Client) -> bool:
        history = await client.history(self.room, page=100)
        told = {text: event["event_id"] for event in history for text in texts([event])}
        counts = Counter(texts(history))
        lost = [text for text in self.acknowledged if counts[text] == 0]
        double = [text for text, count in counts.items() if count > 1]
        other = [text for text, event_id in self.acknowledged.items() if told.get(text, event_id) != event_id]
        # Only what is missing may still arrive.
        if double or other:
            raise RuntimeError(f"twice: {double[:5]}; under another event id than acknowledged: {other[:5]}")
        assert not lost, f"{len(lost)} not there: {lost[:5]}"
        return True


def _each_in_order(history: list[dict[str, object]], where: str) -> None:
    spoken = texts(list(reversed(history)))
    for name in ("alice", "bob"):
        for number in range(STREAMS):
            own = [text for text in spoken if text.startswith(f"{name}{number} ")]
            assert own == [f"{name}{number} {n}" for n in range(len(own))], where


async def is_sound(server: Homeserver) -> None:
    """The database of a running comity keeps every invariant of the store."""
    command = [sys.executable, "-m", "comity", "database", "check"]
    said = await run_program([*command, "--config", str(server.directory / "comity.toml")], os.environ)
    assert said[-1] == "The database is sound."

"""The stage of the hostile tests: a room that stands here, and a peer in it who wishes it ill.

Owns the two checks that every such test ends with: what was refused is nowhere, and what
was honest went through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.interop.client import ApiError, Client
from tests.interop.peer import Answer, Peer, uri
from tests.interop.peer_room import Room
from tests.interop.servers import Homeserver
from tests.interop.wire import Json

#: A stranger who never was in the room, on the peer's server.
STRANGER = "stranger"


@dataclass
class Scene:
    """`alice` made `room` here; `mallory`, at the peer, has joined it and has no power in it."""

    server: Homeserver
    peer: Peer
    alice: Client
    room: Room
    mallory: str

    @property
    def room_id(self) -> str:
        return self.room.room_id

    def sign(self, event: Json, **more: Any) -> Json:
        return self.peer.signer.sign_event(event, self.room.version, **more)

    def message(self, text: str, /, **changes: Any) -> Json:
        """A good message, signed, at the end of the history as the peer knows it."""
        return self.sign(self.room.message(self.mallory, text, **changes))

    async def send(self, *pdus: Any) -> Answer:
        return await self.peer.send(self.server.name, list(pdus))

    async def absent(self, event: Json, *, also_for_servers: bool = True) -> None:
        """The event is in no answer: neither to a client, nor (if asked) to the peer."""
        await self.absent_id(self.room.event_id(event), also_for_servers=also_for_servers)

    async def absent_id(self, event_id: str, *, also_for_servers: bool = True) -> None:
        with pytest.raises(ApiError) as unknown:
            await self.alice.event(self.room_id, event_id)
        assert (unknown.value.status, unknown.value.errcode) == (404, "M_NOT_FOUND")
        assert event_id not in [e["event_id"] for e in await self.alice.history(self.room_id, page=100)]
        assert event_id not in (await self.alice.state(self.room_id)).values()
        if also_for_servers:
            answer = await self.peer.request("GET", self.server.name, uri("event", event_id))
            assert answer.status in (403, 404), answer

    async def still_works(self) -> None:
        """An honest message goes through, in at one door and out at the other."""
        message = self.message(f"still here {len(self.room.events)}")
        answer = await self.send(message)
        assert (answer.status, answer.body) == (200, {"pdus": {self.room.add(message): {}}}), answer
        await self.alice.sees_event(self.room_id, self.room.event_id(message))


async def set_scene(server: Homeserver, peer: Peer, alice: Client, version: str, **options: Any) -> Scene:
    room_id = await alice.create_room(version, **options)
    await alice.sync()
    mallory = peer.user("mallory")
    room = await peer.join(server.name, room_id, mallory)
    return Scene(server, peer, alice, room, mallory)


def deviates(server: Homeserver, how: str) -> None:
    """End the test here when it is only being tried on Synapse, which is known to differ in this."""
    if server.software == "synapse":
        pytest.skip(f"Synapse {how}")

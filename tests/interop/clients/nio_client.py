"""matrix-nio, without encryption: two users log in, meet in a room, talk, page back.

Runs in the virtual environment that has matrix-nio, apart from the tests. Arguments: the
homeserver's URL, the CA file, and two users as LOCALPART PASSWORD LOCALPART PASSWORD.
Prints a line for every step that came true; ends with 0 when all did.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import Any

from nio import (
    AsyncClient,
    AsyncClientConfig,
    InviteMemberEvent,
    MatrixRoom,
    RedactionEvent,
    RoomMessagesResponse,
    RoomMessageText,
    RoomTopicEvent,
)
from nio.responses import ErrorResponse

SAID = [f"message {number}" for number in range(30)]
#: Rounds of /sync until something must have come.
ROUNDS = 20


class Follower:
    """A logged-in nio client that keeps what its callbacks hear."""

    def __init__(self, url: str, ca: str, localpart: str) -> None:
        config = AsyncClientConfig(encryption_enabled=False, max_limit_exceeded=0, max_timeouts=0)
        context = ssl.create_default_context(cafile=ca)
        self.nio = AsyncClient(url, localpart, config=config, ssl=context)
        self.texts: list[str] = []
        self.topics: list[str] = []
        self.redacted: list[str] = []
        self.invited: list[str] = []
        self.nio.add_event_callback(self._heard, (RoomMessageText, RoomTopicEvent, RedactionEvent))
        self.nio.add_event_callback(self._invite, InviteMemberEvent)

    async def _heard(self, _room: MatrixRoom, event: Any) -> None:
        if isinstance(event, RoomMessageText):
            self.texts.append(event.body)
        elif isinstance(event, RoomTopicEvent):
            self.topics.append(event.topic)
        else:
            self.redacted.append(event.redacts)

    async def _invite(self, room: MatrixRoom, event: InviteMemberEvent) -> None:
        if event.membership == "invite" and event.state_key == self.nio.user_id:
            self.invited.append(room.room_id)

    async def sync_until(self, told: Any, what: str) -> None:
        for _ in range(ROUNDS):
            good(await self.nio.sync(timeout=1000))
            if told():
                return
        raise SystemExit(f"not told: {what}")


def good(response: Any) -> Any:
    if isinstance(response, ErrorResponse):
        raise SystemExit(f"{type(response).__name__}: {response}")
    return response


def step(text: str) -> None:
    print(text, flush=True)


async def talk(alice: Follower, bob: Follower) -> str:
    created = good(await alice.nio.room_create(name="By nio", topic="first", invite=[bob.nio.user_id]))
    room = created.room_id
    step(f"create {room}")
    await bob.sync_until(lambda: room in bob.invited, "the invite")
    step("invite")
    good(await bob.nio.join(room))
    await bob.sync_until(lambda: room in bob.nio.rooms, "the room")
    members = good(await bob.nio.joined_members(room)).members
    assert {member.user_id for member in members} == {alice.nio.user_id, bob.nio.user_id}
    assert bob.nio.rooms[room].name == "By nio", bob.nio.rooms[room].name
    step("join")
    for speaker, listener in ((alice, bob), (bob, alice)):
        text = f"hello from {speaker.nio.user_id}"
        content = {"msgtype": "m.text", "body": text}
        good(await speaker.nio.room_send(room, "m.room.message", content))
        await listener.sync_until(lambda text=text, to=listener: text in to.texts, text)
    step("send and receive")
    good(await alice.nio.room_put_state(room, "m.room.topic", {"topic": "second"}))
    await bob.sync_until(lambda: "second" in bob.topics, "the topic")
    assert bob.nio.rooms[room].topic == "second"
    content = {"msgtype": "m.text", "body": "regret"}
    sent = good(await bob.nio.room_send(room, "m.room.message", content)).event_id
    good(await bob.nio.room_redact(room, sent, "wrong"))
    await alice.sync_until(lambda: sent in alice.redacted, "the redaction")
    good(await alice.nio.room_typing(room, True))
    good(await alice.nio.room_read_markers(room, sent, sent))
    good(await alice.nio.set_displayname("Alice by nio"))
    assert good(await bob.nio.get_displayname(alice.nio.user_id)).displayname == "Alice by nio"
    step("state, redaction, typing, markers, profile")
    return str(room)


async def page_back(alice: Follower, bob: Follower, room: str) -> None:
    for text in SAID:
        content = {"msgtype": "m.text", "body": text}
        good(await alice.nio.room_send(room, "m.room.message", content))
    await bob.sync_until(lambda: SAID[-1] in bob.texts, "the last message")
    start, texts, kinds = bob.nio.next_batch, [], []
    for _ in range(ROUNDS):
        page: RoomMessagesResponse = good(await bob.nio.room_messages(room, start, limit=10))
        texts += [event.body for event in page.chunk if isinstance(event, RoomMessageText)]
        kinds += [event.source["type"] for event in page.chunk]
        if not page.end or page.end == start:
            break
        start = page.end
    assert texts[: len(SAID)] == SAID[::-1], texts
    assert kinds[-1] == "m.room.create", kinds[-3:]
    step("page back")


async def run(url: str, ca: str, *accounts: str) -> None:
    alice, bob = Follower(url, ca, accounts[0]), Follower(url, ca, accounts[2])
    try:
        for follower, password in ((alice, accounts[1]), (bob, accounts[3])):
            good(await follower.nio.login(password, device_name="nio"))
            good(await follower.nio.sync(timeout=0, full_state=True))
        step("login and sync")
        room = await talk(alice, bob)
        await page_back(alice, bob, room)
        good(await bob.nio.room_leave(room))
        good(await bob.nio.room_forget(room))
        good(await bob.nio.logout())
        step("leave, forget, logout")
    finally:
        await alice.nio.close()
        await bob.nio.close()


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))

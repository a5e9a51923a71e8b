"""What the demonstration plays: two people, two servers, one room.

Each step asserts what it tells; the first that does not come true raises StepFailed and ends it.
"""

from __future__ import annotations

from functools import partial

from comity.cli.demo.client import Client, Event, messages
from comity.cli.demo.servers import Server
from comity.cli.demo.transcript import StepFailed, Transcript
from comity.ports import Clock, Entropy, Transport

#: Messages before Bob comes: more than a server is sent when it joins, so that it has to fetch them.
EARLIER_MESSAGES = 40
#: Events that Bob's client asks for at a time while it pages back.
PAGE = 15
#: Seconds for a message to reach the other server, on a slow machine.
ARRIVAL_SECONDS = 30.0
#: Seconds for what was said in an absence: the sender may be waiting before it tries again.
CATCH_UP_SECONDS = 90.0
#: Characters of the passwords, which are printed at the end.
PASSWORD_LENGTH = 12

TALK = (
    ("alice", "Good evening, south. Do you read me?"),
    ("bob", "Loud and clear, north. Your event came signed, and the signature holds."),
    ("alice", "Then we keep one history between us, and neither of us owns it."),
    ("bob", "That is the idea."),
)
IN_ABSENCE = ("South? Are you there?", "The tide is turning.", "I am leaving you a note.", "Good night.")
NEW_TOPIC = "Written while south was away"


class Story:
    """The steps, in the order in which they must be played."""

    def __init__(
        self, transcript: Transcript, transport: Transport, clock: Clock, entropy: Entropy,
        north: Server, south: Server, shared_secret: str,
    ) -> None:  # fmt: skip
        self._transcript = transcript
        self._transport = transport
        self._clock = clock
        self._entropy = entropy
        self._north = north
        self._south = south
        self._shared_secret = shared_secret
        self.alice = Client("alice", transport, clock, north.port)
        self.bob = Client("bob", transport, clock, south.port)
        self._earlier = [f"Log entry {number}" for number in range(1, EARLIER_MESSAGES + 1)]
        self._alias = f"#harbour:{north.name}"
        self._room = ""

    async def play(self) -> None:
        """All of it. Raises StepFailed."""
        await self._start()
        await self._make_accounts()
        await self._make_room()
        await self._join()
        await self._talk()
        await self._read_history()
        await self._be_away()
        await self._catch_up()
        await self._compare_state()

    async def _start(self) -> None:
        with self._transcript.step("Two homeservers start, each with a database of its own"):
            for server in (self._north, self._south):
                await server.start(self._transport, self._clock)
                self._transcript.detail(f"{server.nickname}  {server.url}")

    async def _make_accounts(self) -> None:
        with self._transcript.step("Alice gets an account on north, Bob one on south; both log in"):
            for client in (self.alice, self.bob):
                await client.register(self._shared_secret, self._entropy.token(PASSWORD_LENGTH))
                await client.log_in()
                self._transcript.detail(client.user_id)

    async def _make_room(self) -> None:
        with self._transcript.step(f"Alice makes a room and writes {EARLIER_MESSAGES} messages, alone in it"):
            room = {
                "preset": "public_chat",
                "name": "The harbour",
                "topic": "Two servers, one room",
                "room_alias_name": "harbour",
            }
            self._room = str((await self.alice.call("POST", "createRoom", body=room))["room_id"])
            for text in self._earlier:
                await self.alice.send(self._room, text)
            await self.alice.sync(self._room)
            state = await self.alice.state(self._room)
            version = state["m.room.create", ""]["content"].get("room_version", "1")
            self._transcript.detail(f"{self._alias}, room version {version}")

    async def _join(self) -> None:
        with self._transcript.step("Bob joins it by its alias: south asks north, over federation"):
            joined = await self.bob.call("POST", "join", self._alias, body={})
            if joined["room_id"] != self._room:
                raise StepFailed(f"Bob came into {joined['room_id']}, not into {self._room}")
            await self.bob.sync(self._room)
            await self.alice.wait_for(
                self._room,
                "that Bob joined",
                lambda event: event["type"] == "m.room.member" and event["state_key"] == self.bob.user_id,
                ARRIVAL_SECONDS,
            )

    async def _talk(self) -> None:
        with self._transcript.step("They talk; each line is there when the other server has it"):
            for who, text in TALK:
                speaker, listener = (self.alice, self.bob) if who == "alice" else (self.bob, self.alice)
                started = self._clock.monotonic()
                sent = await speaker.send(self._room, text)
                arrived = await listener.wait_for(
                    self._room, f'"{text}"', partial(_is_event, sent), ARRIVAL_SECONDS
                )
                if arrived["content"].get("body") != text:
                    raise StepFailed(f'"{text}" arrived as {arrived["content"]}')
                self._transcript.spoken(who, text, (self._clock.monotonic() - started) * 1000)
                # The speaker's own client sees it too, so that nothing of this is left for later.
                await speaker.wait_for(self._room, f'"{text}"', partial(_is_event, sent), ARRIVAL_SECONDS)

    async def _read_history(self) -> None:
        with self._transcript.step("Bob pages back: south fetches from north what was said before it came"):
            events = await self.bob.history(self._room, PAGE)
            found = [text for text in messages(events) if text in set(self._earlier)]
            # What the join itself brought stands in the first timeline.
            found += [text for text in messages(self.bob.timeline) if text in set(self._earlier)]
            if found != self._earlier:
                raise StepFailed(
                    f"of {len(self._earlier)} messages Bob found {len(found)}, or in another order"
                )
            self._transcript.detail(f"all {len(found)} of Alice's earlier messages, in order")

    async def _be_away(self) -> None:
        with self._transcript.step("South is stopped; Alice goes on writing and changes the topic"):
            code = await self._south.stop()
            if code != 0:
                raise StepFailed(f"south ended with exit code {code}")
            for text in IN_ABSENCE:
                await self.alice.send(self._room, text)
                self._transcript.spoken("alice", text)
            path = ("rooms", self._room, "state", "m.room.topic")
            await self.alice.call("PUT", *path, body={"topic": NEW_TOPIC})

    async def _catch_up(self) -> None:
        with self._transcript.step("South starts again and catches up with what it missed"):
            await self._south.start(self._transport, self._clock)
            known = len(self.bob.timeline)
            await self.bob.wait_for(
                self._room,
                "the topic of his absence",
                lambda event: event["type"] == "m.room.topic" and event["content"].get("topic") == NEW_TOPIC,
                CATCH_UP_SECONDS,
            )
            missed = messages(self.bob.timeline[known:])
            if missed != list(IN_ABSENCE):
                raise StepFailed(f"Bob reads {missed}")
            self._transcript.detail(f"all {len(missed)} messages, in order, and the new topic")

    async def _compare_state(self) -> None:
        with self._transcript.step("Both servers hold the same state of the room"):
            north, south = await self.alice.state(self._room), await self.bob.state(self._room)
            different = [
                " ".join(key).strip()
                for key in sorted(north.keys() | south.keys())
                if north.get(key, {}).get("event_id") != south.get(key, {}).get("event_id")
            ]
            if different:
                raise StepFailed(f"north and south differ in {', '.join(different)}")
            self._transcript.detail(f"{len(north)} state events, the same on both")


def _is_event(event_id: str, event: Event) -> bool:
    return bool(event["event_id"] == event_id)

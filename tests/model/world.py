"""One history's server, its users and their clients; opened again after a restart."""

from __future__ import annotations

import itertools
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import orjson

from comity.protocol.event import Event
from tests.api.support_rooms import Client
from tests.api.support_rooms import Place as ApiPlace
from tests.engines import quiet
from tests.model.check import Checker
from tests.model.elsewhere import HERE, THERE, Elsewhere
from tests.model.followers import DifferenceError, Follower, SlidingFollower, SyncFollower, Told
from tests.model.oracle import Oracle
from tests.rooms.support import Place, a_place, learn_keys, settle
from tests.rules.rooms import Room

ALICE, AMY, ANN = (f"@{name}:{HERE}" for name in ("alice", "amy", "ann"))
BOB, CY = (f"@{name}:{THERE}" for name in ("bob", "cy"))
LOCAL, REMOTE = (ALICE, AMY, ANN), (BOB, CY)
VERSIONS = ("12", "12", "11", "10", "6", "1")
REQUIRED: tuple[Any, ...] = (
    [["*", "*"]],
    [["*", "*"]],
    [["m.room.name", ""], ["m.room.topic", ""], ["m.room.member", "$LAZY"], ["m.room.member", "$ME"]],
)
#: Seconds after which holes in history are seen to, and more.
A_WHILE = 15.0
#: Turns given to what came of one event: more than it takes.
MANY_TURNS = 50


class World:
    """Everything of one history, from its seed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = Random(seed)
        self.folder = folder
        self.network = Elsewhere(Random(seed))
        self.place: Place
        self.checker: Checker
        self.clients: dict[str, Client] = {}
        self.followers: list[tuple[str, Follower]] = []
        self.rooms: list[str] = []
        #: Branches that the other server may go on from, by room.
        self.branches: dict[str, list[Room]] = {}
        #: Written there and not sent yet.
        self.held_back: list[Event] = []
        #: The ids of messages by room, for those who relate to them.
        self.said: dict[str, list[str]] = {}
        #: What happened, in words.
        self.history: list[str] = []
        self._stack = AsyncExitStack()
        self._transactions = itertools.count(1)
        self._markers = itertools.count(1)
        self._runs = 0

    # -- the server

    async def open(self) -> None:
        """Start the server, or start it again."""
        self._runs += 1
        now = self.place.clock.now_ms() if self._runs > 1 else None
        place = await self._stack.enter_async_context(
            a_place(self.folder, HERE, network=self.network, seed=self._runs)
        )
        if now is not None:
            await place.clock.turn((now - place.clock.now_ms()) / 1000 + 5)
        self.place = place
        await learn_keys(place, [THERE])
        oracle = Oracle(place)
        if self._runs == 1:
            self.checker = Checker(oracle)
        self.checker.oracle = oracle
        for client in (*self.clients.values(), *(follower.client for _, follower in self.followers)):
            client._place = ApiPlace(place.app, place.clock)

    async def close(self) -> None:
        """Stop the server."""
        await self._stack.aclose()
        self._stack = AsyncExitStack()

    async def restart(self) -> None:
        """Stop the server and start it again."""
        await self.close()
        await self.open()

    async def rest(self, seconds: float = 0.0) -> None:
        """Let everything that is under way end, and some time pass."""
        if seconds:
            await settle(self.place.clock, seconds=seconds)
        else:
            await quiet(MANY_TURNS)

    # -- people

    async def begin(self) -> None:
        """Users with clients, and rooms of which some are in."""
        await self.open()
        api = ApiPlace(self.place.app, self.place.clock)
        users = self.place.app._users
        chance = self.chance
        for user_id in LOCAL:
            await users.accounts.create(user_id, None)
            tokens = [(await users.sessions.open(user_id)).access_token for _ in range(3)]
            mine, syncing, sliding = (Client(api, user_id, token) for token in tokens)
            self.clients[user_id] = mine
            sync = SyncFollower(
                "sync", syncing, self._witness, limit=chance.choice([1, 2, 3, 5, 10, 30]),
                lazy=chance.random() < 0.4, state_after=chance.random() < 0.6,
            )  # fmt: skip
            slide = SlidingFollower(
                "sliding", sliding, self._witness, limit=chance.choice([1, 2, 4, 8, 20]),
                window=chance.choice([1, 2, 10]), required=chance.choice(REQUIRED),
            )  # fmt: skip
            self.followers += [(user_id, sync), (user_id, slide)]
            self.say(
                f"{user_id}: /sync limit={sync.limit} lazy={sync.lazy} "
                f"state_after={sync.state_after}; sliding limit={slide.limit} window={slide.window} "
                f"required={slide.required}"
            )
        for _ in range(chance.choice([1, 2, 2, 3])):
            await self._make_room()

    async def _make_room(self) -> None:
        version = self.chance.choice(VERSIONS)
        state = []
        if self.chance.random() < 0.5:
            visibility = self.chance.choice(["world_readable", "invited", "joined"])
            state.append({"type": "m.room.history_visibility", "content": {"history_visibility": visibility}})
        room_id = await self.clients[ALICE].create(room_version=version, initial_state=state)
        self.rooms.append(room_id)
        self.said[room_id] = []
        self.say(f"{ALICE} makes {room_id}, version {version}, {state}")
        levels = (await self.clients[ALICE].ask("GET", f"/rooms/{room_id}/state/m.room.power_levels")).ok()
        levels["users"] = {**levels.get("users", {}), BOB: 60}
        await self.clients[ALICE].set_state(room_id, "m.room.power_levels", levels)
        branch = self.network.branch(self.place, room_id)
        for user_id in REMOTE:
            await self.deliver(
                self.network.write(branch, user_id, "m.room.member", {"membership": "join"}, user_id)
            )
        self.branches[room_id] = [branch]

    async def deliver(self, *events: Event) -> dict[str, Any]:
        """A transaction of the other server."""
        values = [dict(event.source) for event in events]
        answer = await self.place.rooms.intake.receive(THERE, f"t{next(self._transactions)}", values)
        results: dict[str, Any] = orjson.loads(answer)["pdus"]
        return results

    def marker(self) -> str:
        """A text that stands in one message alone."""
        return f"<{next(self._markers)}>"

    def say(self, what: str) -> None:
        """Write into the history."""
        self.history.append(what)

    # -- watching

    def _witness(self, user_id: str, room_id: str, events: list[Told], answer: Any) -> None:
        self.checker.witness(user_id, room_id, events, answer)

    async def catch_up(self, user_id: str, follower: Follower, *, fully: bool = False) -> None:
        """One client asks for news; `fully` of all rooms."""
        if isinstance(follower, SlidingFollower):
            # A phone that is turned shows more of the list, and a room that is opened more of its timeline.
            limit = follower.limit * 3 if self.chance.random() < 0.15 else None
            window = 100 if fully or self.chance.random() < 0.1 else None
            await follower.catch_up(window=window, limit=limit)
        else:
            assert isinstance(follower, SyncFollower)
            await follower.catch_up()

    async def finish(self) -> None:
        """Everybody catches up and pages to the beginning; everything is compared."""
        while self.held_back:
            await self.deliver(self.held_back.pop())
        for _ in range(3):
            await self.rest(A_WHILE)
        for user_id, follower in self.followers:
            for _ in range(2):
                await self.catch_up(user_id, follower, fully=True)
            for room_id in list(follower.rooms):
                self.say(f"the end: {follower.name} of {user_id} pages {room_id}")
                await follower.fill_all(room_id)
        # What changed in the past alone is told with the next news.
        for room_id in self.rooms:
            await self.clients[ALICE].say(room_id, "the end")
        for user_id, follower in self.followers:
            await self.catch_up(user_id, follower, fully=True)
        for user_id, follower in self.followers:
            for room_id in self.rooms:
                try:
                    self.checker.compare(follower, user_id, room_id)
                except DifferenceError as error:
                    raise DifferenceError(f"{follower.name} of {user_id} in {room_id}: {error}") from error

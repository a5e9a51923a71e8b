"""/sync and /messages in rooms that live on two servers: history from elsewhere, forks that merge."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.support_rooms import Client, Network, Place, bodies, by_key, networked_place
from tests.api.support_users import at
from tests.engines import quiet

#: Turns given to other tasks while servers talk: far more than any exchange needs.
MANY_TURNS = 2_000


class Pair:
    """Two servers with a user each, in one room that lives on both."""

    def __init__(self, network: Network, here: Place, there: Place, alice: Client, bob: Client) -> None:
        self.network = network
        self.here = here
        self.there = there
        self.alice = alice
        self.bob = bob

    async def settle(self) -> None:
        """Let the servers tell each other everything, retries included."""
        for place in (self.here, self.there):
            await place.clock.turn(3_600)
        await quiet(MANY_TURNS)

    async def meet(self, room_id: str) -> None:
        """Bob, who is on the other server, joins."""
        await self.bob.join(room_id, via="192.0.2.1:1")
        await self.settle()


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    network = Network()
    async with (
        networked_place(tmp_path / "here", network, 1) as here,
        networked_place(tmp_path / "there", network, 2) as there,
    ):
        yield Pair(network, here, there, await here.client("alice"), await there.client("bob"))


async def state_of(client: Client, room_id: str) -> dict[tuple[str, str], str]:
    """(type, state key) -> event id of the room's present state."""
    listed = (await client.ask("GET", at("rooms", room_id, "state"))).ok()
    return {(event["type"], event["state_key"]): event["event_id"] for event in listed}


class Follower:
    """A client that keeps the room's state by the `state_after` that /sync tells."""

    def __init__(self, client: Client, room_id: str) -> None:
        self._client = client
        self._room_id = room_id
        self._since: str | None = None
        self.state: dict[tuple[str, str], str] = {}
        self.heard: list[str] = []

    async def catch_up(self) -> None:
        """Sync once."""
        answer = await self._client.sync(self._since, use_state_after=True)
        self._since = answer["next_batch"]
        part = answer["rooms"]["join"].get(self._room_id)
        if part is None:
            return
        for event in part["state_after"]["events"]:
            self.state[event["type"], event["state_key"]] = event["event_id"]
        self.heard += bodies(part["timeline"]["events"])


async def test_joining_from_afar_tells_the_room_and_pages_to_its_beginning(pair: Pair) -> None:
    room_id = await pair.alice.create(name="Far")
    await pair.alice.say_all(room_id, *"abcdefgh")
    since = await pair.bob.token_now()
    await pair.meet(room_id)
    answer = await pair.bob.sync(since)
    part = answer["rooms"]["join"][room_id]
    assert [event["type"] for event in part["timeline"]["events"]] == ["m.room.member"]
    assert part["timeline"]["limited"]
    assert by_key(part["state"]["events"])["m.room.name", ""] == {"name": "Far"}
    assert part["summary"]["m.joined_member_count"] == 2
    page = await pair.bob.messages(room_id, from_=part["timeline"]["prev_batch"], limit=5)
    assert bodies(page["chunk"]) == list("hgfed")
    page = await pair.bob.messages(room_id, from_=page["end"], limit=50)
    assert bodies(page["chunk"]) == list("cba")
    assert page["chunk"][-1]["type"] == "m.room.create"
    assert "end" not in page
    # What was fetched is history: nobody is told of it as news.
    assert (await pair.bob.sync(answer["next_batch"]))["rooms"]["join"] == {}
    await pair.alice.say(room_id, "news")
    await pair.settle()
    part = (await pair.bob.sync(answer["next_batch"]))["rooms"]["join"][room_id]
    assert bodies(part["timeline"]["events"]) == ["news"]
    assert not part["timeline"]["limited"]


async def test_members_at_the_start_of_a_timeline_from_afar(pair: Pair) -> None:
    room_id = await pair.alice.create()
    await pair.meet(room_id)
    part = (await pair.bob.sync(wanted={"room": {"timeline": {"limit": 1}}}))["rooms"]["join"][room_id]
    path = at("rooms", room_id, "members")
    chunk = (await pair.bob.ask("GET", path, at=part["timeline"]["prev_batch"])).ok()["chunk"]
    assert {event["state_key"] for event in chunk} == {pair.alice.user_id}


@pytest.mark.parametrize("version", ["1", "6", "11", "12"])
async def test_a_fork_is_told_so_that_every_client_ends_with_the_same_state(pair: Pair, version: str) -> None:
    alice, bob = pair.alice, pair.bob
    room_id = await alice.create(room_version=version)
    await pair.meet(room_id)
    levels: dict[str, Any] = (
        await alice.ask("GET", at("rooms", room_id, "state", "m.room.power_levels"))
    ).ok()
    levels["users"] = {**levels.get("users", {}), bob.user_id: 50}
    await alice.set_state(room_id, "m.room.power_levels", levels)
    await pair.settle()
    followers = [Follower(client, room_id) for client in (alice, bob)]
    for follower in followers:
        await follower.catch_up()
    pair.network.cut = {1, 2}
    await alice.set_state(room_id, "m.room.name", {"name": "Alice's"})
    await bob.set_state(room_id, "m.room.name", {"name": "Bob's"})
    await bob.set_state(room_id, "m.room.topic", {"topic": "Bob's"})
    await alice.say(room_id, "from alice")
    await bob.say(room_id, "from bob")
    for follower in followers:
        await follower.catch_up()
        await follower.catch_up()
    pair.network.cut = set()
    await pair.settle()
    for follower in followers:
        await follower.catch_up()
    await alice.say(room_id, "merged")
    await pair.settle()
    expected = await state_of(alice, room_id)
    assert await state_of(bob, room_id) == expected
    for follower in followers:
        await follower.catch_up()
        assert follower.state == expected
        assert sorted(follower.heard) == ["from alice", "from bob", "merged"]


async def test_what_was_said_without_knowing_of_a_join_reaches_who_joined(pair: Pair) -> None:
    alice, bob, amy = pair.alice, pair.bob, await pair.here.client("amy")
    room_id = await alice.create()
    await pair.meet(room_id)
    pair.network.cut = {1, 2}
    await bob.say(room_id, "before he knew")
    await amy.join(room_id)
    since = await amy.token_now()
    pair.network.cut = set()
    await pair.settle()
    # client-server §Room History Visibility, rule 3: they joined after it was sent, and it came later.
    part = (await amy.sync(since))["rooms"]["join"][room_id]
    assert bodies(part["timeline"]["events"]) == ["before he knew"]
    assert bodies((await amy.messages(room_id))["chunk"]) == ["before he knew"]


async def test_what_was_said_without_knowing_of_a_leave_is_not_shown_to_who_left(pair: Pair) -> None:
    alice, bob, amy = pair.alice, pair.bob, await pair.here.client("amy")
    room_id = await alice.create()
    await amy.join(room_id)
    root = await amy.say(room_id, "root")
    await pair.meet(room_id)
    pair.network.cut = {1, 2}
    message = {"msgtype": "m.text", "body": "not for amy"}
    await bob.send(room_id, "m.room.message", {**message, "m.relates_to": _in_thread(root)})
    await amy.leave(room_id)
    pair.network.cut = set()
    await pair.settle()
    assert "m.thread" in (await _bundle(alice, room_id, root))
    assert (await _bundle(amy, room_id, root)) == {}
    path = at("rooms", room_id, "relations", root)
    answer = await amy.ask("GET", path.replace("/rooms", "/_matrix/client/v1/rooms", 1))
    assert bodies(answer.ok()["chunk"]) == []
    # They are told again once they are back: they joined later.
    await amy.join(room_id)
    assert "m.thread" in (await _bundle(amy, room_id, root))


def _in_thread(root: str) -> dict[str, Any]:
    return {"rel_type": "m.thread", "event_id": root}


async def _bundle(client: Client, room_id: str, event_id: str) -> Any:
    """What is told of an event's children beside it."""
    chunk = (await client.messages(room_id, limit=100))["chunk"]
    (event,) = [event for event in chunk if event["event_id"] == event_id]
    return event.get("unsigned", {}).get("m.relations", {})

"""POST /createRoom, sentence by sentence (client-server §Creation): what one gets, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from comity.ports import Request, Response
from comity.rooms import founding
from tests.api.neighbours import MANY_TURNS, name_of, neighbours
from tests.api.support_rooms import Client, Place, by_key, place
from tests.api.support_users import Answer, at
from tests.engines import quiet

TWO = name_of(2)


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


async def try_create(client: Client, **body: object) -> Answer:
    """Ask for a room."""
    return await client.ask("POST", "/createRoom", body)


async def create(client: Client, **body: object) -> str:
    """A room's id."""
    answer = (await try_create(client, **body)).ok()
    assert list(answer) == ["room_id"]
    room_id: str = answer["room_id"]
    return room_id


async def events(client: Client, room_id: str) -> list[dict[str, Any]]:
    """A room's events, oldest first."""
    found: list[dict[str, Any]] = (await client.messages(room_id, "f", limit=100))["chunk"]
    return found


async def state(client: Client, room_id: str) -> Any:
    """The state of a room: contents by key."""
    return by_key((await client.ask("GET", at("rooms", room_id, "state"))).ok())


@pytest.mark.parametrize("version", ["1", "10", "11", "12"])
async def test_the_order_of_everything(here: Place, version: str) -> None:
    alice, bob = await here.clients("alice", "bob")
    room_id = await create(
        alice, room_version=version, room_alias_name="club", name="Name", topic="Topic", invite=[bob.user_id],
        initial_state=[
            {"type": "x.last", "content": {}}, {"type": "m.room.name", "content": {"name": "Overwritten"}},
            {"type": "x.first", "state_key": "k", "content": {"n": 1}},
        ],
    )  # fmt: skip
    found = [(event["type"], event["state_key"]) for event in await events(alice, room_id)]
    assert found == [
        ("m.room.create", ""), ("m.room.member", alice.user_id), ("m.room.power_levels", ""),
        ("m.room.canonical_alias", ""), ("m.room.join_rules", ""), ("m.room.history_visibility", ""),
        ("m.room.guest_access", ""), ("x.last", ""), ("m.room.name", ""), ("x.first", "k"),
        ("m.room.name", ""), ("m.room.topic", ""), ("m.room.member", bob.user_id),
    ]  # fmt: skip
    now = await state(alice, room_id)
    assert now["m.room.name", ""] == {"name": "Name"}
    assert now["m.room.canonical_alias", ""] == {"alias": "#club:example.org"}
    assert now["m.room.topic", ""]["m.topic"]["m.text"] == [{"mimetype": "text/plain", "body": "Topic"}]


async def test_a_preset_comes_of_the_visibility(here: Place) -> None:
    alice = await here.client("alice")
    for body, rule, visibility in (
        ({}, "invite", "private"),
        ({"visibility": "public"}, "public", "public"),
        ({"visibility": "private"}, "invite", "private"),
        ({"visibility": "public", "preset": "private_chat"}, "invite", "public"),
    ):
        room_id = await create(alice, **body)
        assert (await state(alice, room_id))["m.room.join_rules", ""] == {"join_rule": rule}
        answer = (await alice.ask("GET", at("directory", "list", "room", room_id))).ok()
        assert answer == {"visibility": visibility}


async def test_initial_state_goes_before_the_preset(here: Place) -> None:
    alice, bob = await here.clients("alice", "bob")
    given = [
        {"type": "m.room.guest_access", "content": {"guest_access": "forbidden"}},
        {"type": "m.room.member", "state_key": bob.user_id, "content": {"membership": "ban"}},
    ]
    room_id = await create(alice, preset="private_chat", initial_state=given)
    found = [event["type"] for event in await events(alice, room_id)]
    assert found.count("m.room.guest_access") == 1
    assert (await state(alice, room_id))["m.room.guest_access", ""] == {"guest_access": "forbidden"}
    invite = await alice.ask("POST", at("rooms", room_id, "invite"), {"user_id": bob.user_id})
    invite.failed(403, "M_FORBIDDEN")


async def test_what_the_server_overwrites_in_the_create_event(here: Place) -> None:
    alice = await here.client("alice")
    content = {"creator": "@eve:x", "room_version": "3", "m.federate": False, "org.example": 1}
    for version in ("10", "11"):
        room_id = await create(alice, room_version=version, creation_content=content)
        found = (await state(alice, room_id))["m.room.create", ""]
        own = {"creator": alice.user_id} if version == "10" else {}
        assert found == {"room_version": version, "m.federate": False, "org.example": 1, **own}


@pytest.mark.parametrize("version", ["11", "12"])
async def test_direct_chats_of_equals(here: Place, version: str) -> None:
    """The invite says that it is direct; all have the same power."""
    alice, bob = await here.clients("alice", "bob")
    creators = {"additional_creators": [bob.user_id]} if version == "12" else {}
    room_id = await create(
        alice, room_version=version, preset="trusted_private_chat", invite=[bob.user_id], is_direct=True,
        creation_content=creators,
    )  # fmt: skip
    invite = (await bob.sync())["rooms"]["invite"][room_id]["invite_state"]["events"]
    assert by_key(invite)["m.room.member", bob.user_id]["is_direct"] is True
    await bob.join(room_id)
    found = await state(bob, room_id)
    assert found["m.room.create", ""].get("additional_creators") == creators.get("additional_creators")
    levels = found["m.room.power_levels", ""]
    users = {} if version == "12" else {alice.user_id: 100, bob.user_id: 100}
    assert levels["users"] == users
    await bob.set_state(room_id, "m.room.power_levels", {**levels, "ban": 51})


async def test_the_level_of_tombstones(here: Place) -> None:
    """In version 12 it MUST be above `state_default`, also where the levels of events are overridden."""
    alice = await here.client("alice")
    overrides: tuple[dict[str, Any], ...] = (
        {}, {"events": {}}, {"events": {"x.y": 3}}, {"state_default": 150},
        {"state_default": 400, "events": {}},
    )  # fmt: skip
    for override in overrides:
        room_id = await create(alice, room_version="12", power_level_content_override=override)
        levels = (await state(alice, room_id))["m.room.power_levels", ""]
        assert levels["events"]["m.room.tombstone"] > levels["state_default"]


async def test_what_is_refused(here: Place) -> None:
    alice, bob = await here.clients("alice", "bob")
    await create(alice, room_alias_name="taken")
    for body, code in (
        ({"room_alias_name": "taken"}, "M_ROOM_IN_USE"),
        ({"room_alias_name": "a b"}, "M_INVALID_PARAM"),
        ({"room_version": "99"}, "M_UNSUPPORTED_ROOM_VERSION"),
        ({"room_version": 12}, "M_BAD_JSON"),
        ({"preset": "cosy"}, "M_BAD_JSON"),
        ({"visibility": "loud"}, "M_BAD_JSON"),
        ({"invite": "x"}, "M_BAD_JSON"),
        ({"invite": [1]}, "M_BAD_JSON"),
        ({"invite": ["bob"]}, "M_INVALID_PARAM"),
        ({"invite": [bob.user_id] * 101}, "M_INVALID_PARAM"),
        ({"initial_state": [{"type": "x.y"}]}, "M_BAD_JSON"),
        ({"initial_state": [{"type": "x.y", "content": {}}] * 101}, "M_INVALID_PARAM"),
        ({"creation_content": []}, "M_BAD_JSON"),
        ({"creation_content": {"additional_creators": ["x"]}}, "M_INVALID_PARAM"),
        ({"is_direct": "yes"}, "M_BAD_JSON"),
        # The creator could not set the name; a level that is none; somebody else's join.
        ({"room_version": "10", "power_level_content_override": {"users": {}}, "name": "x"},
         "M_INVALID_ROOM_STATE"),
        ({"power_level_content_override": {"ban": "x"}}, "M_INVALID_ROOM_STATE"),
        ({"room_version": "12", "power_level_content_override": {"users": {alice.user_id: 1}}},
         "M_INVALID_ROOM_STATE"),
    ):  # fmt: skip
        (await try_create(alice, **body)).failed(400, code)
    (await alice.ask("POST", "/createRoom", [])).failed(400, "M_BAD_JSON")
    assert len((await alice.sync())["rooms"]["join"]) == 1
    (await try_create(alice, invite_3pid="x")).failed(400, "M_BAD_JSON")


class Refusing:
    """A server that answers every invite in one way, and is a server of ours otherwise."""

    def __init__(self, there: Place, status: int, code: str) -> None:
        self.app, self._there, self._answer = self, there.app, (status, code)

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        if "/invite/" not in request.path:
            return await self._there.handle(request)
        status, code = self._answer
        body = orjson.dumps({"errcode": code, "error": "No", "room_version": "12"})
        return Response(status, body, {"Content-Type": "application/json"})


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (400, "M_INCOMPATIBLE_ROOM_VERSION", (400, "M_UNSUPPORTED_ROOM_VERSION")),
        (403, "M_INVITE_BLOCKED", (403, "M_INVITE_BLOCKED")),
    ],
)
async def test_an_invite_that_makes_the_room_useless(
    tmp_path: Path, status: int, code: str, told: tuple[int, str]
) -> None:
    """Nothing is left of the room: who was invited before is invited no more."""
    async with neighbours(tmp_path) as (here, there):
        alice, amy = await here.clients("alice", "amy")
        bob = await there.client("bob")
        transport: Any = here.app._ports.transport
        transport.places[2] = Refusing(there, status, code)
        (
            await try_create(
                alice, invite=[amy.user_id, bob.user_id], room_alias_name="club", visibility="public"
            )
        ).failed(*told)
        assert (await alice.sync())["rooms"].get("join", {}) == {}
        assert (await amy.sync())["rooms"].get("invite", {}) == {}
        (await alice.ask("GET", at("directory", "room", f"#club:{name_of(1)}"))).failed(404, "M_NOT_FOUND")
        assert (await alice.ask("GET", "/publicRooms")).ok()["chunk"] == []
        # The same of a room that stands: it is the invite alone that fails.
        room_id = await create(alice)
        answer = await alice.ask("POST", at("rooms", room_id, "invite"), {"user_id": bob.user_id})
        answer.failed(*told)


class Slow:
    """A server that thinks about invites until it is let go, and is a server of ours otherwise."""

    def __init__(self, there: Place) -> None:
        self.app, self._there, self.go = self, there.app, asyncio.Event()

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        if "/invite/" in request.path:
            await self.go.wait()
        return await self._there.handle(request)


async def test_a_server_that_takes_its_time(tmp_path: Path) -> None:
    """It keeps neither the others nor the client waiting, whose app would make the room once more."""
    async with neighbours(tmp_path, 3) as (here, there, third):
        alice, bob, cat = await here.client("alice"), await there.client("bob"), await third.client("cat")
        transport: Any = here.app._ports.transport
        transport.places[2] = slow = Slow(there)
        creating = asyncio.ensure_future(create(alice, invite=[bob.user_id, cat.user_id]))
        await quiet(MANY_TURNS)
        (room_id,) = (await cat.sync())["rooms"]["invite"]
        assert not creating.done()
        await here.clock.turn(15)
        assert await creating == room_id
        # The client may as well go away: everything is done all the same.
        leaving = asyncio.ensure_future(create(alice, invite=[bob.user_id, cat.user_id]))
        await quiet(MANY_TURNS)
        leaving.cancel()
        slow.go.set()
        await quiet(MANY_TURNS)
        assert len((await bob.sync())["rooms"]["invite"]) == len((await cat.sync())["rooms"]["invite"]) == 2


async def test_a_server_that_stops_does_not_wait_for_another(tmp_path: Path) -> None:
    async with neighbours(tmp_path, 2) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        transport: Any = here.app._ports.transport
        transport.places[2] = slow = Slow(there)
        creating = asyncio.ensure_future(try_create(alice, invite=[bob.user_id]))
        await quiet(MANY_TURNS)
        assert here.app._rooms.founder._running
        await here.app._rooms.founder.stop()
        assert not here.app._rooms.founder._running
        with pytest.raises(asyncio.CancelledError):
            await creating
        slow.go.set()


async def test_rooms_that_are_being_made_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with place(tmp_path) as server:
        alice = await server.client("alice")
        monkeypatch.setattr(founding, "MAX_RUNNING", 0)
        answer = await try_create(alice)
        answer.failed(429, "M_LIMIT_EXCEEDED")
        assert answer.headers["Retry-After"] == "5"


async def test_an_invite_that_may_be_repeated(tmp_path: Path) -> None:
    """A server that does not answer: the room stands."""
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        transport: Any = here.app._ports.transport
        transport.cut.add(2)
        room_id = await create(alice, invite=[bob.user_id])
        transport.cut.clear()
        await here.clock.turn(3_600)
        await alice.treat(room_id, "invite", bob)
        assert room_id in (await bob.sync())["rooms"]["invite"]

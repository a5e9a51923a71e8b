"""Guests: their accounts, what they may ask, the rooms that let them in (client-server §Guest Access)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from comity.api.guests import GUEST_ENDPOINTS
from tests.api.neighbours import name_of, neighbours, settle
from tests.api.support_rooms import Client, Place, ask, bodies, place
from tests.api.support_users import Answer, at, user_server

DUMMY = {"type": "m.login.dummy"}
FORBIDDEN = "M_GUEST_ACCESS_FORBIDDEN"
#: What guests may ask and this server does not have yet.
MEDIA = ("/media/download/", "/media/thumbnail/")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


async def register(server: Place, body: Mapping[str, object], **query: object) -> Answer:
    return await ask(server.app, "POST", "/_matrix/client/v3/register", body, query, None)


async def a_room(owner: Client, guest_access: str = "can_join", **body: Any) -> str:
    initial = [{"type": "m.room.guest_access", "content": {"guest_access": guest_access}}]
    return await owner.create(initial_state=[*initial, *body.pop("initial_state", [])], **body)


async def enter(guest: Client, room_id: str) -> Answer:
    return await guest.ask("POST", at("rooms", room_id, "join"), {})


async def membership(client: Client, room_id: str, of: Client) -> str:
    content = (await client.ask("GET", at("rooms", room_id, "state", "m.room.member", of.user_id))).ok()
    return str(content["membership"])


# -- accounts


async def test_a_guest_is_told_so(server: Place) -> None:
    (alice,) = await server.clients("alice")
    guest = await server.guest()
    assert (await guest.ask("GET", "/account/whoami")).ok()["is_guest"] is True
    assert (await alice.ask("GET", "/account/whoami")).ok()["is_guest"] is False


async def test_there_are_no_guests_unless_the_operator_wants_them(tmp_path: Path) -> None:
    async with user_server(tmp_path) as users:
        (await users.ask("POST", "/register?kind=guest", {})).failed(403, "M_FORBIDDEN")


async def test_guests_may_come_where_registration_is_closed(tmp_path: Path) -> None:
    async with user_server(tmp_path, "[registration]\nenabled = false\nguests = true\n") as users:
        token = (await users.ask("POST", "/register?kind=guest", {})).ok()["access_token"]
        (await users.ask("GET", "/account/whoami", token=token)).ok()
        body = {"username": "alice", "guest_access_token": token, "auth": DUMMY}
        (await users.ask("POST", "/register", body)).failed(403, "M_FORBIDDEN")


async def test_a_guest_names_nothing_but_their_device(server: Place) -> None:
    body = {
        "username": "alice", "password": "secret", "device_id": "PHONE", "inhibit_login": True, "auth": 7,
        "initial_device_display_name": "My phone",
    }  # fmt: skip
    answer = (await register(server, body, kind="guest")).ok()
    assert not answer["user_id"].startswith("@alice:")
    assert answer["device_id"] != "PHONE"
    guest = Client(server, answer["user_id"], answer["access_token"])
    device = (await guest.ask("GET", at("devices", answer["device_id"]))).ok()
    assert device["display_name"] == "My phone"
    login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": guest.user_id}}
    path = "/_matrix/client/v3/login"
    for password in ("secret", ""):
        answered = await ask(server.app, "POST", path, {**login, "password": password}, {}, None)
        answered.failed(403, "M_FORBIDDEN")


async def test_guests_are_counted_by_address(tmp_path: Path) -> None:
    text = "[registration]\nguests = true\n[rate_limits]\nenabled = true\n"
    async with user_server(tmp_path, text) as users:
        for _ in range(10):
            (await users.ask("POST", "/register?kind=guest", {})).ok()
        (await users.ask("POST", "/register?kind=guest", {})).failed(429, "M_LIMIT_EXCEEDED")
        (await users.ask("POST", "/register?kind=guest", {}, address="192.0.2.9")).ok()


# -- what they may ask


async def test_every_endpoint_for_guests_is_there(server: Place) -> None:
    routes = {
        (method, "/".join(["", *path.split("/")[4:]])) for method, path in server.app.router.templates()
    }
    missing = {path for method, path in GUEST_ENDPOINTS if (method, path) not in routes}
    assert not {path for path in missing if not path.startswith(MEDIA)}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/createRoom", {}),
        ("POST", "/logout", {}),
        ("POST", "/account/password", {"new_password": "x"}),
        ("GET", "/joined_rooms", None),
        ("GET", "/capabilities", None),
        ("GET", "/pushrules/", None),
        ("DELETE", "/devices/X", {}),
        ("GET", "/keys/changes", None),
        ("GET", "/publicRooms", None),
        ("POST", "/rooms/!a:b/invite", {"user_id": "@a:b"}),
        ("POST", "/rooms/!a:b/kick", {"user_id": "@a:b"}),
        ("POST", "/knock/!a:b", {}),
        ("PUT", "/rooms/!a:b/redact/$a/1", {}),
        ("GET", "/events", None),
        ("GET", "/initialSync", None),
    ],
)
async def test_what_guests_may_not_ask(server: Place, method: str, path: str, body: object) -> None:
    guest = await server.guest()
    answer = await guest.ask(method, path, body)
    if path == "/publicRooms":  # as whoever has no account
        answer.failed(401, "M_MISSING_TOKEN")
    else:
        answer.failed(403, FORBIDDEN)


async def test_a_guest_names_themselves_and_no_more(server: Place) -> None:
    guest = await server.guest()
    name = at("profile", guest.user_id, "displayname")
    (await guest.ask("PUT", name, {"displayname": "Somebody"})).ok()
    assert (await guest.ask("GET", name)).ok() == {"displayname": "Somebody"}
    (await guest.ask("DELETE", name)).ok()
    picture = at("profile", guest.user_id, "avatar_url")
    (await guest.ask("PUT", picture, {"avatar_url": "mxc://a/b"})).failed(403, FORBIDDEN)
    (await guest.ask("DELETE", picture)).failed(403, FORBIDDEN)


# -- rooms


async def test_a_guest_takes_part(server: Place) -> None:
    (alice,) = await server.clients("alice")
    guest = await server.guest()
    room_id = await a_room(alice)
    (await enter(guest, room_id)).ok()
    await guest.say(room_id, "hello")
    synced = (await guest.sync())["rooms"]["join"][room_id]
    assert bodies(synced["timeline"]["events"]) == ["hello"]
    await guest.leave(room_id)
    assert await membership(alice, room_id, guest) == "leave"


@pytest.mark.parametrize("how", ["forbidden", "nonsense", None])
async def test_a_room_that_lets_no_guests_in(server: Place, how: str | None) -> None:
    (alice,) = await server.clients("alice")
    guest = await server.guest()
    # A public chat forbids it by itself.
    room_id = await alice.create() if how is None else await a_room(alice, how)
    (await enter(guest, room_id)).failed(403, FORBIDDEN)
    # The same by setting the state of oneself; also where one was invited.
    await alice.treat(room_id, "invite", guest)
    path = at("rooms", room_id, "state", "m.room.member", guest.user_id)
    (await guest.ask("PUT", path, {"membership": "join"})).failed(403, FORBIDDEN)
    assert await membership(alice, room_id, guest) == "invite"


async def test_guests_leave_when_their_access_ends(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    first, second = await server.guest(), await server.guest()
    room_id, other = await a_room(alice), await a_room(alice)
    for client in (bob, first, second):
        (await enter(client, room_id)).ok()
        (await enter(client, other)).ok()
    await alice.set_state(room_id, "m.room.guest_access", {"guest_access": "forbidden"})
    await settle(server)
    for guest in (first, second):
        assert await membership(alice, room_id, guest) == "leave"
        assert await membership(alice, other, guest) == "join"
    assert await membership(alice, room_id, bob) == "join"
    # Any other change of the event is no reason to go.
    await alice.set_state(other, "m.room.guest_access", {"guest_access": "can_join", "since": 1})
    await settle(server)
    assert await membership(alice, other, first) == "join"


async def test_guests_leave_after_a_restart(tmp_path: Path) -> None:
    async with place(tmp_path) as server:
        (alice,) = await server.clients("alice")
        guest = await server.guest()
        room_id = await a_room(alice)
        (await enter(guest, room_id)).ok()
        # As if the process had ended right after the change.
        server.app._rooms.commits.on_guests.clear()
        await alice.set_state(room_id, "m.room.guest_access", {"guest_access": "forbidden"})
        await settle(server)
        assert await membership(alice, room_id, guest) == "join"
    async with place(tmp_path, seed=2) as server:
        await settle(server)
        assert await membership(server.again(alice), room_id, guest) == "leave"


async def test_rooms_elsewhere_are_asked_first(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (here, there):
        (bob,) = await there.clients("bob")
        guest = await here.guest()
        open_room, closed = await a_room(bob), await a_room(bob, "forbidden")
        via = {"via": name_of(2)}
        (await guest.ask("POST", at("rooms", closed, "join"), {}, **via)).failed(403, FORBIDDEN)
        (await guest.ask("POST", at("rooms", open_room, "join"), {}, **via)).ok()
        await settle(here, there)
        assert await membership(bob, open_room, guest) == "join"
        # The change comes from the other server.
        await bob.set_state(open_room, "m.room.guest_access", {"guest_access": "forbidden"})
        await settle(here, there)
        assert await membership(bob, open_room, guest) == "leave"


# -- a full account


async def test_a_guest_becomes_a_user(server: Place) -> None:
    (alice,) = await server.clients("alice")
    guest = await server.guest()
    room_id = await a_room(alice)
    (await enter(guest, room_id)).ok()
    name = guest.user_id[1:].partition(":")[0]
    body = {"username": name, "password": "secret", "guest_access_token": guest.token}
    challenge = await register(server, body)
    assert challenge.status == 401
    auth = {**DUMMY, "session": challenge.body["session"]}
    answer = (await register(server, {**body, "auth": auth})).ok()
    assert answer["user_id"] == guest.user_id
    for token in (answer["access_token"], guest.token):
        user = Client(server, guest.user_id, token)
        assert (await user.ask("GET", "/account/whoami")).ok()["is_guest"] is False
        assert (await user.ask("GET", "/joined_rooms")).ok() == {"joined_rooms": [room_id]}
    # The room has no reason any more to send them away.
    await alice.set_state(room_id, "m.room.guest_access", {"guest_access": "forbidden"})
    await settle(server)
    assert await membership(alice, room_id, guest) == "join"
    login = {
        "type": "m.login.password", "identifier": {"type": "m.id.user", "user": name}, "password": "secret",
    }  # fmt: skip
    (await ask(server.app, "POST", "/_matrix/client/v3/login", login, {}, None)).ok()
    # It is a guest's no more.
    (await register(server, {**body, "auth": DUMMY})).failed(403, "M_FORBIDDEN")


async def test_only_the_guest_becomes_that_user(server: Place) -> None:
    (alice,) = await server.clients("alice")
    guest, other = await server.guest(), await server.guest()
    name = guest.user_id[1:].partition(":")[0]
    body: dict[str, object] = {"username": name, "password": "secret", "auth": DUMMY}
    (await register(server, body)).failed(400, "M_USER_IN_USE")
    (await register(server, {**body, "guest_access_token": other.token})).failed(400, "M_INVALID_PARAM")
    (await register(server, {**body, "guest_access_token": alice.token})).failed(403, "M_FORBIDDEN")
    (await register(server, {**body, "guest_access_token": "x" * 5_000})).failed(403, "M_FORBIDDEN")
    (await register(server, {**body, "guest_access_token": 7})).failed(400, "M_BAD_JSON")
    without = {"password": "secret", "auth": DUMMY, "guest_access_token": guest.token}
    (await register(server, without)).failed(400, "M_MISSING_PARAM")
    assert (await guest.ask("GET", "/account/whoami")).ok()["is_guest"] is True

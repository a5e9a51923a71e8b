"""Accounts that are suspended or locked; where sessions come from (client-server §Account moderation)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comity.store import sessions as stored
from comity.store.database import Database
from comity.users.administration import Administration
from comity.users.sessions import BELIEVED_SECONDS, MAX_CONNECTIONS
from tests.api import support_rooms
from tests.api.support_users import (
    PASSWORD,
    SERVER,
    Answer,
    InlineOffload,
    SeededEntropy,
    TurnedClock,
    UserServer,
    at,
    user_server,
)
from tests.engines import a_driver_of

ALICE, ADMIN = f"@alice:{SERVER}", f"@admin:{SERVER}"
LOGIN = {"type": "m.login.password", "user": "alice", "password": PASSWORD}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[UserServer]:
    async with user_server(tmp_path) as built:
        yield built


async def an_admin(server: UserServer, name: str = "admin") -> str:
    await server.accounts.create(f"@{name}:{SERVER}", PASSWORD, admin=True)
    return await server.log_in(name)


async def put(server: UserServer, what: str, whom: str, token: str, body: object) -> Answer:
    path = f"/_matrix/client/v1/admin/{what}{at(whom)}"
    return await server.ask("PUT", path, body, token=token)


async def get(server: UserServer, what: str, whom: str, token: str) -> Answer:
    return await server.ask("GET", f"/_matrix/client/v1/admin/{what}{at(whom)}", token=token)


@pytest.mark.parametrize(("what", "member"), [("lock", "locked"), ("suspend", "suspended")])
async def test_administrators_alone_do_it_and_not_to_one_another(
    server: UserServer, what: str, member: str
) -> None:
    admin, alice = await an_admin(server), await server.user("alice")
    await an_admin(server, "other")
    assert (await get(server, what, ALICE, admin)).ok() == {member: False}
    assert (await put(server, what, ALICE, admin, {member: True})).ok() == {member: True}
    assert (await get(server, what, ALICE, admin)).ok() == {member: True}
    assert (await put(server, what, ALICE, admin, {member: False})).ok() == {member: False}
    assert (await get(server, what, ALICE, admin)).ok() == {member: False}
    for whom, status, code in (
        (ADMIN, 403, "M_FORBIDDEN"),
        (f"@other:{SERVER}", 403, "M_FORBIDDEN"),
        (f"@nobody:{SERVER}", 404, "M_NOT_FOUND"),
        ("@alice:elsewhere.org", 400, "M_INVALID_PARAM"),
    ):
        (await put(server, what, whom, admin, {member: True})).failed(status, code)
        (await get(server, what, whom, admin)).failed(status, code)
        # Whoever may not learns nothing of accounts.
        (await put(server, what, whom, alice, {member: True})).failed(403, "M_FORBIDDEN")
        (await get(server, what, whom, alice)).failed(403, "M_FORBIDDEN")
    (await put(server, what, ALICE, admin, {})).failed(400, "M_MISSING_PARAM")
    (await put(server, what, ALICE, admin, {member: "yes"})).failed(400, "M_BAD_JSON")
    assert (await get(server, what, ALICE, admin)).ok() == {member: False}


async def test_administrators_are_told_that_they_can(server: UserServer) -> None:
    for token, told in (
        (await an_admin(server), {"suspend": True, "lock": True}),
        (await server.user("alice"), None),
    ):
        capabilities = (await server.ask("GET", "/capabilities", token=token)).ok()["capabilities"]
        assert capabilities.get("m.account_moderation") == told


async def test_a_locked_account_is_kept_and_kept_out(server: UserServer) -> None:
    admin, phone = await an_admin(server), await server.user("alice")
    desk = (await server.ask("POST", "/login", {**LOGIN, "refresh_token": True})).ok()
    (await server.ask("GET", "/account/whoami", token=phone)).ok()
    (await put(server, "lock", ALICE, admin, {"locked": True})).ok()
    refused = [
        await server.ask("GET", "/account/whoami", token=phone),
        await server.ask("GET", at("profile", ALICE), token=phone),
        await server.ask("PUT", at("profile", ALICE, "displayname"), {"displayname": "x"}, token=phone),
        await server.ask("POST", "/login", LOGIN),
        await server.ask("POST", "/refresh", {"refresh_token": desk["refresh_token"]}),
    ]
    for answer in refused:
        assert answer.failed(401, "M_USER_LOCKED")["soft_logout"] is True
    # Who does not know the password does not learn it.
    (await server.ask("POST", "/login", {**LOGIN, "password": "wrong"})).failed(403, "M_FORBIDDEN")
    assert (await server.ask("POST", "/logout", {}, token=desk["access_token"])).ok() == {}
    (await put(server, "lock", ALICE, admin, {"locked": False})).ok()
    (await server.ask("GET", "/account/whoami", token=phone)).ok()
    (await server.ask("GET", "/account/whoami", token=desk["access_token"])).failed(401, "M_UNKNOWN_TOKEN")


async def test_all_sessions_may_be_ended_while_locked(server: UserServer) -> None:
    admin, phone = await an_admin(server), await server.user("alice")
    (await put(server, "lock", ALICE, admin, {"locked": True})).ok()
    assert (await server.ask("POST", "/logout/all", {}, token=phone)).ok() == {}
    (await put(server, "lock", ALICE, admin, {"locked": False})).ok()
    (await server.ask("GET", "/account/whoami", token=phone)).failed(401, "M_UNKNOWN_TOKEN")


async def test_what_is_open_while_suspended_and_what_is_not(server: UserServer) -> None:
    admin, alice = await an_admin(server), await server.user("alice", device_id="PHONE")
    (await put(server, "suspend", ALICE, admin, {"suspended": True})).ok()
    for method, path, body in (
        ("GET", "/account/whoami", None),
        ("GET", "/devices", None),
        ("PUT", at("user", ALICE, "account_data", "m.x"), {"a": 1}),
        ("POST", "/keys/query", {"device_keys": {}}),
        ("PUT", "/devices/PHONE", {"display_name": "Phone"}),
        ("POST", "/login", LOGIN),
    ):
        (await server.ask(method, path, body, token=alice)).ok()
    refusals: tuple[tuple[str, str, object], ...] = (
        ("PUT", at("profile", ALICE, "displayname"), {"displayname": "x"}),
        ("DELETE", at("profile", ALICE, "displayname"), None),
        ("PUT", at("rooms", "!r:x", "typing", ALICE), {"typing": True}),
        ("PUT", at("presence", ALICE, "status"), {"presence": "online"}),
        ("POST", "/account/3pid/delete", {"medium": "email", "address": "alice@mail.example"}),
    )
    for method, path, denied in refusals:
        refused = await server.ask(method, path, denied, token=alice)
        refused.failed(403, "M_USER_SUSPENDED")
    (await put(server, "suspend", ALICE, admin, {"suspended": False})).ok()
    (await server.ask("PUT", at("profile", ALICE, "displayname"), {"displayname": "x"}, token=alice)).ok()


async def test_they_may_leave_for_good(server: UserServer) -> None:
    admin, alice = await an_admin(server), await server.user("alice")
    (await put(server, "suspend", ALICE, admin, {"suspended": True})).ok()
    body = {"auth": {"type": "m.login.password", "password": PASSWORD}}
    (await server.ask("POST", "/account/deactivate", body, token=alice)).ok()
    assert server.left == [ALICE]
    (await put(server, "suspend", ALICE, admin, {"suspended": False})).failed(404, "M_NOT_FOUND")


async def test_the_command_line_locks_beside_a_server_that_runs(server: UserServer, tmp_path: Path) -> None:
    alice = await server.user("alice")
    (await server.ask("GET", "/account/whoami", token=alice)).ok()
    database = Database(a_driver_of(tmp_path, exclusive=False), 0)
    administration = Administration(database, InlineOffload(), TurnedClock(), SeededEntropy(2), SERVER)
    assert await administration.set_standing("alice", locked=True) == ALICE
    assert await administration.standings() == {ALICE: (False, True)}
    await server.clock.turn(BELIEVED_SECONDS)
    (await server.ask("GET", "/account/whoami", token=alice)).failed(401, "M_USER_LOCKED")
    await administration.set_standing(ALICE, locked=False, suspended=True)
    assert await administration.standings() == {ALICE: (True, False)}
    await server.clock.turn(BELIEVED_SECONDS)
    (await server.ask("GET", "/account/whoami", token=alice)).ok()
    await database.close()


async def test_where_sessions_come_from(server: UserServer) -> None:
    admin, alice = await an_admin(server), await server.user("alice", device_id="PHONE")
    for number in range(MAX_CONNECTIONS + 2):
        await server.clock.turn(300)
        headers = {"user-agent": f"App/{number}" + "x" * 1_000 + "\x00"}
        await server.ask("GET", "/account/whoami", token=alice, address=f"192.0.2.{number}", headers=headers)
        await server.database.write(lambda tx: None)  # what was queued before is on disk after
    told = (await server.ask("GET", "/admin/whois" + at(ALICE), token=admin)).ok()
    assert told["user_id"] == ALICE
    connections = told["devices"]["PHONE"]["sessions"][0]["connections"]
    newest = MAX_CONNECTIONS + 1
    assert [connection["ip"] for connection in connections] == [
        f"192.0.2.{number}" for number in range(newest, 1, -1)
    ]
    assert connections[0]["user_agent"].startswith(f"App/{newest}xxx")
    assert len(connections[0]["user_agent"]) == 300
    assert connections[0]["last_seen"] == server.clock.now_ms()
    # Users may look at themselves, and at nobody else.
    assert (await server.ask("GET", "/admin/whois" + at(ALICE), token=alice)).ok() == told
    (await server.ask("GET", "/admin/whois" + at(ADMIN), token=alice)).failed(403, "M_FORBIDDEN")
    nobody = await server.ask("GET", "/admin/whois" + at(f"@nobody:{SERVER}"), token=admin)
    nobody.failed(404, "M_NOT_FOUND")


async def test_rooms_while_suspended(tmp_path: Path) -> None:
    async with support_rooms.place(tmp_path) as place:
        alice, bob = await place.clients("alice", "bob")
        room, other = await alice.create(), await bob.create()
        invited = await bob.create(preset="private_chat", invite=[alice.user_id])
        await bob.join(room)
        own, theirs = await alice.say(room, "mine"), await bob.say(room, "yours")
        await place.database.write(
            lambda tx: stored.set_moderation(tx, alice.user_id, suspended=True, locked=False)
        )
        await place.clock.turn(BELIEVED_SECONDS)
        message = {"msgtype": "m.text", "body": "x"}
        refusals: tuple[tuple[str, str, object], ...] = (
            ("PUT", at("rooms", room, "send", "m.room.message", "t1"), message),
            ("PUT", at("rooms", room, "state", "m.room.topic"), {"topic": "x"}),
            ("PUT", at("rooms", room, "state", "m.room.member", alice.user_id), {"membership": "join"}),
            ("POST", at("rooms", room, "invite"), {"user_id": bob.user_id}),
            ("POST", at("rooms", room, "kick"), {"user_id": bob.user_id}),
            ("POST", at("join", other), {}),
            ("POST", at("rooms", invited, "join"), {}),
            ("POST", at("knock", other), {}),
            ("POST", "/createRoom", {}),
            # Not even with all power over the room.
            ("PUT", at("rooms", room, "redact", theirs, "t2"), {}),
            ("PUT", at("rooms", room, "send", "m.room.redaction", "t3"), {"redacts": theirs}),
        )
        for method, path, body in refusals:
            (await alice.ask(method, path, body)).failed(403, "M_USER_SUSPENDED")
        await alice.redact(room, own)
        await alice.receipt(room, theirs)
        assert room in (await alice.sync())["rooms"]["join"]
        assert (await alice.messages(room))["chunk"]
        await alice.leave(invited)
        await alice.leave(room)
        members = (await bob.ask("GET", at("rooms", room, "joined_members"))).ok()["joined"]
        assert set(members) == {bob.user_id}

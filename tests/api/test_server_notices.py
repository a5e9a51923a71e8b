"""What the server itself says to its users (client-server §Server Notices)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comity.protocol.errors import MatrixError
from comity.users.administration import MAX_NOTICE_BYTES, Administration
from comity.users.server_notices import LOOK_SECONDS
from tests.api.neighbours import settle
from tests.api.support_rooms import Client, Place, bodies, by_key, place
from tests.api.support_users import InlineOffload, SeededEntropy, at

SETTINGS = '[server_notices]\nlocalpart = "notices"\ndisplay_name = "The management"\n'
SPEAKER = "@notices:example.org"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path, settings=SETTINGS) as opened:
        yield opened


async def tell(server: Place, user: str, *texts: str, wait: bool = True, seed: int = 7) -> None:
    """As `comity notice` does, whose process is another one."""
    entropy = SeededEntropy(seed)
    for text in texts:
        await server.clock.turn(0.001)
        administration = Administration(
            server.database, InlineOffload(), server.clock, entropy, "example.org"
        )
        await administration.add_notice(user, text)
    if wait:
        await server.clock.turn(LOOK_SECONDS)
        await settle(server)


async def the_invite(client: Client) -> tuple[str, Any]:
    """The one room that a user is invited to."""
    ((room_id, part),) = (await client.sync())["rooms"]["invite"].items()
    return room_id, part


async def test_a_user_is_told_something(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    await tell(server, "alice", "We move on Sunday.")
    assert (await bob.sync())["rooms"]["invite"] == {}
    room_id, part = await the_invite(alice)
    shown = by_key(part["invite_state"]["events"])
    assert shown["m.room.name", ""] == {"name": "The management"}
    assert shown["m.room.member", SPEAKER]["displayname"] == "The management"
    tags = (await alice.ask("GET", at("user", alice.user_id, "rooms", room_id, "tags"))).ok()
    assert tags == {"tags": {"m.server_notice": {}}}
    await alice.join(room_id)
    (notice,) = [
        event for event in (await alice.messages(room_id))["chunk"] if event["type"] == "m.room.message"
    ]
    assert notice["sender"] == SPEAKER
    assert notice["content"]["msgtype"] == "m.server_notice"
    assert notice["content"]["body"] == "We move on Sunday."


async def test_the_invite_is_not_to_be_turned_down(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    await tell(server, "alice", "one")
    room_id, _ = await the_invite(alice)
    code = "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM"
    (await alice.ask("POST", at("rooms", room_id, "leave"), {})).failed(403, code)
    own = at("rooms", room_id, "state", "m.room.member", alice.user_id)
    (await alice.ask("PUT", own, {"membership": "leave"})).failed(403, code)
    assert (await the_invite(alice))[0] == room_id
    # Any other invite is.
    other = await bob.create()
    await bob.treat(other, "invite", alice)
    await alice.leave(other)


async def test_all_notices_of_a_user_come_in_one_room(server: Place) -> None:
    (alice,) = await server.clients("alice")
    await tell(server, "@alice:example.org", "one", "two")
    room_id, _ = await the_invite(alice)
    await alice.join(room_id)
    await tell(server, "alice", "three", seed=8)
    assert bodies((await alice.messages(room_id, "f", limit=50))["chunk"]) == ["one", "two", "three"]
    # Who has left is asked in again once there is something to say.
    await alice.leave(room_id)
    await tell(server, "alice", "four", seed=9)
    assert (await the_invite(alice))[0] == room_id
    await alice.join(room_id)
    assert bodies((await alice.messages(room_id))["chunk"])[:1] == ["four"]


async def test_a_notice_waits_for_the_server(tmp_path: Path) -> None:
    async with place(tmp_path) as server:
        (alice,) = await server.clients("alice")
        # Without a user to speak as, it says nothing.
        await tell(server, "alice", "one")
        assert (await alice.sync())["rooms"]["invite"] == {}
    async with place(tmp_path, seed=2, settings=SETTINGS) as server:
        await settle(server)
        alice = server.again(alice)
        room_id, _ = await the_invite(alice)
        await alice.join(room_id)
    async with place(tmp_path, seed=3, settings=SETTINGS) as server:
        await settle(server)
        alice = server.again(alice)
        assert bodies((await alice.messages(room_id))["chunk"]) == ["one"]


async def test_nobody_else_is_the_speaker(tmp_path: Path) -> None:
    async with place(tmp_path, settings=SETTINGS) as server:
        with pytest.raises(AssertionError, match="M_USER_IN_USE"):
            await server.client("notices")


async def test_the_server_speaks_as_nobody_who_is_there(tmp_path: Path) -> None:
    async with place(tmp_path) as server:
        alice, mallory = await server.clients("alice", "notices")
    async with place(tmp_path, seed=2, settings=SETTINGS) as server:
        await tell(server, "alice", "one")
        assert (await server.again(alice).sync())["rooms"]["invite"] == {}
        assert (await server.again(mallory).sync())["rooms"]["join"] == {}


async def test_whom_and_what(server: Place) -> None:
    (alice,) = await server.clients("alice")
    for user in ("nobody", "@alice:elsewhere.example"):
        with pytest.raises(MatrixError, match="M_NOT_FOUND"):
            await tell(server, user, "one")
    for text in ("", "x" * (MAX_NOTICE_BYTES + 1), "a\0b"):
        with pytest.raises(MatrixError, match="M_INVALID_PARAM"):
            await tell(server, "alice", text)
    await tell(server, "alice", "\N{SNOWMAN}" * (MAX_NOTICE_BYTES // 3))
    await the_invite(alice)


async def test_a_notice_for_who_is_gone_is_dropped(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    await tell(server, "alice", "one", wait=False)
    auth = {
        "type": "m.login.password", "password": "correct horse",
        "identifier": {"type": "m.id.user", "user": "alice"},
    }  # fmt: skip
    (await alice.ask("POST", "/account/deactivate", {"auth": auth})).ok()
    await tell(server, "bob", "two", seed=8)
    await the_invite(bob)
    rows = await server.database.read(lambda tx: tx.all("SELECT user_id FROM server_notices"))
    assert rows == []


async def test_a_notice_that_was_sent_is_not_sent_again(server: Place) -> None:
    (alice,) = await server.clients("alice")
    await tell(server, "alice", "one", seed=7)
    # As if the server had ended between the sending and the letting go: the same notice waits still.
    await tell(server, "alice", "one", seed=7)
    room_id, _ = await the_invite(alice)
    await alice.join(room_id)
    assert bodies((await alice.messages(room_id, limit=50))["chunk"]) == ["one"]

"""What a room's opening gives a client that knows nothing yet is what it would have got without one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from comity.sync.openings import Opening, Openings
from tests.api.support_accounts import deactivate
from tests.api.support_rooms import Client, Place, ask, by_key, place, with_a_hole
from tests.api.test_sync_many import without_age

LAZY = {"room": {"state": {"lazy_load_members": True}}}
FILTERS: dict[str, Any] = {
    "none": None,
    "lazy": LAZY,
    "short": {"room": {"timeline": {"limit": 2}}},
    "short and lazy": {"room": {"timeline": {"limit": 2}, "state": {"lazy_load_members": True}}},
    "one": {"room": {"timeline": {"limit": 1}}},
    "messages": {"room": {"timeline": {"types": ["m.room.message"]}}},
    "no members": {"room": {"state": {"not_types": ["m.room.member"], "lazy_load_members": True}}},
    "nothing fleeting": {"room": {"ephemeral": {"types": []}, "account_data": {"types": []}}},
    "fields": {"event_fields": ["content", "event_id", "origin_server_ts", "sender", "state_key", "type"]},
    "federation": {"event_format": "federation"},
}


class Spy:
    """Sees which openings are used and made, and can have them not used."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_off = False
        self.made = 0
        self.used: list[str] = []
        get, make = Openings.get, Openings._make

        def watched(openings: Openings, *arguments: Any) -> Opening | None:
            opening = None if self.is_off else get(openings, *arguments)
            if opening is not None:
                self.used.append(arguments[3])
            return opening

        def counted(openings: Openings, *arguments: Any) -> Opening | None:
            self.made += 1
            return make(openings, *arguments)

        monkeypatch.setattr(Openings, "get", watched)
        monkeypatch.setattr(Openings, "_make", counted)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(monkeypatch)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path, settings="[retention]\nenabled = true\n") as opened:
        yield opened


async def again(server: Place, client: Client) -> Client:
    """Another device of the same user."""
    body = {
        "type": "m.login.password", "password": "correct horse",
        "identifier": {"type": "m.id.user", "user": client.user_id},
    }  # fmt: skip
    answer = (await ask(server.app, "POST", "/_matrix/client/v3/login", body, {}, None)).ok()
    return Client(server, client.user_id, answer["access_token"])


def in_one_order(answer: Any) -> Any:
    """An answer with each room's state in one order, for it has none; and no ages."""
    for room in answer["rooms"]["join"].values():
        for name in ("state", "state_after"):
            if name in room:
                room[name]["events"].sort(key=json.dumps)
    return without_age(answer)


async def check(spy: Spy, clients: Sequence[Client], room_id: str) -> dict[str, list[Client]]:
    """Hold every client's initial sync against one without openings; twice, so that each has others' too.

    Who was given the room's opening, by filter.
    """
    given: dict[str, list[Client]] = {}
    for name, wanted in FILTERS.items():
        for after in (False, True):
            query: dict[str, Any] = {"use_state_after": "true"} if after else {}
            for client in (*clients, *clients):
                spy.is_off, spy.used = False, []
                told = in_one_order(await client.sync(None, wanted, **query))
                if room_id in spy.used and client not in given.setdefault(name, []):
                    given[name].append(client)
                spy.is_off = True
                read = in_one_order(await client.sync(None, wanted, **query))
                assert told == read, (client.user_id, name, after)
    spy.is_off = False
    # These change how events are written.
    assert "fields" not in given and "federation" not in given
    return given


async def test_an_ordinary_room(server: Place, spy: Spy) -> None:
    first, second, third = clients = await server.clients("first", "second", "third")
    room_id = await first.create(preset="public_chat", name="a room")
    await second.join(room_id)
    await first.set_state(room_id, "m.room.topic", {"topic": "one"})
    await first.set_state(room_id, "m.room.topic", {"topic": "two"})
    await first.say_all(room_id, "one", "two", "three")
    await third.join(room_id)
    await second.receipt(room_id, await second.say(room_id, "last"), "m.read")
    await first.account_data("org.example", {"a": 1}, room_id)
    path = f"/rooms/{room_id}/typing/{second.user_id}"
    (await second.ask("PUT", path, {"typing": True, "timeout": 30_000})).ok()
    elsewhere = await again(server, first)
    given = await check(spy, [*clients, elsewhere], room_id)
    # Who spoke is told by which transaction, but on other devices.
    assert given["none"] == [third, elsewhere]
    assert given["lazy"] == [third, elsewhere]
    assert given["one"] == [first, third, elsewhere]


async def test_a_room_without_a_name(server: Place, spy: Spy) -> None:
    first, *others = clients = await server.clients("first", *(f"other{n}" for n in range(8)))
    room_id = await first.create(preset="private_chat", invite=[client.user_id for client in others])
    for client in others[:6]:
        await client.join(room_id)
    await others[0].leave(room_id)
    await first.treat(room_id, "kick", others[1])
    await first.treat(room_id, "ban", others[2])
    await first.set_state(room_id, "m.room.member", {"membership": "join", "displayname": "F"}, first.user_id)
    given = await check(spy, clients, room_id)
    assert given["none"] == given["lazy"] == [first, *others[3:6]]
    await first.leave(room_id)
    given = await check(spy, clients, room_id)
    assert given["none"] == given["short and lazy"] == others[3:6]


@pytest.mark.parametrize("visibility", ["joined", "invited", "shared", "world_readable"])
async def test_who_came_within_the_timeline(server: Place, spy: Spy, visibility: str) -> None:
    first, second, third = clients = await server.clients("first", "second", "third")
    room_id = await first.create(preset="public_chat", name="a room")
    await first.set_state(room_id, "m.room.history_visibility", {"history_visibility": visibility})
    await second.join(room_id)
    for number in range(12):
        await first.set_state(room_id, "org.example", {"number": number}, str(number % 2))
    await third.join(room_id)
    await first.set_state(room_id, "m.room.topic", {"topic": "t"})
    given = await check(spy, clients, room_id)
    # State replaced before the third came is told with what replaced it, so the room has no opening there.
    sees_all = visibility in ("shared", "world_readable")
    assert given.get("none", []) == (clients if sees_all else [])
    assert given["one"] == clients
    await first.set_state(room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    await third.leave(room_id)
    await third.join(room_id)
    await check(spy, clients, room_id)


async def test_what_is_not_for_all_alike(server: Place, spy: Spy) -> None:
    first, second, deaf = clients = await server.clients("first", "second", "deaf")
    room_id = await first.create(preset="public_chat", name="a room")
    for client in (second, deaf):
        await client.join(room_id)
    await deaf.account_data("m.ignored_user_list", {"ignored_users": {first.user_id: {}}})
    root = await first.say(room_id, "a root")
    readers = [second, deaf]
    for number in range(3):
        await first.set_state(room_id, "org.example", {"number": number}, "")
    given = await check(spy, readers, room_id)
    assert given["none"] == [second], given
    thread = {
        "msgtype": "m.text",
        "body": "in it",
        "m.relates_to": {"rel_type": "m.thread", "event_id": root},
    }
    await first.send(room_id, "m.room.message", thread)
    given = await check(spy, readers, room_id)
    # The root is told with who took part, as long as it is in the timeline.
    assert "none" not in given and given["short"] == [second]
    for number in range(10):
        await first.set_state(room_id, "org.example", {"number": number}, "")
    assert (await check(spy, readers, room_id))["none"] == [second]
    await first.redact(room_id, root)
    await first.redact(room_id, await first.say(room_id, "a mistake"))
    await check(spy, clients, room_id)
    await first.set_state(room_id, "m.room.retention", {"max_lifetime": 86_400_000})
    assert not await check(spy, readers, room_id)


async def test_private_receipts_and_erased_users(server: Place, spy: Spy) -> None:
    first, second, third = await server.clients("first", "second", "third")
    room_id = await first.create(preset="public_chat", name="a room")
    for client in (second, third):
        await client.join(room_id)
    event_id = await first.say(room_id, "one")
    readers = [second, third]
    assert (await check(spy, readers, room_id))["none"] == readers
    made = spy.made
    await second.receipt(room_id, event_id, "m.read.private")
    await third.receipt(room_id, event_id, "m.read")
    assert (await check(spy, readers, room_id))["none"] == readers
    # Receipts are beside it: nothing was made anew, but for filters that there are no openings for.
    assert spy.made - made == 2 * 2 * 2 * 2
    await deactivate(first, erase=True)
    assert not await check(spy, readers, room_id)


async def test_a_room_with_missing_history(server: Place, spy: Spy) -> None:
    first, second = clients = await server.clients("first", "second")
    room_id = await first.create(preset="public_chat", name="a room")
    await second.join(room_id)
    await first.say_all(room_id, "one", "two")
    await with_a_hole(server, first, room_id)
    await check(spy, clients, room_id)


async def test_members_that_came_with_it_are_not_told_again(server: Place, spy: Spy) -> None:
    first, second, third = await server.clients("first", "second", "third")
    room_id = await first.create(preset="public_chat", name="a room")
    for client in (second, third):
        await client.join(room_id)
    wanted = {"room": {"timeline": {"limit": 1}, "state": {"lazy_load_members": True}}}
    told: list[Any] = []
    for is_off in (False, True):
        spy.is_off = is_off
        for reader in (second, third):
            await first.say(room_id, "the newest")
            began = await reader.sync(None, wanted)
            await first.say(room_id, "by one who was told")
            then = await reader.sync(began["next_batch"], wanted, timeout=0)
            await third.say(room_id, "by one who was not, or is the reader")
            last = await reader.sync(then["next_batch"], wanted, timeout=0)
            told.append([list(by_key(a["rooms"]["join"][room_id]["state"]["events"])) for a in (then, last)])
    assert spy.used.count(room_id) == 2
    assert told[:2] == told[2:] == [[[], [("m.room.member", third.user_id)]], [[], []]]

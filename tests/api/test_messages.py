"""History, events, state and members as clients ask for them (client-server §Getting events for a room)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from comity.bus import Bus
from comity.protocol.filters import NO_ROOM_EVENT_FILTER
from comity.rooms.read import Reader, Walk
from comity.store import rooms as stored_rooms
from comity.store.database import Tx
from comity.store.erasures import Erasures
from comity.store.rooms import Gap
from tests.api.support_rooms import Client, Place, bodies, by_key, ids, place
from tests.api.support_users import at


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


async def walk(client: Client, room_id: str, direction: str, limit: int, **query: object) -> list[str]:
    """All the messages that paging finds, page by page."""
    found: list[str] = []
    for _ in range(50):
        page = await client.messages(room_id, direction, limit=limit, **query)
        assert len(page["chunk"]) <= limit
        found += bodies(page["chunk"])
        if "end" not in page:
            return found
        query["from_"] = page["end"]
    raise AssertionError("paging does not end")


# -- paging


async def test_paging_back_ends_where_the_room_began(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    await alice.say_all(room_id, *"abcdefgh")
    assert await walk(alice, room_id, "b", 3) == list("hgfedcba")
    assert await walk(alice, room_id, "b", 100) == list("hgfedcba")
    page = await alice.messages(room_id, limit=100)
    assert page["chunk"][-1]["type"] == "m.room.create"
    assert all(event["room_id"] == room_id for event in page["chunk"])


async def test_paging_forward_goes_on_with_what_comes(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    await alice.say_all(room_id, *"abcdefgh")
    assert await walk(alice, room_id, "f", 3) == list("abcdefgh")
    page = await alice.messages(room_id, "f", limit=100)
    said = await alice.say(room_id, "later")
    page = await alice.messages(room_id, "f", from_=page["end"])
    assert ids(page["chunk"]) == [said]


async def test_pages_of_both_directions_meet(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    await alice.say_all(room_id, *"abcd")
    page = await alice.messages(room_id, limit=2)
    assert bodies(page["chunk"]) == ["d", "c"]
    forward = await alice.messages(room_id, "f", from_=page["end"], limit=2)
    assert bodies(forward["chunk"]) == ["c", "d"]
    back = await alice.messages(room_id, "b", from_=page["start"], to=page["end"])
    assert ids(back["chunk"]) == ids(page["chunk"])


async def test_an_end_is_told_where_there_is_more(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    before = await alice.token_now()
    room_id = await alice.create()
    await bob.join(room_id)
    first = await alice.token_now()
    await alice.say_all(room_id, *"abc")
    middle = await bob.token_now()
    await alice.say(room_id, "d")
    # A bound of the client's is no end of history: what is behind it can be had from there.
    page = await bob.messages(room_id, to=middle, limit=5)
    assert bodies(page["chunk"]) == ["d"]
    assert bodies((await bob.messages(room_id, from_=page["end"], limit=3))["chunk"]) == ["c", "b", "a"]
    page = await bob.messages(room_id, to=first, limit=5)
    assert bodies(page["chunk"]) == ["d", "c", "b", "a"]
    page = await bob.messages(room_id, from_=page["end"], to=before, limit=99)
    assert page["chunk"][-1]["type"] == "m.room.create"
    assert "end" not in page
    # Nothing comes to who has left, as long as they stay away.
    page = await bob.messages(room_id, "f", from_=middle)
    assert bodies((await bob.messages(room_id, "f", from_=page["end"]))["chunk"]) == []
    await bob.leave(room_id)
    await alice.say(room_id, "after bob")
    page = await bob.messages(room_id, "f", from_=middle, limit=1)
    assert bodies(page["chunk"]) == ["d"]
    page = await bob.messages(room_id, "f", from_=page["end"])
    assert [event["type"] for event in page["chunk"]] == ["m.room.member"]
    assert "end" not in page
    assert "end" in await bob.messages(room_id, "f", from_=first, to=middle)


async def test_tokens_of_sync_are_places_in_history(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    await alice.say(room_id, "before")
    token = await alice.token_now()
    await alice.say_all(room_id, "after", "later")
    assert bodies((await alice.messages(room_id, from_=token))["chunk"]) == ["before"]
    assert bodies((await alice.messages(room_id, "f", from_=token))["chunk"]) == ["after", "later"]
    assert bodies((await alice.messages(room_id, to=token))["chunk"]) == ["later", "after"]
    assert (await alice.messages(room_id, from_=token))["start"] == token


async def test_filters_choose_and_members_are_loaded(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    await alice.say(room_id, "mine")
    await bob.say(room_id, "his")
    wanted = {"types": ["m.room.message"], "lazy_load_members": True}
    page = await alice.messages(room_id, wanted=wanted)
    assert bodies(page["chunk"]) == ["his", "mine"]
    assert by_key(page["state"]).keys() == {
        ("m.room.member", alice.user_id),
        ("m.room.member", bob.user_id),
    }
    page = await alice.messages(room_id, wanted={**wanted, "senders": [bob.user_id]})
    assert by_key(page["state"]).keys() == {("m.room.member", bob.user_id)}
    assert "state" not in await alice.messages(room_id)
    assert await walk(alice, room_id, "b", 1, wanted={"not_senders": [alice.user_id]}) == ["his"]


async def test_senders_who_come_on_the_way_are_loaded_too(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await alice.say(room_id, "alone")
    await bob.join(room_id)
    await bob.say(room_id, "here too")
    wanted = {"types": ["m.room.message"], "lazy_load_members": True}
    for direction in ("f", "b"):
        page = await alice.messages(room_id, direction, wanted=wanted)
        assert {key for _, key in by_key(page["state"])} == {alice.user_id, bob.user_id}
    # The join itself says it.
    page = await alice.messages(room_id, "f", wanted={"lazy_load_members": True}, limit=50)
    assert bodies(page["chunk"]) == ["alone", "here too"]
    assert bob.user_id not in {key for _, key in by_key(page["state"])}


async def test_bad_questions_are_refused(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    (await alice.ask("GET", at("rooms", room_id, "messages"))).failed(400, "M_MISSING_PARAM")
    (await alice.try_messages(room_id, "up")).failed(400, "M_INVALID_PARAM")
    (await alice.try_messages(room_id, from_="nonsense")).failed(400, "M_INVALID_PARAM")
    (await alice.try_messages(room_id, limit="many")).failed(400, "M_INVALID_PARAM")
    (await alice.ask("GET", at("rooms", room_id, "messages"), dir="b", filter="{")).failed(400, "M_BAD_JSON")
    (await bob.try_messages(room_id)).failed(403, "M_FORBIDDEN")
    (await bob.try_messages("!nowhere:example.org")).failed(403, "M_FORBIDDEN")


async def test_the_older_prefix_leads_to_the_same(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    await alice.say(room_id, "hello")
    path = "/_matrix/client/r0" + at("rooms", room_id, "messages")
    assert bodies((await alice.ask("GET", path, dir="b")).ok()["chunk"]) == ["hello"]
    assert room_id in (await alice.ask("GET", "/_matrix/client/r0/sync")).ok()["rooms"]["join"]


# -- history that is missing


class Elsewhere:
    """History of a room that is not in the store until it is fetched: what other servers have."""

    def __init__(self, server: Place, room_id: str) -> None:
        self._database = server.database
        self._room_id = room_id
        self._lines: list[tuple[int, int]] = []
        self.asked: list[tuple[str, int, int]] = []
        #: Whether anybody answers.
        self.reachable = True
        self.gap = Gap(0, 0, ())

    def _room_num(self, tx: Tx) -> int:
        room = stored_rooms.by_id(tx, self._room_id)
        assert room is not None
        return room.room_num

    async def lose(self, event_ids: list[str], before: str) -> None:
        """Take events out of the timeline: history is missing before the event `before`."""

        def store(tx: Any) -> None:
            room_num = self._room_num(tx)
            (line,) = tx.one("SELECT line FROM events WHERE event_id = ?", (before,))
            for event_id in event_ids:
                number, held = tx.one("SELECT event_num, line FROM events WHERE event_id = ?", (event_id,))
                self._lines.append((held, number))
                tx.run("UPDATE events SET line = NULL WHERE event_num = ?", (number,))
            self.gap = Gap(line, line, (event_ids[-1],))
            stored_rooms.put_gap(tx, room_num, self.gap)

        await self._database.write(store)

    async def fill(self, room_id: str, line: int, limit: int) -> bool:
        """Give the two newest missing events back."""
        self.asked.append((room_id, line, limit))
        if not self.reachable or not self._lines:
            return False
        found = [self._lines.pop() for _ in range(min(2, len(self._lines)))]

        def store(tx: Any) -> None:
            room_num = self._room_num(tx)
            for held, number in found:
                tx.run("UPDATE events SET line = ? WHERE event_num = ?", (held, number))
            if self._lines:
                stored_rooms.put_gap(tx, room_num, Gap(line, min(held for held, _ in found), ("$more",)))
            else:
                stored_rooms.close_gap(tx, room_num, line)

        await self._database.write(store)
        return True


@pytest.fixture
async def lossy(tmp_path: Path) -> AsyncIterator[tuple[Client, str, list[str], Elsewhere, Reader]]:
    """A room with the messages a–h of which c–f are missing, and a reader that asks elsewhere for them.

    The server was started anew after the loss, so that nothing of it is in memory.
    """
    async with place(tmp_path) as server:
        alice = await server.client("alice")
        room_id = await alice.create()
        said = await alice.say_all(room_id, *"abcdefgh")
    async with place(tmp_path, seed=2) as server:
        elsewhere = Elsewhere(server, room_id)
        await elsewhere.lose(said[2:6], before=said[6])
        old = server.reader
        reader = Reader(
            database=old.database,
            states=old.states,
            events=old.events,
            erasures=Erasures(),
            bus=Bus(server.database.last_position),
            clock=server.clock,
            fill_gap=elsewhere.fill,
            whole=server.app._rooms.completer.whole,
        )
        yield server.again(alice), room_id, said, elsewhere, reader


async def page_of(reader: Reader, client: Client, room_id: str, **changed: Any) -> tuple[str, str | None]:
    """The messages of a page in one string, and its `end`."""
    asked = {"backwards": True, "start": None, "end": None, "limit": 5, **changed}
    page = await reader.messages(Walk(client.user_id, "", room_id, wanted=NO_ROOM_EVENT_FILTER, **asked))
    return "".join(bodies(orjson.loads(orjson.dumps(page["chunk"])))), page.get("end")


async def test_paging_back_past_a_gap_fetches_what_is_missing(
    lossy: tuple[Client, str, list[str], Elsewhere, Reader],
) -> None:
    alice, room_id, _, elsewhere, reader = lossy
    found, end = await page_of(reader, alice, room_id, limit=8)
    assert found == "hgfedcba"
    assert await page_of(reader, alice, room_id, start=end, limit=50) == ("", None)
    assert [line for _, line, _ in elsewhere.asked] == [elsewhere.gap.line] * 2


async def test_a_page_that_ends_before_the_gap_asks_nobody(
    lossy: tuple[Client, str, list[str], Elsewhere, Reader],
) -> None:
    alice, room_id, _, elsewhere, reader = lossy
    found, end = await page_of(reader, alice, room_id, limit=2)
    assert found == "hg"
    assert elsewhere.asked == []
    assert (await page_of(reader, alice, room_id, limit=2, start=end))[0] == "fe"
    assert len(elsewhere.asked) == 1


async def test_what_nobody_has_is_read_across(
    lossy: tuple[Client, str, list[str], Elsewhere, Reader],
) -> None:
    alice, room_id, _, elsewhere, reader = lossy
    elsewhere.reachable = False
    assert (await page_of(reader, alice, room_id, limit=20))[0] == "hgba"
    assert len(elsewhere.asked) == 1


async def test_paging_forward_fetches_too(lossy: tuple[Client, str, list[str], Elsewhere, Reader]) -> None:
    alice, room_id, _, _, reader = lossy
    assert (await page_of(reader, alice, room_id, backwards=False, limit=20))[0] == "abcdefgh"


async def test_sync_stops_at_a_gap(lossy: tuple[Client, str, list[str], Elsewhere, Reader]) -> None:
    alice, room_id, _, elsewhere, _ = lossy
    timeline = (await alice.sync())["rooms"]["join"][room_id]["timeline"]
    assert bodies(timeline["events"]) == ["g", "h"]
    assert timeline["limited"]
    assert timeline["prev_batch"] == f"t{elsewhere.gap.line - 1}"
    await elsewhere.fill(room_id, elsewhere.gap.line, 2)
    await elsewhere.fill(room_id, elsewhere.gap.line, 2)
    timeline = (await alice.sync())["rooms"]["join"][room_id]["timeline"]
    assert bodies(timeline["events"]) == list("abcdefgh")


# -- one event and what stands around it


async def test_an_event_by_its_id(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    said = await alice.say(room_id, "hello")
    event = (await alice.ask("GET", at("rooms", room_id, "event", said))).ok()
    assert event["content"]["body"] == "hello"
    assert event["room_id"] == room_id
    assert event["unsigned"]["transaction_id"] == "txn1"
    other = await alice.create()
    (await alice.ask("GET", at("rooms", other, "event", said))).failed(404, "M_NOT_FOUND")
    (await alice.ask("GET", at("rooms", room_id, "event", "$nothing"))).failed(404, "M_NOT_FOUND")
    (await bob.ask("GET", at("rooms", room_id, "event", said))).failed(404, "M_NOT_FOUND")
    await alice.redact(room_id, said)
    event = (await alice.ask("GET", at("rooms", room_id, "event", said))).ok()
    assert event["content"] == {}
    assert event["unsigned"]["redacted_because"]["room_id"] == room_id


async def test_the_context_of_an_event(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    said = await alice.say_all(room_id, *"abcdefg")
    await alice.set_state(room_id, "m.room.name", {"name": "Later"})
    answer = (await alice.ask("GET", at("rooms", room_id, "context", said[3]), limit=4)).ok()
    assert answer["event"]["event_id"] == said[3]
    assert bodies(answer["events_before"]) == ["c", "b"]
    assert bodies(answer["events_after"]) == ["e", "f"]
    assert ("m.room.name", "") not in by_key(answer["state"])
    assert ("m.room.member", bob.user_id) in by_key(answer["state"])
    assert bodies((await alice.messages(room_id, from_=answer["start"]))["chunk"]) == ["a"]
    assert bodies((await alice.messages(room_id, "f", from_=answer["end"]))["chunk"]) == ["g"]
    lazy = '{"lazy_load_members":true}'
    answer = (await alice.ask("GET", at("rooms", room_id, "context", said[3]), limit=0, filter=lazy)).ok()
    assert answer["events_before"] == answer["events_after"] == []
    assert ("m.room.member", bob.user_id) not in by_key(answer["state"])
    (await alice.ask("GET", at("rooms", room_id, "context", "$nothing"))).failed(404, "M_NOT_FOUND")


# -- state and members


async def test_state_in_all_its_forms(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create(name="Kitchen")
    await alice.set_state(room_id, "org.example.shelf", {"spoons": 3}, "left")
    state = by_key((await alice.ask("GET", at("rooms", room_id, "state"))).ok())
    assert state["m.room.name", ""] == {"name": "Kitchen"}
    assert state["org.example.shelf", "left"] == {"spoons": 3}
    path = at("rooms", room_id, "state", "org.example.shelf", "left")
    assert (await alice.ask("GET", path)).ok() == {"spoons": 3}
    event = (await alice.ask("GET", path, format="event")).ok()
    assert event["content"] == {"spoons": 3}
    assert event["state_key"] == "left"
    path = at("rooms", room_id, "state", "m.room.name")
    assert (
        (await alice.ask("GET", path)).ok()
        == (await alice.ask("GET", path + "/")).ok()
        == {"name": "Kitchen"}
    )
    (await alice.ask("GET", at("rooms", room_id, "state", "m.room.topic"))).failed(404, "M_NOT_FOUND")
    (await alice.ask("GET", path, format="text")).failed(400, "M_INVALID_PARAM")


async def test_members_by_membership_and_by_time(server: Place) -> None:
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    room_id = await alice.create(preset="private_chat")
    before = await alice.token_now()
    await alice.treat(room_id, "invite", bob)
    await alice.treat(room_id, "invite", carol)
    await bob.join(room_id)
    await bob.leave(room_id)

    async def members(**query: object) -> dict[str, str]:
        chunk = (await alice.ask("GET", at("rooms", room_id, "members"), **query)).ok()["chunk"]
        return {event["state_key"]: event["content"]["membership"] for event in chunk}

    assert await members() == {alice.user_id: "join", bob.user_id: "leave", carol.user_id: "invite"}
    assert await members(membership="join") == {alice.user_id: "join"}
    assert await members(not_membership="leave") == {alice.user_id: "join", carol.user_id: "invite"}
    both = await members(membership="leave", not_membership="join")
    assert both == {bob.user_id: "leave", carol.user_id: "invite"}
    assert await members(at=before) == {alice.user_id: "join"}
    timeline = {"room": {"timeline": {"limit": 1}}}
    part = (await alice.sync(wanted=timeline))["rooms"]["join"][room_id]
    # Just before the one event of the timeline, in which bob leaves.
    assert (await members(at=part["timeline"]["prev_batch"]))[bob.user_id] == "join"
    wrong = await alice.ask("GET", at("rooms", room_id, "members"), membership="some")
    wrong.failed(400, "M_INVALID_PARAM")


async def test_joined_members_and_joined_rooms(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    (await alice.ask("PUT", at("profile", alice.user_id, "displayname"), {"displayname": "Alice"})).ok()
    room_id, other = await alice.create(), await alice.create()
    await bob.join(room_id)
    await bob.leave(room_id)
    joined = (await alice.ask("GET", at("rooms", room_id, "joined_members"))).ok()["joined"]
    assert joined == {alice.user_id: {"display_name": "Alice"}}
    (await bob.ask("GET", at("rooms", room_id, "joined_members"))).failed(403, "M_FORBIDDEN")
    assert set((await alice.ask("GET", "/joined_rooms")).ok()["joined_rooms"]) == {room_id, other}
    assert (await bob.ask("GET", "/joined_rooms")).ok() == {"joined_rooms": []}

"""client-server §Server Side Search, through the real route."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comity.rooms import search_index
from comity.rooms.read import search_walk
from comity.store import search as stored_search
from comity.store.database import Tx
from comity.store.events import NewEvent, last_number
from comity.store.search import Progress
from tests.api.neighbours import name_of, neighbours, settle
from tests.api.support_rooms import Client, Place, by_key, ids, place, until_waiting
from tests.api.support_users import Answer, at


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


async def ask(client: Client, term: object, start: str | None = None, **asked: object) -> Answer:
    """One search; `start` is a next_batch."""
    query = {} if start is None else {"next_batch": start}
    body = {"search_categories": {"room_events": {"search_term": term, **asked}}}
    return await client.ask("POST", "/search", body, **query)


async def search(client: Client, term: str, start: str | None = None, **asked: object) -> Any:
    """What one search found."""
    return (await ask(client, term, start, **asked)).ok()["search_categories"]["room_events"]


def found(answer: Any) -> list[str]:
    """The ids of the results, in their order."""
    return ids([result["result"] for result in answer["results"]])


async def all_pages(client: Client, term: str, limit: int, **asked: Any) -> list[str]:
    """The results of a search, from so many pages as it takes."""
    wanted = {**asked.pop("filter", {}), "limit": limit}
    answer = await search(client, term, filter=wanted, **asked)
    listed = found(answer)
    while "next_batch" in answer:
        answer = await search(client, term, answer["next_batch"], filter=wanted, **asked)
        listed += found(answer)
    return listed


# -- what is found


async def test_what_was_just_said_is_found(server: Place) -> None:
    (alice,) = await server.clients("alice")
    room_id = await alice.create(name="Mars")
    said = await alice.say(room_id, "Martians and MEN")
    await alice.say(room_id, "only men here")
    answer = await search(alice, "men martians")
    assert found(answer) == [said]
    assert answer["count"] == 1
    assert answer["highlights"] == ["men", "martians"]
    assert "next_batch" not in answer and "groups" not in answer and "state" not in answer
    (result,) = answer["results"]
    assert result["result"]["content"] == {"msgtype": "m.text", "body": "Martians and MEN"}
    assert result["result"]["room_id"] == room_id and result["result"]["unsigned"]["transaction_id"]
    assert 0 < result["rank"] <= 1 and "context" not in result
    assert found(await search(alice, "martian")) == []
    assert await search(alice, "…") == {"count": 0, "results": [], "highlights": []}


async def test_words_of_scripts_without_spaces(server: Place) -> None:
    (alice,) = await server.clients("alice")
    room_id = await alice.create()
    said = await alice.say(room_id, "明日は東京都へ行きます")
    await alice.say(room_id, "東京と京都")
    assert found(await search(alice, "東京都")) == [said]
    assert len(found(await search(alice, "京"))) == 2


async def test_each_key_is_searched_alone_or_with_the_others(server: Place) -> None:
    (alice,) = await server.clients("alice")
    room_id = await alice.create()
    body = await alice.say(room_id, "a red herring")
    name = await alice.set_state(room_id, "m.room.name", {"name": "red house"})
    block = {"m.text": [{"body": "reds and greens"}, {"mimetype": "text/html", "body": "<b>blue</b>"}]}
    topic = await alice.set_state(room_id, "m.room.topic", {"topic": "red things", "m.topic": block})
    await alice.send(room_id, "m.sticker", {"body": "red sticker"})
    for keys, wanted in (
        (["content.body"], [body]),
        (["content.name"], [name]),
        (["content.topic"], [topic]),
        (["content.topic", "content.body"], [topic, body]),
        (None, [topic, name, body]),
        ([], []),
    ):
        assert found(await search(alice, "red", keys=keys, order_by="recent")) == wanted
    assert found(await search(alice, "greens")) == [topic]
    assert found(await search(alice, "blue")) == []


async def test_the_filter_of_events(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    one, two = await alice.create(), await alice.create()
    first = await alice.say(one, "cake")
    second = await alice.send(
        two, "m.room.message", {"body": "cake", "msgtype": "m.image", "url": "mxc://a/b"}
    )
    await bob.join(one)
    third = await bob.say(one, "cake")
    for wanted, expected in (
        ({"rooms": [one]}, [third, first]),
        ({"rooms": []}, []),
        ({"not_rooms": [one]}, [second]),
        ({"senders": [bob.user_id]}, [third]),
        ({"not_senders": [bob.user_id]}, [second, first]),
        ({"contains_url": True}, [second]),
        ({"contains_url": False}, [third, first]),
        ({"types": ["m.room.topic"]}, []),
        ({"not_types": ["m.room.*"]}, []),
        ({"limit": 1}, [third]),
    ):
        assert found(await search(alice, "cake", filter=wanted, order_by="recent")) == expected
    # A room that they are not in is not searched because it is named.
    assert found(await search(bob, "cake", filter={"rooms": [two]})) == []


async def test_rooms_that_were_upgraded_are_searched_with_those_that_followed(server: Place) -> None:
    (alice,) = await server.clients("alice")
    old = await alice.create()
    before = await alice.say(old, "the same old story")
    new = await alice.create(creation_content={"predecessor": {"room_id": old}})
    await alice.set_state(old, "m.room.tombstone", {"body": "moved", "replacement_room": new})
    after = await alice.say(new, "another story")
    await alice.leave(old)
    assert found(await search(alice, "story", order_by="recent")) == [after, before]


# -- order, groups, pages


async def test_rank_prefers_what_says_it_more_often_and_later(server: Place) -> None:
    (alice,) = await server.clients("alice")
    room_id = await alice.create()
    much = await alice.say(room_id, "tea, tea and tea")
    old = await alice.say(room_id, "old tea")
    await server.clock.turn(10 * 24 * 3600)
    new = await alice.say(room_id, "new tea")
    ranked = await search(alice, "tea")
    assert found(ranked) == [much, new, old]
    ranks = [result["rank"] for result in ranked["results"]]
    assert ranks == sorted(ranks, reverse=True) and len(set(ranks)) == 3
    assert found(await search(alice, "tea", order_by="rank")) == found(ranked)
    assert found(await search(alice, "tea", order_by="recent")) == [new, old, much]


@pytest.mark.parametrize("order", ["recent", "rank"])
async def test_pages_bring_everything_once_and_nothing_newer(server: Place, order: str) -> None:
    (alice,) = await server.clients("alice")
    rooms = [await alice.create(), await alice.create()]
    said = [await alice.say(rooms[number % 2], "ping " * (number % 3 + 1)) for number in range(11)]
    wanted = {"limit": 4}
    answer = await search(alice, "ping", filter=wanted, order_by=order)
    assert answer["count"] == 11
    listed = found(answer)
    while "next_batch" in answer:
        await alice.say(rooms[0], "ping ping ping ping")
        answer = await search(alice, "ping", answer["next_batch"], filter=wanted, order_by=order)
        assert answer["count"] == 11 and len(answer["results"]) <= 4
        listed += found(answer)
    whole = await search(alice, "ping", filter={"limit": 50}, order_by=order)
    assert listed == [event_id for event_id in found(whole) if event_id in said]
    assert sorted(listed) == sorted(said)


@pytest.mark.parametrize("order", ["recent", "rank"])
async def test_pages_go_on_where_a_search_had_looked_at_enough(
    server: Place, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_walk, "MAX_EXAMINED", 7)
    monkeypatch.setattr(search_walk, "AT_ONCE", 3)
    monkeypatch.setattr(search_walk, "POSTINGS_AT_ONCE", 2)
    (alice,) = await server.clients("alice")
    rooms = [await alice.create(), await alice.create()]
    said = [await alice.say(rooms[number % 3 % 2], f"pong no{number}") for number in range(20)]
    listed = await all_pages(alice, "pong", 5, order_by=order)
    assert sorted(listed) == sorted(said)
    if order == "recent":
        assert listed == said[::-1]
    # By one room's group, likewise.
    grouped: list[str] = []
    asked: dict[str, Any] = {
        "filter": {"limit": 5}, "order_by": order, "groupings": {"group_by": [{"key": "room_id"}]},
    }  # fmt: skip
    answer = await search(alice, "pong", **asked)
    while True:
        group = answer["groups"]["room_id"].get(rooms[0], {"results": []})
        grouped += group["results"]
        start = group.get("next_batch") or answer.get("next_batch")
        if start is None:
            break
        answer = await search(alice, "pong", start, **asked)
    assert sorted(grouped) == sorted(said[number] for number in range(20) if number % 3 != 1)


async def test_a_term_whose_words_are_seldom_together(server: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_walk, "MAX_POSTINGS", 4)
    monkeypatch.setattr(search_walk, "POSTINGS_AT_ONCE", 2)
    (alice,) = await server.clients("alice")
    room_id = await alice.create()
    both = await alice.say(room_id, "salt pepper")
    for _ in range(6):
        await alice.say_all(room_id, "salt", "pepper")
    assert await all_pages(alice, "salt pepper", 5) == [both]


async def test_groups_by_room_and_sender(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    one, two = await alice.create(), await alice.create()
    await bob.join(one)
    first = await alice.say_all(one, "song 1", "song 2", "song 3")
    second = [await bob.say(one, "song 4")]
    third = await alice.say_all(two, "song 5")
    asked: dict[str, Any] = {
        "order_by": "recent",
        "filter": {"limit": 3},
        "groupings": {"group_by": [{"key": "room_id"}, {"key": "sender"}]},
    }
    answer = await search(alice, "song", **asked)
    assert found(answer) == [third[0], second[0], first[2]]
    rooms, senders = answer["groups"]["room_id"], answer["groups"]["sender"]
    assert {room: (group["order"], group["results"]) for room, group in rooms.items()} == {
        two: (1, third), one: (2, [second[0], first[2]]),
    }  # fmt: skip
    assert {user: (group["order"], group["results"]) for user, group in senders.items()} == {
        alice.user_id: (1, [third[0], first[2]]), bob.user_id: (2, second),
    }  # fmt: skip
    assert "next_batch" not in rooms[two] and "next_batch" not in senders[bob.user_id]
    more = await search(alice, "song", rooms[one]["next_batch"], **asked)
    assert found(more) == [first[1], first[0]] and more["count"] == 4
    more = await search(alice, "song", senders[alice.user_id]["next_batch"], **asked)
    assert found(more) == [first[1], first[0]] and more["count"] == 4
    assert "next_batch" not in more


async def test_context_profiles_and_state(server: Place) -> None:
    (alice, bob) = await server.clients("alice", "bob")
    (await alice.ask("PUT", at("profile", alice.user_id, "displayname"), {"displayname": "Al"})).ok()
    room_id = await alice.create(name="Here")
    before = await alice.say_all(room_id, "1", "2", "3")
    needle = await alice.say(room_id, "needle")
    (await alice.ask("PUT", at("profile", alice.user_id, "displayname"), {"displayname": "Alice"})).ok()
    await bob.join(room_id)
    after = [await bob.say(room_id, "4")]
    context = {"before_limit": 2, "after_limit": 3, "include_profile": True}
    answer = await search(alice, "needle", event_context=context, include_state=True)
    (result,) = answer["results"]
    shown = result["context"]
    assert ids(shown["events_before"]) == [before[2], before[1]]
    assert [event["type"] for event in shown["events_after"]] == ["m.room.member"] * 2 + ["m.room.message"]
    assert ids(shown["events_after"])[2] == after[0]
    assert shown["profile_info"] == {alice.user_id: {"displayname": "Al"}, bob.user_id: {}}
    older = await alice.messages(room_id, from_=shown["start"], limit=1)
    assert ids(older["chunk"]) == [before[0]]
    newer = await alice.messages(room_id, "f", from_=shown["end"])
    assert newer["chunk"] == []
    state = by_key(answer["state"][room_id])
    assert state["m.room.name", ""] == {"name": "Here"}
    assert state["m.room.member", bob.user_id]["membership"] == "join"
    (result,) = (await search(alice, "needle", event_context={}))["results"]
    assert len(result["context"]["events_before"]) == 5 and "profile_info" not in result["context"]
    (result,) = (await search(alice, "needle", event_context={"before_limit": 0, "after_limit": 0}))[
        "results"
    ]
    assert (result["context"]["events_before"], result["context"]["events_after"]) == ([], [])
    assert result["context"]["start"] and result["context"]["end"]
    assert needle == result["result"]["event_id"]


# -- what is not found, nor counted


@pytest.mark.parametrize(
    ("visibility", "seen"),
    [
        ("joined", ["joined"]),
        ("invited", ["invited", "joined"]),
        ("shared", ["outside", "invited", "joined"]),
    ],
)
async def test_nothing_is_found_of_what_may_not_be_seen(
    server: Place, visibility: str, seen: list[str]
) -> None:
    alice, bob = await server.clients("alice", "bob")
    initial = {"type": "m.room.history_visibility", "content": {"history_visibility": visibility}}
    room_id = await alice.create(preset="private_chat", initial_state=[initial])
    said = {"outside": await alice.say(room_id, "secret")}
    await alice.treat(room_id, "invite", bob)
    said["invited"] = await alice.say(room_id, "secret")
    assert (await search(bob, "secret"))["count"] == 0
    await bob.join(room_id)
    said["joined"] = await alice.say(room_id, "secret")
    await bob.leave(room_id)
    await alice.say(room_id, "secret")
    answer = await search(bob, "secret", order_by="recent", event_context={})
    assert found(answer) == [said[name] for name in seen[::-1]]
    assert answer["count"] == len(seen)
    # Nor beside what is found.
    shown = {
        event["event_id"]
        for result in answer["results"]
        for event in (*result["context"]["events_before"], *result["context"]["events_after"])
        if event["type"] == "m.room.message"
    }
    assert shown <= {said[name] for name in seen}
    assert (await search(alice, "secret"))["count"] == 4


async def test_rooms_that_were_left_as_they_were_then(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    initial = {"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}}
    room_id = await alice.create(name="early", initial_state=[initial])
    await bob.join(room_id)
    early = await alice.say(room_id, "report early")
    await bob.leave(room_id)
    await alice.say(room_id, "report late")
    await alice.set_state(room_id, "m.room.name", {"name": "late"})
    answer = await search(bob, "report", include_state=True)
    assert found(answer) == [early] and answer["count"] == 1
    assert by_key(answer["state"][room_id])["m.room.name", ""] == {"name": "early"}
    (await bob.ask("POST", at("rooms", room_id, "forget"), {})).ok()
    assert (await search(bob, "report"))["count"] == 0


async def test_ignored_users_are_left_out(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    own = await alice.say(room_id, "noise")
    await bob.say(room_id, "noise noise")
    await alice.account_data("m.ignored_user_list", {"ignored_users": {bob.user_id: {}}})
    answer = await search(alice, "noise", event_context={})
    assert found(answer) == [own] and answer["count"] == 1
    assert [event["sender"] for event in answer["results"][0]["context"]["events_after"]] == []


async def test_encrypted_rooms_yield_nothing(server: Place) -> None:
    (alice,) = await server.clients("alice")
    room_id = await alice.create()
    await alice.say(room_id, "before it")
    assert (await search(alice, "before"))["count"] == 1
    await alice.set_state(room_id, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    await alice.set_state(room_id, "m.room.name", {"name": "before"})
    assert await search(alice, "before") == {"count": 0, "results": [], "highlights": ["before"]}


def words_held(server: Place, word: str) -> int:
    """How many events the index has for a word."""
    rows = server.database.read_now(
        lambda tx: tx.all("SELECT event_num FROM search_words WHERE word = ?", (word,))
    )
    return len(rows)


@pytest.mark.parametrize("indexed", [True, False])
async def test_what_was_redacted_leaves_the_index(server: Place, indexed: bool) -> None:
    (alice,) = await server.clients("alice")
    room_id = await alice.create()
    said = await alice.say(room_id, "regrettable words 後悔")
    kept = await alice.say(room_id, "other words")
    await alice.set_state(room_id, "m.room.topic", {"topic": "regrettable topic"})
    topic = await alice.set_state(room_id, "m.room.topic", {"topic": "topic"})
    if indexed:
        assert (await search(alice, "regrettable"))["count"] == 2
        assert words_held(server, "regrettable") == 2
    await alice.redact(room_id, said)
    if indexed:
        # In the redaction's own transaction, not some time later.
        assert words_held(server, "regrettable") == 1 and words_held(server, "後悔") == 0
    answer = await search(alice, "words")
    assert found(answer) == [kept] and answer["count"] == 1
    assert words_held(server, "words") == 1
    assert len(found(await search(alice, "topic"))) == 2 and topic in found(await search(alice, "topic"))
    assert (await search(alice, "後悔"))["count"] == 0


async def test_edits_are_found_by_what_they_say(server: Place) -> None:
    (alice,) = await server.clients("alice")
    room_id = await alice.create()
    said = await alice.say(room_id, "teh cat")
    edit = await alice.send(
        room_id,
        "m.room.message",
        {
            "body": "* the cat",
            "msgtype": "m.text",
            "m.new_content": {"body": "the cat", "msgtype": "m.text"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": said},
        },
    )
    assert found(await search(alice, "the")) == [edit]
    assert found(await search(alice, "cat", order_by="recent")) == [edit, said]


# -- what is wrong with a question


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"search_term": None}, "M_MISSING_PARAM"),
        ({"search_term": 3}, "M_BAD_JSON"),
        ({"search_term": "x" * 2000}, "M_INVALID_PARAM"),
        ({"keys": "content.body"}, "M_BAD_JSON"),
        ({"keys": ["content.url"]}, "M_INVALID_PARAM"),
        ({"keys": ["content.body"] * 20}, "M_INVALID_PARAM"),
        ({"order_by": "age"}, "M_INVALID_PARAM"),
        ({"filter": []}, "M_BAD_JSON"),
        ({"filter": {"rooms": ["#alias:x"]}}, "M_INVALID_PARAM"),
        ({"event_context": 1}, "M_BAD_JSON"),
        ({"event_context": {"before_limit": "1"}}, "M_BAD_JSON"),
        ({"event_context": {"after_limit": -1}}, "M_INVALID_PARAM"),
        ({"event_context": {"include_profile": 1}}, "M_BAD_JSON"),
        ({"include_state": "yes"}, "M_BAD_JSON"),
        ({"groupings": {"group_by": ["sender"]}}, "M_BAD_JSON"),
        ({"groupings": {"group_by": [{"key": "type"}]}}, "M_INVALID_PARAM"),
    ],
)
async def test_wrong_questions(server: Place, asked: dict[str, Any], code: str) -> None:
    (alice,) = await server.clients("alice")
    others = {name: value for name, value in asked.items() if name != "search_term"}
    (await ask(alice, asked.get("search_term", "x"), **others)).failed(400, code)


@pytest.mark.parametrize(
    "token", ["x", "s1_2", "W10", "WzEsMiwzLDQsNSxudWxsXQ", "WzEsMiwzLC00LDUsbnVsbCxudWxsXQ", "A" * 3000, "é"]
)
async def test_wrong_tokens(server: Place, token: str) -> None:
    (alice,) = await server.clients("alice")
    (await ask(alice, "x", token)).failed(400, "M_INVALID_PARAM")


async def test_other_categories_and_strangers(server: Place) -> None:
    (alice,) = await server.clients("alice")
    assert (await alice.ask("POST", "/search", {"search_categories": {"x": {}}})).ok() == {
        "search_categories": {}
    }
    (await alice.ask("POST", "/search", {})).failed(400, "M_MISSING_PARAM")
    (await Client(server, "", "nobody's").ask("POST", "/search", {})).failed(401, "M_UNKNOWN_TOKEN")


# -- the index


def forget_the_index(tx: Tx) -> None:
    """Make the database one from before there was an index."""
    for table in ("search_words", "search_progress", "search_again"):
        tx.run(f"DELETE FROM {table}")


async def test_an_old_database_is_indexed_newest_first_also_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_index, "STEP", 10)
    async with place(tmp_path) as server:
        (alice,) = await server.clients("alice")
        room_id = await alice.create()
        said = await alice.say_all(room_id, *(f"old news no{number}" for number in range(30)))
        server.database.driver.write_now(forget_the_index)
    async with place(tmp_path) as server:
        alice = server.again(alice)
        new = await alice.set_state(room_id, "m.room.topic", {"topic": "new news"})
        # What comes now does not wait for what was there.
        first = found(await search(alice, "news", order_by="recent", filter={"limit": 50}))
        assert first[0] == new and set(first[1:]) < set(said)
        assert first[1:] == said[::-1][: len(first) - 1]
        await until_waiting()
        await server.clock.turn(search_index.BREATH_SECONDS * 1.5)
        await until_waiting()
        more = found(await search(alice, "news", order_by="recent", filter={"limit": 50}))
        assert len(first) < len(more) < len(said)
    async with place(tmp_path) as server:
        alice = server.again(alice)
        await server.clock.turn(1)
        await until_waiting()
        answer = await search(alice, "news", order_by="recent", filter={"limit": 50})
        assert found(answer) == [new, *said[::-1]] and answer["count"] == 31
        redacted = await alice.redact(room_id, said[0])
        assert redacted and words_held(server, "no0") == 0


async def test_the_index_follows_by_itself(server: Place) -> None:
    (alice,) = await server.clients("alice")
    room_id = await alice.create()
    await alice.say(room_id, "unasked")
    assert words_held(server, "unasked") == 0
    await server.clock.turn(search_index.GATHER_SECONDS * 2)
    await until_waiting()
    assert words_held(server, "unasked") == 1
    await alice.say(room_id, "unasked again")
    await server.clock.turn(search_index.GATHER_SECONDS * 2)
    await until_waiting()
    assert words_held(server, "unasked") == 2


async def test_a_search_does_not_wait_for_more_than_a_little(
    server: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (alice,) = await server.clients("alice")
    room_id = await alice.create()
    assert (await search(alice, "crowd"))["count"] == 0
    monkeypatch.setattr(search_index, "STEP", 2)
    await alice.say_all(room_id, *["crowd"] * 20)
    assert (await search(alice, "crowd"))["count"] == 2 * search_index.MAX_CATCH_UP_STEPS
    assert (await search(alice, "crowd"))["count"] == 20


async def test_history_that_comes_later_is_found(tmp_path: Path) -> None:
    """Messages that were fetched, and a topic that was held as a part of the state until then."""
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await alice.create()
        topic = await alice.set_state(room_id, "m.room.topic", {"topic": "ancient topic"})
        said = await alice.say_all(room_id, "ancient text 1", "ancient text 2")
        gone = await alice.say(room_id, "ancient mistake")
        await alice.redact(room_id, gone)
        await bob.join(room_id, via=name_of(1))
        await settle(here, there)
        assert (await search(bob, "ancient"))["count"] == 0
        passed = there.app._rooms.search_index._passed
        await bob.messages(room_id, limit=50)
        answer = await search(bob, "ancient", order_by="recent", event_context={})
        assert found(answer) == [said[1], said[0], topic]
        # The topic was one that the index had passed.
        number = there.database.read_now(
            lambda tx: tx.all("SELECT event_num FROM events WHERE event_id = ?", (topic,))
        )[0][0]
        assert number <= passed
        await alice.redact(room_id, said[0])
        await settle(here, there)
        assert found(await search(bob, "text")) == [said[1]] and words_held(there, "1") == 0


async def test_an_event_that_is_stored_after_a_later_one_is_found(server: Place) -> None:
    """Numbers are given when rooms decide; what one decided first may be stored last."""
    (alice,) = await server.clients("alice")
    room_id = await alice.create()
    early = await alice.say(room_id, "straggler")
    await alice.say(room_id, "ahead")
    assert (await search(alice, "straggler"))["count"] == 1
    index = server.app._rooms.search_index
    passed = index._passed
    # As if the first of them were being stored only now.
    held = server.database.read_now(lambda tx: server.reader.events.by_id(tx, early))
    assert held is not None and held.number <= passed
    server.database.driver.write_now(
        lambda tx: tx.run("DELETE FROM search_words WHERE event_num = ?", (held.number,))
    )
    assert (await search(alice, "straggler"))["count"] == 0
    room = await server.app._rooms.staging._rooms.get(room_id)
    assert room is not None
    batch = server.app._rooms.staging._decisions.batch(room)
    batch.outliers.append(NewEvent(held.number, held.event, 0, None, None, (), None))
    await server.database.write(lambda tx: index.follow(tx, batch))
    assert found(await search(alice, "straggler")) == [early]


async def test_what_changes_while_it_is_being_indexed(server: Place) -> None:
    """Between the reading of events and the storing of their words, one is redacted and one comes."""
    (alice,) = await server.clients("alice")
    room_id = await alice.create()
    said = await alice.say(room_id, "indiscreet remark")
    index, database = server.app._rooms.search_index, server.database
    reached = index._reached
    upto = database.read_now(last_number) + 2
    readied = database.read_now(lambda tx: stored_search.ready(tx, reached.newest, upto))
    assert any("indiscreet" in item.words for item in readied)
    await alice.redact(room_id, said)
    late = await alice.say(room_id, "late remark")
    await index._store(reached.newest, upto, readied, Progress(upto, reached.oldest))
    assert words_held(server, "indiscreet") == 0 and words_held(server, "remark") == 1
    assert found(await search(alice, "remark")) == [late]

"""Reports of events, rooms and users: who may report what, what is kept, and what is told of it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comity.store import reports as stored
from comity.store.reports import Report
from comity.users.reports import MAX_KEPT_PER_REPORTER, MAX_REASON_BYTES
from tests.api.neighbours import name_of, neighbours
from tests.api.support_rooms import Client, Place, place
from tests.api.support_users import Answer, at, user_server

BAD = {"reason": "this makes me sad"}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


async def report(client: Client, *parts: str, body: object = BAD) -> Answer:
    """Report something; `parts` are of the path, before and after "report"."""
    kind, target, *event = parts
    return await client.ask("POST", at(kind, target, "report", *event), body)


async def kept(server: Place, *, closed: bool = False) -> list[Report]:
    """What is kept, oldest first."""
    return await server.database.read(lambda tx: stored.newest(tx, 1_000, closed=closed))


async def test_an_event(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    await bob.join(room_id)
    event_id = await bob.say(room_id, "boo")
    assert (await report(alice, "rooms", room_id, event_id)).ok() == {}
    (found,) = await kept(server)
    assert found == Report(
        1, alice.user_id, room_id, event_id, bob.user_id, BAD["reason"], server.clock.now_ms()
    )
    # The reason is optional here, and what older clients add is passed over.
    path = "/_matrix/client/r0" + at("rooms", room_id, "report", event_id)
    (await alice.ask("POST", path, {"score": -100})).ok()
    assert [item.reason for item in await kept(server)] == [BAD["reason"], ""]


async def test_only_an_event_of_a_room_that_the_reporter_is_in(server: Place) -> None:
    alice, bob, carol = await server.clients("alice", "bob", "carol")
    room_id, other = await alice.create(), await alice.create()
    event_id = await alice.say(room_id, "boo")
    await bob.join(other)
    await carol.join(room_id)
    await carol.leave(room_id)
    texts = set()
    for client, room, event in (
        (bob, room_id, event_id),
        (bob, room_id, "$no"),
        (bob, other, event_id),
        (carol, room_id, event_id),
        (alice, "!no:example.org", event_id),
        (alice, "nonsense\0", event_id),
        (alice, room_id, "nonsense\0"),
    ):
        texts.add((await report(client, "rooms", room, event)).failed(404, "M_NOT_FOUND")["error"])
    assert len(texts) == 1
    assert await kept(server) == []


async def test_state_from_before_the_join(tmp_path: Path) -> None:
    """It came with the join and has no place in the timeline, but the reporter's app shows it."""
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await alice.create()
        topic = await alice.set_state(room_id, "m.room.topic", {"topic": "boo"})
        await alice.say(room_id, "hello")
        await bob.join(room_id, via=name_of(1))
        (await report(bob, "rooms", room_id, topic)).ok()
        (found,) = await kept(there)
        assert (found.event_id, found.user_id) == (topic, alice.user_id)


async def test_rooms_and_users_whether_they_exist_or_not(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await bob.create(preset="private_chat")
    answers = [
        await report(alice, "rooms", room_id),
        await report(alice, "rooms", "!nowhere:elsewhere.example", body={"reason": ""}),
        await report(alice, "users", bob.user_id),
        await report(alice, "users", "@nobody:example.org"),
        await report(alice, "users", "@nobody:elsewhere.example"),
    ]
    assert {(answer.status, str(answer.body)) for answer in answers} == {(200, "{}")}
    assert [(item.room_id, item.event_id, item.user_id) for item in await kept(server)] == [
        (room_id, "", ""),
        ("!nowhere:elsewhere.example", "", ""),
        ("", "", bob.user_id),
        ("", "", "@nobody:example.org"),
        ("", "", "@nobody:elsewhere.example"),
    ]


async def test_what_cannot_be_a_report(server: Place) -> None:
    (alice,) = await server.clients("alice")
    room_id = await alice.create()
    event_id = await alice.say(room_id, "boo")
    for target in (("rooms", room_id), ("users", "@b:example.org"), ("rooms", room_id, event_id)):
        (await report(alice, *target, body={"reason": 1})).failed(400, "M_BAD_JSON")
        (await report(alice, *target, body=None)).failed(400, "M_NOT_JSON")
        long = {"reason": "x" * (MAX_REASON_BYTES + 1)}
        (await report(alice, *target, body=long)).failed(400, "M_INVALID_PARAM")
        (await report(alice, *target, body={"reason": "a\0b"})).failed(400, "M_INVALID_PARAM")
    for target in (("rooms", room_id), ("users", "@b:example.org")):
        (await report(alice, *target, body={})).failed(400, "M_MISSING_PARAM")
    (await report(alice, "rooms", "nonsense")).failed(400, "M_INVALID_PARAM")
    (await report(alice, "users", "nonsense\0")).failed(400, "M_INVALID_PARAM")
    nobody = server.again(alice)
    nobody.token = ""
    (await report(nobody, "users", "@b:example.org")).failed(401, "M_MISSING_TOKEN")
    assert await kept(server) == []


async def test_a_flood_drowns_its_makers_reports_alone(server: Place) -> None:
    alice, bob = await server.clients("alice", "bob")
    await report(bob, "users", "@first:example.org")
    await report(alice, "users", "@closed:example.org")
    await report(alice, "users", "@open:example.org")
    for number in range(MAX_KEPT_PER_REPORTER - 2):
        await report(alice, "users", f"@u{number}:example.org")
    assert len(await kept(server)) == MAX_KEPT_PER_REPORTER + 1
    await report(alice, "users", "@one_more:example.org")
    assert [item.user_id for item in (await kept(server))[:3]] == [
        "@first:example.org", "@open:example.org", "@u0:example.org",
    ]  # fmt: skip
    # What is closed goes first, whatever its age.
    await server.database.write(lambda tx: stored.close(tx, MAX_KEPT_PER_REPORTER, 1))
    await report(alice, "users", "@last:example.org")
    found = await kept(server, closed=True)
    assert [item.user_id for item in found[:2]] == ["@first:example.org", "@open:example.org"]
    assert [item.user_id for item in found[-2:]] == ["@one_more:example.org", "@last:example.org"]
    assert MAX_KEPT_PER_REPORTER not in [item.report_id for item in found]
    assert len(found) == MAX_KEPT_PER_REPORTER + 1


async def test_the_log_tells_who_and_what_but_not_why(
    server: Place, caplog: pytest.LogCaptureFixture
) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create()
    event_id = await alice.say(room_id, "boo")
    with caplog.at_level(logging.INFO, logger="comity.users.reports"):
        await report(alice, "rooms", room_id, event_id)
        await report(alice, "rooms", room_id)
        await report(alice, "users", bob.user_id)
    told = [record.getMessage() for record in caplog.records if record.name == "comity.users.reports"]
    assert told == [
        f"report 1: {alice.user_id} reported the event {event_id} in {room_id}",
        f"report 2: {alice.user_id} reported the room {room_id}",
        f"report 3: {alice.user_id} reported the user {bob.user_id}",
    ]
    assert "sad" not in caplog.text


async def test_reports_have_a_rate(tmp_path: Path) -> None:
    limited = "[rate_limits]\nenabled = true\n"
    async with user_server(tmp_path, limited) as server:
        token = await server.user("alice")
        path = at("users", "@b:example.org", "report")
        codes = [(await server.ask("POST", path, BAD, token=token)).code for _ in range(21)]
        assert codes == [""] * 20 + ["M_LIMIT_EXCEEDED"]
        for parts in (("rooms", "!r:example.org", "report"), ("rooms", "!r:example.org", "report", "$e")):
            (await server.ask("POST", at(*parts), BAD, token=token)).failed(429, "M_LIMIT_EXCEEDED")

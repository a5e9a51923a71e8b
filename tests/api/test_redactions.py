"""Redactions by both of their endpoints, in room versions of every kind (client-server §Redactions)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comity.store import accounts
from tests.api.neighbours import name_of, neighbours, settle
from tests.api.support_rooms import Client, Place, place
from tests.api.support_users import at

#: Of each kind of rules about redactions, one; the last two have `redacts` in the content.
VERSIONS = ("1", "3", "6", "9", "10", "11", "12")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


async def event(client: Client, room_id: str, event_id: str) -> Any:
    return (await client.ask("GET", at("rooms", room_id, "event", event_id))).ok()


async def as_sent(server: Place, event_id: str) -> Any:
    """An event as other servers get it."""
    reader = server.reader
    stored = await server.database.read(lambda tx: reader.events.by_id(tx, event_id))
    assert stored is not None
    return stored.event.source


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_redaction_is_sent_as_an_event(server: Place, version: str) -> None:
    alice = await server.client("alice")
    room_id = await alice.create(room_version=version)
    said = await alice.say(room_id, "secret")
    content = {"redacts": said, "reason": "spam", "org.example": 1}
    redaction = await alice.send(room_id, "m.room.redaction", content)
    told = await event(alice, room_id, said)
    assert told["content"] == {}
    assert told["unsigned"]["redacted_because"]["event_id"] == redaction
    told = await event(alice, room_id, redaction)
    assert told["redacts"] == said
    assert told["content"] == content
    # client-server, PUT …/send: before version 11 it is moved to the top level.
    source = await as_sent(server, redaction)
    assert ("redacts" in source, "redacts" in source["content"]) == (int(version) < 11, int(version) >= 11)


@pytest.mark.parametrize("version", VERSIONS)
async def test_who_may_redact(server: Place, version: str) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(room_version=version)
    await bob.join(room_id)
    hers, his = await alice.say(room_id, "hers"), await bob.say(room_id, "his")
    path = at("rooms", room_id, "redact", hers, "t")
    (await bob.ask("PUT", path, {})).failed(403, "M_FORBIDDEN")
    path = at("rooms", room_id, "send", "m.room.redaction", "t")
    (await bob.ask("PUT", path, {"redacts": hers})).failed(403, "M_FORBIDDEN")
    assert (await event(bob, room_id, hers))["content"]["body"] == "hers"
    await bob.redact(room_id, his)
    assert (await event(alice, room_id, his))["content"] == {}
    other = await bob.say(room_id, "his again")
    await alice.redact(room_id, other)
    assert (await event(bob, room_id, other))["content"] == {}
    # What was refused has left nothing behind.
    assert await bob.say(room_id, "and on")


@pytest.mark.parametrize("version", ["10", "11", "12"])
async def test_a_redaction_set_as_state_needs_the_power_to_redact(server: Place, version: str) -> None:
    alice, bob = await server.clients("alice", "bob")
    room_id = await alice.create(room_version=version, power_level_content_override={"state_default": 0})
    await bob.join(room_id)
    hers, his = await alice.say(room_id, "hers"), await bob.say(room_id, "his")
    path = at("rooms", room_id, "state", "m.room.redaction", "k")
    for target in (hers, his):
        answer = await bob.ask("PUT", path, {"redacts": target})
        assert answer.status == (403 if target == hers and int(version) >= 11 else 200)
    assert (await event(alice, room_id, hers))["content"]["body"] == "hers"


@pytest.mark.parametrize("version", ["10", "12"])
async def test_what_is_redacted_stays_so_when_its_redaction_is(server: Place, version: str) -> None:
    alice = await server.client("alice")
    room_id = await alice.create(room_version=version)
    said = await alice.say(room_id, "secret")
    first = await alice.redact(room_id, said)
    await alice.redact(room_id, first)
    told = await event(alice, room_id, said)
    assert told["content"] == {}
    assert told["unsigned"]["redacted_because"]["event_id"] == first
    assert "reason" not in told["unsigned"]["redacted_because"]["content"]


@pytest.mark.parametrize("version", VERSIONS)
async def test_administrators_redact_what_users_of_their_server_sent(tmp_path: Path, version: str) -> None:
    """client-server, PUT …/redact; every server lets what came from there be redacted from there."""
    async with neighbours(tmp_path) as (here, there):
        alice, admin = await here.clients("alice", "admin")
        bob = await there.client("bob")
        await here.database.write(lambda tx: accounts.set_admin(tx, admin.user_id, admin=True))
        room_id = await bob.create(room_version=version)
        await alice.join(room_id, name_of(2))
        await admin.join(room_id)
        hers, hers_too, his = (
            *(await alice.say_all(room_id, "hers", "hers too")),
            await bob.say(room_id, "his"),
        )
        await settle(here, there)
        await admin.redact(room_id, hers)
        await admin.send(room_id, "m.room.redaction", {"redacts": hers_too})
        await settle(here, there)
        for client in (alice, bob):
            for event_id in (hers, hers_too):
                assert (await event(client, room_id, event_id))["content"] == {}
        path = at("rooms", room_id, "redact", his, "t")
        (await admin.ask("PUT", path, {})).failed(403, "M_FORBIDDEN")
        path = at("rooms", room_id, "redact", await admin.say(room_id, "theirs"), "t")
        (await alice.ask("PUT", path, {})).failed(403, "M_FORBIDDEN")


async def test_redactions_of_nothing_are_refused(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    said = await alice.say(room_id, "secret")
    path = at("rooms", room_id, "send", "m.room.redaction", "t")
    for content in ({}, {"redacts": 5}, {"redacts": "nonsense"}):
        (await alice.ask("PUT", path, content)).failed(400, "M_BAD_JSON")
    (await alice.ask("PUT", at("rooms", room_id, "redact", said, "t"), {"reason": 5})).failed(
        400, "M_BAD_JSON"
    )
    (await alice.ask("PUT", at("rooms", room_id, "redact", "nonsense", "t"), {})).failed(
        400, "M_INVALID_PARAM"
    )


async def test_both_endpoints_may_be_repeated(server: Place) -> None:
    alice = await server.client("alice")
    room_id = await alice.create()
    said = await alice.say(room_id, "secret")
    for path, body in (
        (at("rooms", room_id, "send", "m.room.redaction", "t"), {"redacts": said}),
        (at("rooms", room_id, "redact", said, "t"), {}),
    ):
        first = (await alice.ask("PUT", path, body)).ok()
        assert (await alice.ask("PUT", path, body)).ok() == first

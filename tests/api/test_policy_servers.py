"""Policy servers: events are shown to them first; what they do not recommend does not come through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from comity.federation.errors import FederationError
from comity.protocol.build import Draft
from comity.protocol.event import Event
from comity.protocol.policy import KEY_ID
from comity.rooms.explain import Explainer
from tests.api.neighbours import client_of, name_of, neighbours, settle
from tests.api.support_rooms import Client, Place, ask, bodies
from tests.api.support_users import Answer, at

ONE, TWO, THREE = name_of(1), name_of(2), name_of(3)
#: The second server is the policy server.
STRICT = """
[policy]
enabled = true
deny_users = ["@mallory:*"]
deny_words = ["Spam"]
"""


async def key_of(place: Place) -> str:
    """The key that a policy server tells clients."""
    answer = (await ask(place.app, "GET", "/.well-known/matrix/policy_server", None, {}, None)).ok()
    return str(answer["public_keys"]["ed25519"])


async def guarded(alice: Client, bob: Client, there: Place, **fields: Any) -> str:
    """A room that Bob's server watches over."""
    room_id = await alice.create(**fields)
    await bob.join(room_id, via=ONE)
    content = {"via": TWO, "public_keys": {"ed25519": await key_of(there)}}
    await alice.set_state(room_id, "m.room.policy", content)
    return room_id


async def try_to_say(client: Client, room_id: str, body: str, transaction: str) -> Answer:
    """Try to send a text."""
    path = at("rooms", room_id, "send", "m.room.message", transaction)
    return await client.ask("PUT", path, {"msgtype": "m.text", "body": body})


async def heard(client: Client, room_id: str) -> list[str]:
    """The newest texts of a room, oldest first."""
    return bodies((await client.messages(room_id, limit=50))["chunk"])[::-1]


async def sign_as(place: Place, server: str, value: dict[str, Any]) -> tuple[int | None, str | None, Any]:
    """(status, code, signatures) that a policy server answers to a server."""
    try:
        data = await client_of(place).request(server, "POST", "/_matrix/policy/v1/sign", content=value)
    except FederationError as error:
        return error.status, error.code, None
    return 200, None, orjson.loads(data)


def event_here(place: Place, event_id: str) -> Event:
    """An event as a server holds it."""
    events = place.reader.events
    stored = place.database.read_now(lambda tx: events.by_id(tx, event_id))
    assert stored is not None
    return stored.event


async def test_what_is_refused_is_not_sent(tmp_path: Path) -> None:
    async with neighbours(tmp_path, 2, p2=STRICT) as (here, there):
        alice, bob, mallory = (
            await here.client("alice"), await there.client("bob"), await here.client("mallory"),
        )  # fmt: skip
        room_id = await guarded(alice, bob, there)
        said = await alice.say(room_id, "hello")
        assert KEY_ID in event_here(here, said).source["signatures"][TWO]
        refused = await try_to_say(alice, room_id, "some SPAM for you", "t1")
        assert "words" in refused.failed(400, "M_FORBIDDEN")["error"]
        topic = await alice.ask("PUT", at("rooms", room_id, "state", "m.room.topic"), {"topic": "spam"})
        topic.failed(400, "M_FORBIDDEN")
        # Those of the policy server's own users as well.
        (await try_to_say(bob, room_id, "spam", "t1")).failed(400, "M_FORBIDDEN")
        assert await bob.say(room_id, "hi")
        (await mallory.ask("POST", at("join", room_id), {})).failed(400, "M_FORBIDDEN")
        await settle(here, there)
        for client in (alice, bob):
            assert sorted(await heard(client, room_id)) == ["hello", "hi"]
        # The same transaction again is the same event.
        first = (await try_to_say(alice, room_id, "once", "t2")).ok()
        assert (await try_to_say(alice, room_id, "once", "t2")).ok() == first
        # Without a policy, nobody is asked.
        await alice.set_state(room_id, "m.room.policy", {})
        (await try_to_say(alice, room_id, "spam", "t3")).ok()


async def test_a_policy_server_that_does_not_answer(tmp_path: Path) -> None:
    """Nothing is sent until it is back, or the policy is lifted; and it must be in the room."""
    async with neighbours(tmp_path, 2, p2=STRICT) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await guarded(alice, bob, there)
        network: Any = here.app._ports.transport
        network.cut = {2}
        (await try_to_say(alice, room_id, "hello?", "t1")).failed(502, "M_UNKNOWN")
        await alice.set_state(room_id, "m.room.policy", {"via": TWO})
        (await try_to_say(alice, room_id, "hello!", "t2")).ok()
        key = await key_of(there)
        await alice.set_state(
            room_id, "m.room.policy", {"via": "192.0.2.1:9", "public_keys": {"ed25519": key}}
        )
        (await try_to_say(alice, room_id, "nobody is there", "t3")).ok()


async def test_events_from_servers_that_do_not_ask(tmp_path: Path) -> None:
    """The receiver asks; what is still not recommended soft-fails."""
    async with neighbours(tmp_path, 3, p2=STRICT) as (here, there, third):
        alice, bob, carol = await here.client("alice"), await there.client("bob"), await third.client("carol")
        room_id = await alice.create()
        for client in (bob, carol):
            await client.join(room_id, via=ONE)
        await settle(here, there, third)
        # Carol's server does not hear of the policy.
        network: Any = here.app._ports.transport
        network.cut = {3}
        content = {"via": TWO, "public_keys": {"ed25519": await key_of(there)}}
        await alice.set_state(room_id, "m.room.policy", content)
        await settle(here, there)
        good = await carol.say(room_id, "good")
        bad = await carol.say(room_id, "spam")
        await settle(third)
        assert KEY_ID in event_here(here, good).source["signatures"][TWO]
        for place, client in ((here, alice), (there, bob)):
            assert await heard(client, room_id) == ["good"]
            events = place.reader.events
            stored = place.database.read_now(lambda tx, events=events: events.by_id(tx, bad))  # type: ignore[misc]
            assert stored is not None
            assert stored.verdict == 1
            writer = place.app._rooms.writer
            explainer = Explainer(writer._rooms, writer._merger)
            told = place.database.read_now(lambda tx, why=explainer: why.verdict(tx, bad))  # type: ignore[misc]
            assert told is not None
            assert "policy server" in told.notes[0]


async def test_invites_and_joins(tmp_path: Path) -> None:
    async with neighbours(tmp_path, 3, p2=STRICT) as (here, there, third):
        alice, bob = await here.client("alice"), await there.client("bob")
        carol, mallory = await third.clients("carol", "mallory")
        room_id = await guarded(alice, bob, there)
        await alice.treat(room_id, "invite", carol)
        await carol.join(room_id)
        await settle(here, there, third)
        for client in (alice, bob):
            path = at("rooms", room_id, "state", "m.room.member", carol.user_id)
            assert (await client.ask("GET", path)).ok()["membership"] == "join"
        answer = await mallory.ask("POST", at("join", room_id), {}, via=ONE)
        assert answer.status in (400, 403)


async def test_what_servers_are_refused(tmp_path: Path) -> None:
    async with neighbours(tmp_path, 2, p2=STRICT) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await guarded(alice, bob, there, room_version="11")
        await settle(here, there)
        rooms = here.app._rooms
        room = await rooms.writer.resident_room(room_id)

        async def draft(
            event_type: str, content: dict[str, Any], state_key: str | None = None
        ) -> dict[str, Any]:
            wanted = Draft(event_type, alice.user_id, content, state_key)
            event = await rooms.memberships._decisions.draft(
                room, lambda tx, batch: rooms.writer.draft_event(tx, batch, wanted)
            )
            return dict(event.source)

        good = await draft("m.room.message", {"body": "hello"})
        assert (await sign_as(here, TWO, good))[:2] == (200, None)
        changed = {**good, "content": {"body": "something else"}}
        assert (await sign_as(here, TWO, changed))[:2] == (400, "M_BAD_JSON")
        for value, expected in (
            (
                await draft("m.room.message", {"body": "x", "deep": [{"y": "more spam"}]}),
                (400, "M_FORBIDDEN"),
            ),
            (await draft("m.room.policy", {}, ""), (400, "M_FORBIDDEN")),
            ({**good, "room_id": "!nothing:192.0.2.1:1"}, (404, "M_NOT_FOUND")),
            ({**good, "room_id": 4}, (404, "M_NOT_FOUND")),
            ({"room_id": room_id}, (400, "M_BAD_JSON")),
        ):
            assert (await sign_as(here, TWO, value))[:2] == expected
        # The first server is no policy server at all.
        assert (await sign_as(there, ONE, good))[:2] == (404, "M_UNRECOGNIZED")
        well_known = await ask(here.app, "GET", "/.well-known/matrix/policy_server", None, {}, None)
        well_known.failed(404, "M_UNRECOGNIZED")
        other = {"via": ONE, "public_keys": {"ed25519": await key_of(there)}}
        await alice.set_state(room_id, "m.room.policy", other)
        await settle(here, there)
        assert (await sign_as(here, TWO, good))[:2] == (404, "M_NOT_FOUND")
        await alice.set_state(room_id, "m.room.policy", {})
        await alice.set_state(room_id, "m.room.server_acl", {"allow": [TWO]})
        await settle(here, there)
        assert (await sign_as(here, TWO, good))[:2] == (403, "M_FORBIDDEN")

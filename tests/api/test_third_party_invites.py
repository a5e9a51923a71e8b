"""Invites to addresses: the exchange between the inviting server and the invited user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from comity.ports import Answer as TransportAnswer
from comity.ports import Request
from comity.protocol.signing import SigningKey, sign_json
from tests.api.neighbours import ask_as, name_of, neighbours, refusal, settle
from tests.api.support_rooms import Client, Network, Place
from tests.api.support_users import Answer, answer_of, at

ONE, TWO = name_of(1), name_of(2)
#: The identity server's key.
IDENTITY = SigningKey("0", b"i" * 32)
#: Signs as well, but has its validity asked elsewhere.
EPHEMERAL = SigningKey("1", b"e" * 32)
TOKEN = "abc123"
VALIDITY = "https://id.example/isvalid"


def asked_at(key: SigningKey = IDENTITY, url: str = VALIDITY) -> str:
    """Where a server asks whether a key is still valid."""
    return f"{url}?public_key={quote(key.public, safe='')}"


def a_network(valid: object = True) -> Network:
    """A network in which the identity server says so of its key."""
    network = Network()
    network.pages[asked_at()] = says({"valid": valid})
    return network


def says(body: object, status: int = 200) -> TransportAnswer:
    return TransportAnswer(status, {}, orjson.dumps(body))


def signed(user_id: str, key: SigningKey = IDENTITY, token: str = TOKEN) -> dict[str, Any]:
    """What an identity server says of a user."""
    return sign_json({"mxid": user_id, "token": token}, "id.example", key)


async def a_room(alice: Client, **fields: Any) -> str:
    """A room in which an invite to an address waits."""
    room_id = await alice.create(preset="private_chat", **fields)
    content = {
        "display_name": "b...@...",
        "public_key": IDENTITY.public,
        "key_validity_url": VALIDITY,
    }
    await alice.set_state(room_id, "m.room.third_party_invite", content, TOKEN)
    return room_id


async def onbind(place: Place, body: dict[str, Any], method: str = "PUT") -> Answer:
    """What an identity server sends, unsigned."""
    path = "/_matrix/federation/v1/3pid/onbind"
    request = Request(method, path, "", {}, orjson.dumps(body), "192.0.2.7", frozenset({"federation"}))
    return answer_of(place.app.router, request, await place.app.handle(request))


def notice(user_id: str, room_id: str, sender: str, **changes: Any) -> dict[str, Any]:
    """A notice that an address is now a user's."""
    address = {"medium": "email", "address": "bob@example.org", "mxid": user_id}
    invite = {**address, "room_id": room_id, "sender": sender, "signed": signed(user_id)}
    return {**address, "invites": [invite], **changes}


@pytest.mark.parametrize("version", ["1", "11", "12"])
async def test_a_user_elsewhere(tmp_path: Path, version: str) -> None:
    async with neighbours(tmp_path, network=a_network()) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await a_room(alice, room_version=version)
        method = "PUT" if version == "1" else "POST"
        (await onbind(there, notice(bob.user_id, room_id, alice.user_id), method)).ok()
        assert room_id in (await bob.sync())["rooms"]["invite"]
        await bob.join(room_id)
        await settle(here, there)
        member = (await alice.ask("GET", at("rooms", room_id, "state", "m.room.member", bob.user_id))).ok()
        assert member["membership"] == "join"


async def test_a_user_of_a_server_that_is_in_the_room(tmp_path: Path) -> None:
    """It writes the invite itself, in the name of whoever invited; the others take it."""
    async with neighbours(tmp_path, network=a_network()) as (here, there):
        alice, (bob, ben) = await here.client("alice"), await there.clients("bob", "ben")
        room_id = await a_room(alice)
        await alice.treat(room_id, "invite", ben)
        await ben.join(room_id)
        await settle(here, there)
        (await onbind(there, notice(bob.user_id, room_id, alice.user_id))).ok()
        await settle(here, there)
        assert room_id in (await bob.sync())["rooms"]["invite"]
        member = (await alice.ask("GET", at("rooms", room_id, "state", "m.room.member", bob.user_id))).ok()
        assert member["membership"] == "invite"
        assert member["third_party_invite"]["display_name"] == "b...@..."


async def test_notices_that_are_refused(tmp_path: Path) -> None:
    async with neighbours(tmp_path, network=a_network()) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await a_room(alice)
        good = notice(bob.user_id, room_id, alice.user_id)
        invite = good["invites"][0]
        (await onbind(there, {**good, "mxid": alice.user_id})).failed(404, "M_NOT_FOUND")
        (await onbind(there, {**good, "mxid": f"@nobody:{TWO}"})).failed(404, "M_NOT_FOUND")
        (await onbind(there, {"mxid": bob.user_id})).failed(400, "M_MISSING_PARAM")
        (await onbind(there, {**good, "invites": [invite] * 30})).failed(400, "M_BAD_JSON")
        for change in ({"room_id": 3}, {"sender": "x"}, {"signed": None}, {"signed": {"mxid": bob.user_id}}):
            (await onbind(there, {**good, "invites": [{**invite, **change}]})).failed(400, "M_BAD_JSON")
        other = {**invite, "signed": signed(alice.user_id)}
        (await onbind(there, {**good, "invites": [other]})).failed(400, "M_INVALID_PARAM")
        # By another's key, of another token, from somebody who did not invite: nothing comes of it.
        for change in (
            {"signed": signed(bob.user_id, SigningKey("0", b"x" * 32))},
            {"signed": signed(bob.user_id, token="other")},
            {"sender": f"@amy:{ONE}"}, {"room_id": "!nothing:192.0.2.1:1"}, {"sender": "@eve:192.0.2.1:9"},
        ):  # fmt: skip
            (await onbind(there, {**good, "invites": [{**invite, **change}]})).ok()
        assert (await bob.sync())["rooms"].get("invite", {}) == {}


async def test_exchanges_that_are_refused(tmp_path: Path) -> None:
    async with neighbours(tmp_path, network=a_network()) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await a_room(alice)
        path = at("v1", "exchange_third_party_invite", room_id)
        third = {"display_name": "me", "signed": signed(bob.user_id)}
        good = {
            "type": "m.room.member", "room_id": room_id, "sender": alice.user_id, "state_key": bob.user_id,
            "content": {"membership": "invite", "third_party_invite": third},
        }  # fmt: skip
        changes: tuple[dict[str, Any], ...] = (
            {"type": "m.room.name"}, {"room_id": "!other:192.0.2.1:1"}, {"sender": bob.user_id},
            {"content": {}},
            {"state_key": alice.user_id}, {"content": {"membership": "join", "third_party_invite": third}},
        )  # fmt: skip
        for change in changes:
            status = await refusal(ask_as(there, ONE, "PUT", path, {**good, **change}))
            assert status == (400, "M_INVALID_PARAM"), change
        forged = {"display_name": "", "signed": signed(bob.user_id, SigningKey("0", b"x" * 32))}
        body = {**good, "content": {"membership": "invite", "third_party_invite": forged}}
        assert await refusal(ask_as(there, ONE, "PUT", path, body)) == (403, "M_FORBIDDEN")
        unknown = at("v1", "exchange_third_party_invite", "!nothing:192.0.2.1:1")
        body = {**good, "room_id": "!nothing:192.0.2.1:1"}
        assert await refusal(ask_as(there, ONE, "PUT", unknown, body)) == (404, "M_NOT_FOUND")
        assert await ask_as(there, ONE, "PUT", path, good) == {}
        assert room_id in (await bob.sync())["rooms"]["invite"]


@pytest.mark.parametrize(
    "answer",
    [
        says({"valid": False}), says({"valid": "true"}), says({}), says({"valid": True}, 500), says([True]),
        None,
    ],
)  # fmt: skip
async def test_a_key_that_is_not_valid_any_more(tmp_path: Path, answer: TransportAnswer | None) -> None:
    network = Network()
    async with neighbours(tmp_path, network=network) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await a_room(alice)
        path = at("v1", "exchange_third_party_invite", room_id)
        body = {
            "type": "m.room.member", "room_id": room_id, "sender": alice.user_id, "state_key": bob.user_id,
            "content": {"membership": "invite", "third_party_invite": {"signed": signed(bob.user_id)}},
        }  # fmt: skip
        if answer is not None:
            network.pages[asked_at()] = answer
        assert await refusal(ask_as(there, ONE, "PUT", path, body)) == (403, "M_FORBIDDEN")
        network.pages[asked_at()] = says({"valid": True})
        assert await refusal(ask_as(there, ONE, "PUT", path, body)) == (200, None)


async def test_which_key_is_asked_about(tmp_path: Path) -> None:
    """That which signed, at its own URL; one without a URL is valid for ever."""
    network = Network()
    async with neighbours(tmp_path, network=network) as (here, there):
        alice, (bob, ben) = await here.client("alice"), await there.clients("bob", "ben")
        room_id = await alice.create(preset="private_chat")
        lasting = SigningKey("2", b"l" * 32)
        for token, url in (("t1", f"{VALIDITY}?of=short#x"), ("t2", "https://[not a url"), ("t3", 5)):
            content = {
                "display_name": "", "public_key": IDENTITY.public, "key_validity_url": VALIDITY,
                "public_keys": [
                    {"public_key": EPHEMERAL.public, "key_validity_url": url},
                    {"public_key": lasting.public},
                ],
            }  # fmt: skip
            await alice.set_state(room_id, "m.room.third_party_invite", content, token)

        async def invited(client: Client, key: SigningKey, token: str = "t1") -> bool:
            invite = notice(client.user_id, room_id, alice.user_id)["invites"][0]
            invite["signed"] = signed(client.user_id, key, token)
            (await onbind(there, notice(client.user_id, room_id, alice.user_id, invites=[invite]))).ok()
            return room_id in (await client.sync())["rooms"].get("invite", {})

        network.pages[asked_at()] = says({"valid": True})
        for token in ("t1", "t2", "t3"):
            assert not await invited(bob, EPHEMERAL, token)
        network.pages.clear()
        network.pages[f"{VALIDITY}?of=short&public_key={quote(EPHEMERAL.public, safe='')}"] = says(
            {"valid": True}
        )
        assert not await invited(bob, IDENTITY)
        assert await invited(bob, EPHEMERAL)
        assert await invited(ben, lasting)

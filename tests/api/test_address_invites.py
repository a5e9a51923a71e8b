"""Inviting whoever has an address (client-server §Third-party invites)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.identity_server import NAME, TOKEN, IdentityServer
from tests.api.support_email import MailPlace, mail_place
from tests.api.support_rooms import Client
from tests.api.support_users import Answer, at

ADDRESS = "carol@mail.example"
WHOM = {"id_server": NAME, "id_access_token": TOKEN, "medium": "email", "address": "Carol@Mail.example"}


@pytest.fixture
def identity() -> IdentityServer:
    return IdentityServer()


@pytest.fixture
async def here(tmp_path: Path, identity: IdentityServer) -> AsyncIterator[MailPlace]:
    async with mail_place(tmp_path, outbound=identity) as opened:
        yield opened


@pytest.fixture
async def alice(here: MailPlace) -> Client:
    return await here.client("alice")


async def invite(client: Client, room_id: str, **changed: Any) -> Answer:
    body = {name: value for name, value in {**WHOM, **changed}.items() if value is not None}
    return await client.ask("POST", at("rooms", room_id, "invite"), body)


async def state(client: Client, room_id: str, event_type: str) -> list[dict[str, Any]]:
    events = (await client.ask("GET", at("rooms", room_id, "state"))).ok()
    return [event for event in events if event["type"] == event_type]


async def test_an_address_that_is_a_user_s(here: MailPlace, alice: Client, identity: IdentityServer) -> None:
    carol = await here.client("carol")
    identity.bound[ADDRESS] = carol.user_id
    room_id = await alice.create(preset="private_chat")
    (await invite(alice, room_id, reason="Come!")).ok()
    assert [path for path, _ in identity.asked] == ["/hash_details", "/lookup"]
    assert room_id in (await carol.sync())["rooms"]["invite"]
    (member,) = [
        event["content"]
        for event in await state(alice, room_id, "m.room.member")
        if event["state_key"] == carol.user_id
    ]
    assert (member["membership"], member["reason"]) == ("invite", "Come!")


async def test_an_address_that_is_nobody_s_yet(alice: Client, identity: IdentityServer) -> None:
    (await alice.ask("PUT", at("profile", alice.user_id, "displayname"), {"displayname": "Alice"})).ok()
    room_id = await alice.create(preset="private_chat", name="Tea", creation_content={"type": "m.space"})
    (await invite(alice, room_id)).ok()
    assert identity.stored == [
        {
            "medium": "email", "address": ADDRESS, "room_id": room_id, "sender": alice.user_id,
            "room_name": "Tea", "room_type": "m.space", "room_join_rules": "invite",
            "sender_display_name": "Alice",
        }
    ]  # fmt: skip
    (event,) = await state(alice, room_id, "m.room.third_party_invite")
    url = f"https://{NAME}/_matrix/identity/v2/pubkey"
    keys = [
        {"public_key": "lasting", "key_validity_url": f"{url}/isvalid"},
        {"public_key": "ephemeral", "key_validity_url": f"{url}/ephemeral/isvalid"},
    ]
    assert event["state_key"] == "token1"
    assert event["content"] == {"display_name": "c...@...", **keys[0], "public_keys": keys}


async def test_who_may_not_invite_asks_nobody(
    here: MailPlace, alice: Client, identity: IdentityServer
) -> None:
    bob = await here.client("bob")
    room_id = await alice.create(power_level_content_override={"invite": 50})
    (await invite(bob, room_id)).failed(403, "M_FORBIDDEN")
    await bob.join(room_id)
    (await invite(bob, room_id)).failed(403, "M_FORBIDDEN")
    (await invite(bob, "!nowhere:example.org")).failed(403, "M_FORBIDDEN")
    assert identity.asked == []
    assert await state(alice, room_id, "m.room.third_party_invite") == []


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"address": None}, "M_MISSING_PARAM"),
        ({"id_server": None}, "M_MISSING_PARAM"),
        ({"id_access_token": None}, "M_MISSING_PARAM"),
        ({"medium": 5}, "M_BAD_JSON"),
        ({"medium": "fax"}, "M_INVALID_PARAM"),
        ({"address": "carol"}, "M_INVALID_PARAM"),
        ({"id_server": "id.example/"}, "M_INVALID_PARAM"),
    ],
)
async def test_invites_that_make_no_sense(
    alice: Client, identity: IdentityServer, changed: dict[str, Any], code: str
) -> None:
    room_id = await alice.create()
    (await invite(alice, room_id, **changed)).failed(400, code)
    assert identity.asked == []


async def test_an_identity_server_that_makes_no_sense(alice: Client, identity: IdentityServer) -> None:
    room_id = await alice.create()
    cases = [
        ("/hash_details", b'{"lookup_pepper":"p","algorithms":["none"]}'),
        ("/hash_details", b"{}"),
        ("/lookup", b"{}"),
        ("/store-invite", b'{"token":"t","display_name":"c","public_keys":[]}'),
        ("/store-invite", b'{"token":"t","display_name":"c","public_keys":[{"public_key":"k"}]}'),
        ("/store-invite", b'{"token":"","display_name":"c","public_keys":[]}'),
    ]
    for path, body in cases:
        identity.instead = {path: (200, body)}
        (await invite(alice, room_id)).failed(502, "M_UNKNOWN")
    identity.instead = {"/store-invite": (400, b'{"errcode":"M_THREEPID_IN_USE","error":"Taken"}')}
    (await invite(alice, room_id)).failed(400, "M_THREEPID_IN_USE")
    (await invite(alice, room_id, id_access_token="other")).failed(403, "M_UNAUTHORIZED")
    (await invite(alice, room_id, id_server="other.example")).failed(502, "M_UNKNOWN")
    assert await state(alice, room_id, "m.room.third_party_invite") == []


async def test_a_new_room_for_addresses(here: MailPlace, alice: Client, identity: IdentityServer) -> None:
    carol = await here.client("carol")
    identity.bound[ADDRESS] = carol.user_id
    others = [{**WHOM, "address": "dan@mail.example"}, {**WHOM, "id_server": "other.example"}]
    room_id = await alice.create(preset="private_chat", is_direct=True, invite_3pid=[WHOM, *others])
    assert room_id in (await carol.sync())["rooms"]["invite"]
    assert len(await state(alice, room_id, "m.room.third_party_invite")) == 1
    answer = await alice.ask("POST", "/createRoom", {"invite_3pid": [WHOM] * 20})
    answer.failed(400, "M_INVALID_PARAM")
    answer = await alice.ask("POST", "/createRoom", {"invite_3pid": [{**WHOM, "address": "carol"}]})
    answer.failed(400, "M_INVALID_PARAM")


async def test_invites_by_address_are_limited(tmp_path: Path, identity: IdentityServer) -> None:
    limits = "[rate_limits]\nidentity_servers = { per_second = 0.001, burst = 2 }\n"
    async with mail_place(tmp_path, outbound=identity, limits=limits) as here:
        alice = await here.client("alice")
        room_id = await alice.create()
        for _ in range(2):
            (await invite(alice, room_id)).ok()
        (await invite(alice, room_id)).failed(429, "M_LIMIT_EXCEEDED")

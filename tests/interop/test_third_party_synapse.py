"""Invites to addresses, between two servers of different make and an identity server that both ask.

A user of either invites an address through their own server. What follows is the servers' own affair, in
both directions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.interop.agreement import same_state
from tests.interop.authority import Authority
from tests.interop.client import ApiError, Client, MakeUser
from tests.interop.identity import V2, IdentityServer, account_of, masked, serve_identity
from tests.interop.process import free_port
from tests.interop.servers import Pair
from tests.interop.waiting import eventually
from tests.interop.wire import Signer

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("interop-rooms")]

KIND = "m.room.third_party_invite"


@pytest.fixture
async def identity(authority: Authority) -> AsyncIterator[IdentityServer]:
    async with serve_identity(authority) as server:
        yield server


def address_of(client: Client) -> str:
    return f"{client.user_id[1:].partition(':')[0]}@example.org"


async def invite_address(client: Client, room: str, identity: IdentityServer, address: str) -> None:
    """Invite whoever has the address; the room then holds the invite."""
    token = await account_of(client, identity)
    assert identity.accounts[token] == client.user_id
    body = {"id_server": identity.name, "id_access_token": token, "medium": "email", "address": address}
    await client.call("POST", "rooms", room, "invite", body=body)


async def invites_of(client: Client) -> set[str]:
    await client.sync()
    return set(client.invites)


@pytest.mark.parametrize("kind", ["1", "6", "11", "12"])
async def test_whose_server_is_not_in_the_room(
    pair: Pair, alice: Client, bob: Client, identity: IdentityServer, kind: str
) -> None:
    room = await alice.create_room(kind, "private_chat", name="Club")
    await invite_address(alice, room, identity, address_of(bob))
    (kept,) = identity.stored
    pending = await alice.state_content(room, KIND, kept.token)
    assert pending["display_name"] == masked(address_of(bob))
    identity.asked.clear()
    answer = await identity.bind(address_of(bob), bob.user_id)
    assert (answer.status, answer.body) == (200, {})
    await bob.follow(lambda: room in bob.invites, "the invite")
    # client-server §Third-party invites: the inviting server asks whether the keys are still valid.
    assert f"GET {V2}/pubkey/isvalid" in identity.asked
    member = await alice.state_content(room, "m.room.member", bob.user_id)
    assert member["membership"] == "invite"
    assert member["third_party_invite"]["display_name"] == masked(address_of(bob))
    assert member["third_party_invite"]["signed"]["mxid"] == bob.user_id
    await bob.join(room)
    await same_state(room, alice, bob)
    await bob.send(room, "found")
    await alice.hears(room, "found")


@pytest.mark.parametrize("kind", ["1", "11", "12"])
async def test_whose_server_is_in_the_room(
    pair: Pair, alice: Client, bob: Client, user: MakeUser, identity: IdentityServer, kind: str
) -> None:
    """Their own server writes the invite, in the name of whoever invited."""
    ben = await user(pair.guest, "ben")
    room = await alice.create_room(kind, "private_chat")
    await alice.invite(room, ben.user_id)
    await ben.follow(lambda: room in ben.invites, "the invite")
    await ben.join(room)
    await same_state(room, alice, ben)
    await invite_address(alice, room, identity, address_of(bob))
    (kept,) = identity.stored
    await eventually(lambda: _pending(ben, room, kept.token), "the third-party invite at the guest's")
    assert (await identity.bind(address_of(bob), bob.user_id)).status == 200
    await bob.follow(lambda: room in bob.invites, "the invite")
    await eventually(lambda: _is_invited(alice, room, bob), "the invite at the host")
    await bob.join(room)
    await same_state(room, alice, bob, ben)


async def _pending(client: Client, room: str, token: str) -> bool:
    try:
        return bool(await client.state_content(room, KIND, token))
    except ApiError as error:
        assert error.status != 404, error
        raise


async def _is_invited(viewer: Client, room: str, whom: Client) -> bool:
    return await viewer.membership(room, whom.user_id) == "invite"


async def test_that_nobody_has_signed(
    pair: Pair, alice: Client, bob: Client, identity: IdentityServer
) -> None:
    room = await alice.create_room("11", "private_chat")
    await invite_address(alice, room, identity, address_of(bob))
    impostor = Signer(identity.name, identity.signer.key_id)
    await identity.bind(address_of(bob), bob.user_id, impostor)
    assert room not in await invites_of(bob)
    assert await alice.membership(room, bob.user_id) == ""
    await identity.bind(address_of(bob), bob.user_id)
    await bob.follow(lambda: room in bob.invites, "the invite")


async def test_whose_keys_are_no_longer_valid(
    pair: Pair, alice: Client, bob: Client, identity: IdentityServer
) -> None:
    room = await alice.create_room("11", "private_chat")
    await invite_address(alice, room, identity, address_of(bob))
    identity.revoked = {identity.signer.public, *identity.ephemeral}
    await identity.bind(address_of(bob), bob.user_id)
    assert room not in await invites_of(bob)
    assert await alice.membership(room, bob.user_id) == ""
    identity.revoked.clear()
    # Synapse leaves a server in peace for a moment after such an answer of another Synapse.
    await eventually(lambda: _binds(identity, room, bob), "the invite")


async def test_whose_identity_server_cannot_be_asked(
    pair: Pair, alice: Client, bob: Client, identity: IdentityServer
) -> None:
    """It is refused in a way that does not make the asking server take the other for down."""
    room = await alice.create_room("11", "private_chat")
    await invite_address(alice, room, identity, address_of(bob))
    token = identity.stored[0].token
    good = await alice.state_content(room, KIND, token)
    elsewhere = f"https://localhost:{free_port()}{V2}/pubkey/isvalid"
    await alice.set_state(room, KIND, {**good, "key_validity_url": elsewhere, "public_keys": []}, token)
    assert not await _binds(identity, room, bob)
    await alice.set_state(room, KIND, good, token)
    if pair.host.software == "synapse":
        await eventually(lambda: _binds(identity, room, bob), "the invite")
    else:
        assert await _binds(identity, room, bob)


async def _binds(identity: IdentityServer, room: str, client: Client) -> bool:
    """Tell the user's server whose their address is; whether they are invited then."""
    await identity.bind(address_of(client), client.user_id)
    return room in await invites_of(client)


async def test_that_is_withdrawn(pair: Pair, alice: Client, bob: Client, identity: IdentityServer) -> None:
    """A third-party invite without content is one no longer (client-server §m.room.third_party_invite)."""
    room = await alice.create_room("11", "private_chat")
    await invite_address(alice, room, identity, address_of(bob))
    await alice.set_state(room, KIND, {}, identity.stored[0].token)
    await identity.bind(address_of(bob), bob.user_id)
    assert room not in await invites_of(bob)
    assert await alice.membership(room, bob.user_id) == ""


@pytest.mark.parametrize("kind", ["1", "11", "12"])
async def test_with_which_a_user_joins(
    pair: Pair, alice: Client, bob: Client, identity: IdentityServer, kind: str
) -> None:
    """POST join with `third_party_signed`, where no identity server has told the homeserver."""
    room = await alice.create_room(kind, "private_chat")
    await invite_address(alice, room, identity, address_of(bob))
    signed = identity.signed(identity.stored[0], bob.user_id)
    query = {"via": pair.host.name, "server_name": pair.host.name}
    await bob.call("POST", "join", room, body={"third_party_signed": signed}, query=query)
    await same_state(room, alice, bob)

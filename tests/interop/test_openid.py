"""Who a user is, for whoever has their OpenID token: asked of both servers as an identity server asks.

Neither server has anything that makes it ask the other: the one that asks is an identity server, or
comity's own call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from comity.federation.availability import Availability
from comity.federation.client import FederationClient
from comity.federation.discoverer import Discoverer
from comity.federation.errors import FederationError
from comity.federation.user_calls import UserCalls
from comity.net.http_client import HttpsTransport
from comity.protocol.signing import SigningKey
from tests.federation.doors import FixedEntropy, ManualClock, TableResolver
from tests.interop.authority import Authority
from tests.interop.client import ApiError, Client, Json, request
from tests.interop.identity import V2, account_of, serve_identity
from tests.interop.servers import Pair

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("interop-rooms")]


async def token_of(client: Client) -> Json:
    return await client.call("POST", "user", client.user_id, "openid", "request_token", body={})


@pytest.fixture
async def calls(authority: Authority) -> AsyncIterator[UserCalls]:
    """comity's calls to other servers, from no server: what is asked needs no signature."""
    clock, entropy = ManualClock(), FixedEntropy()
    transport = HttpsTransport(
        trusted_ca=[authority.ca], verify_certificates=True, allow_ranges=["127.0.0.0/8", "::1/128"],
        user_agent="comity-test",
    )  # fmt: skip
    await transport.open()
    discoverer = Discoverer(transport, TableResolver(), clock, entropy)
    key = SigningKey("1", bytes(32))
    client = FederationClient(discoverer, transport, clock, "own.example", key, Availability(clock, entropy))
    yield UserCalls(client)
    await transport.close()


async def test_comity_asks(pair: Pair, bob: Client, calls: UserCalls) -> None:
    given = await token_of(bob)
    assert given["matrix_server_name"] == pair.guest.name
    assert await calls.openid_userinfo(pair.guest.name, given["access_token"]) == bob.user_id
    with pytest.raises(FederationError) as refused:
        await calls.openid_userinfo(pair.guest.name, "no token of anybody")
    assert (refused.value.status, refused.value.code) == (401, "M_UNKNOWN_TOKEN")


async def test_an_identity_server_asks(pair: Pair, alice: Client, bob: Client, authority: Authority) -> None:
    async with serve_identity(authority) as identity:
        for client in (alice, bob):
            token = await account_of(client, identity)
            url = f"https://{identity.name}"
            told = await request(identity.http, "GET", url, f"{V2}/account", token=token)
            assert told == {"user_id": client.user_id}
            # A token of the client-server API is not one.
            body = {**await token_of(client), "access_token": client.token}
            with pytest.raises(ApiError) as refused:
                await request(identity.http, "POST", url, f"{V2}/account/register", body=body)
            assert refused.value.status == 401

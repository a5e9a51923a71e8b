"""The calls about users: what they ask, and what they do not take for an answer."""

from __future__ import annotations

import pytest

from comity.federation.client import FederationError, path
from comity.federation.user_calls import UserCalls
from comity.protocol.signing import SigningKey
from tests.federation.conftest import Side
from tests.federation.peer_server import PeerServer

V1 = "/_matrix/federation/v1"


@pytest.fixture
def calls(side: Side) -> UserCalls:
    return UserCalls(side.client)


async def test_devices_and_keys(calls: UserCalls, peer: PeerServer, own_key: SigningKey) -> None:
    user_id = f"@a:{peer.name}"
    listed = {"user_id": user_id, "stream_id": 1, "devices": []}
    peer.on("GET", path(f"{V1}/user/devices", user_id), 200, listed)
    assert await calls.devices(peer.name, user_id) == listed
    peer.on("POST", f"{V1}/user/keys/query", 200, {"device_keys": {}})
    assert await calls.query_keys(peer.name, {user_id: []}, 5.0) == {"device_keys": {}}
    peer.on("POST", f"{V1}/user/keys/claim", 200, {"one_time_keys": {}})
    assert await calls.claim_keys(peer.name, {user_id: {"D": "x"}}, 5.0) == {"one_time_keys": {}}
    assert [request.method for request in peer.received] == ["GET", "POST", "POST"]
    assert all(request.is_signed_by(own_key.public, peer.name) for request in peer.received)


async def test_a_token_stands_for_a_user_of_the_server_that_was_asked(
    calls: UserCalls, peer: PeerServer
) -> None:
    where = f"{V1}/openid/userinfo"
    peer.on("GET", where, 200, {"sub": f"@a:{peer.name}"})
    assert await calls.openid_userinfo(peer.name, "to&ken") == f"@a:{peer.name}"
    assert peer.received[0].target == f"{where}?access_token=to%26ken"
    assert "authorization" not in peer.received[0].headers
    for answer in ({}, {"sub": 7}, {"sub": "@a:other.example"}, {"sub": "a"}):
        peer.on("GET", where, 200, answer)
        with pytest.raises(FederationError, match="sub"):
            await calls.openid_userinfo(peer.name, "token")


async def test_media_are_bounded(calls: UserCalls, peer: PeerServer) -> None:
    peer.on("GET", f"{V1}/media/download/abc", 200, {"x": "y" * 100})
    assert len(await calls.download_media(peer.name, "abc", 1_000)) > 100
    with pytest.raises(FederationError):
        await calls.download_media(peer.name, "abc", 50)

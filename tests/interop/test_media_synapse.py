"""Media between servers: the other server's user asks for a file of ours, and is told that there is none.

comity has no store of media yet, and asks for nobody's.
"""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import ClientSession
from nacl.signing import SigningKey

from tests.interop.client import ApiError, MakeUser, request
from tests.interop.conftest import PAIR
from tests.interop.front import fronted
from tests.interop.peer import Peer
from tests.interop.servers import Homeserver
from tests.interop.wire import Signer, decode_unpadded

pytestmark = [
    pytest.mark.interop,
    pytest.mark.xdist_group("interop-fronts"),
    pytest.mark.skipif(PAIR[1] != "synapse", reason="it is Synapse that asks"),
]

V1 = "/_matrix/client/v1/media"
FEDERATION = "/_matrix/federation/v1/media"


@pytest.mark.parametrize(
    ("what", "query"),
    [("download", {}), ("thumbnail", {"width": 64, "height": 64, "method": "scale"})],
    ids=["download", "thumbnail"],
)
async def test_a_file_that_is_not_there(
    here_fronted: Homeserver, there_fronted: Homeserver, user: MakeUser, what: str, query: dict[str, Any]
) -> None:
    owner, asker = here_fronted, there_fronted
    bob = await user(asker, "bob")
    media_id = "noSuchFile"
    path = f"{V1}/{what}/{owner.name}/{media_id}"
    async with fronted(owner) as front, fronted(asker):
        with pytest.raises(ApiError) as refused:
            await request(bob.http, "GET", asker.base_url, path, token=bob.token, query=query)
    assert (refused.value.status, refused.value.errcode) == (404, "M_NOT_FOUND")
    # Synapse makes thumbnails of others' files itself. The clean answer leaves no reason to ask elsewhere.
    assert front.media == [(f"{FEDERATION}/download/{media_id}", 404)]


async def test_a_thumbnail_that_is_not_there(
    here_fronted: Homeserver, there_fronted: Homeserver, http: ClientSession
) -> None:
    """What Synapse itself never asks for, signed with its key: it vouches for the key that is asked of it."""
    owner, asker = here_fronted, there_fronted
    _, name, seed = (asker.directory / "signing.key").read_text().split()
    signer = Signer(asker.name, f"ed25519:{name}", SigningKey(decode_unpadded(seed)))
    target = f"{FEDERATION}/thumbnail/noSuchFile?width=64&height=64&method=crop"
    async with fronted(owner), fronted(asker):
        answer = await Peer(signer, http).request("GET", owner.name, target)
        stranger = await Peer(Signer(asker.name, signer.key_id), http).request("GET", owner.name, target)
    assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")
    assert stranger.status == 401

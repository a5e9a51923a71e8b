"""Keys: each server tells of the other's as a notary, and a server that changed its key is known again."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.federation.peer_server import canonical, padded
from tests.interop.agreement import same_events, same_state
from tests.interop.authority import Authority
from tests.interop.client import MakeUser
from tests.interop.conftest import PAIR, running
from tests.interop.servers import REPOSITORY, Homeserver, Pair

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("interop-keys")]

ROTATES = pytest.mark.skipif(PAIR[0] != "comity", reason="it is comity's key that is changed")


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory, authority: Authority, engine: str) -> Iterator[Homeserver]:
    """The server under test, apart from that of the other tests: its key changes."""
    yield from running(PAIR[0], tmp_path_factory.mktemp("near"), authority, engine)


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Homeserver]:
    yield from running(PAIR[1], tmp_path_factory.mktemp("far"), authority)


async def document(http: aiohttp.ClientSession, server: Homeserver) -> dict[str, Any]:
    """What a server publishes of its own keys."""
    async with http.get(f"{server.base_url}/_matrix/key/v2/server") as answer:
        found: dict[str, Any] = await answer.json()
        return found


def is_signed(told: dict[str, Any], by: dict[str, Any]) -> bool:
    """Whether a server whose own key document is `by` has signed the document `told`."""
    name = by["server_name"]
    bare = {key: value for key, value in told.items() if key not in ("signatures", "unsigned")}
    for key_id, signature in told["signatures"].get(name, {}).items():
        public = Ed25519PublicKey.from_public_bytes(padded(by["verify_keys"][key_id]["key"]))
        public.verify(padded(signature), canonical(bare))
    return name in told["signatures"]


async def test_each_is_a_notary_of_the_other(pair: Pair, http: aiohttp.ClientSession) -> None:
    notary, other = pair.host, pair.guest
    own, theirs = await document(http, notary), await document(http, other)
    url = f"{notary.base_url}/_matrix/key/v2/query"
    until = {"minimum_valid_until_ts": theirs["valid_until_ts"] - 60_000}
    wanted = dict.fromkeys(theirs["verify_keys"], until)
    body = json.dumps({"server_keys": {other.name: wanted}})
    async with http.post(url, data=body, headers={"Content-Type": "application/json"}) as answer:
        assert answer.status == 200
        (many,) = (await answer.json())["server_keys"]
    async with http.get(f"{url}/{other.name}") as answer:
        assert answer.status == 200
        (one,) = (await answer.json())["server_keys"]
    for told in (one, many):
        assert told["verify_keys"] == theirs["verify_keys"]
        assert is_signed(told, own) and is_signed(told, theirs)


@ROTATES
async def test_a_new_signing_key(
    near: Homeserver, far: Homeserver, user: MakeUser, http: aiohttp.ClientSession
) -> None:
    alice, bob = await user(near, "alice"), await user(far, "bob")
    room = await alice.create_room()
    await alice.sync()
    await bob.sync()
    await bob.join(room, near)
    await alice.send(room, "signed by the old key")
    await bob.hears(room, "signed by the old key")
    before = await document(http, near)

    await asyncio.to_thread(near.process.stop)
    config = near.directory / "comity.toml"
    rotate = [sys.executable, "-m", "comity", "key", "rotate", "--config", str(config)]
    await asyncio.to_thread(subprocess.run, rotate, cwd=REPOSITORY, check=True, capture_output=True)
    await asyncio.to_thread(near.process.start)

    after = await document(http, near)
    assert after["verify_keys"].keys().isdisjoint(before["verify_keys"])
    assert after["old_verify_keys"].keys() == before["verify_keys"].keys()
    await alice.send(room, "signed by the new key")
    await bob.hears(room, "signed by the new key")
    await bob.send(room, "I know you still")
    await alice.hears(room, "I know you still")

    # Somebody who has seen neither key reads what both have signed.
    carol = await user(far, "carol")
    await carol.sync()
    await carol.join(room, near)
    await alice.set_state(room, "m.room.topic", {"topic": "keys"})
    await same_state(room, alice, bob)
    await same_events(room, alice, bob)

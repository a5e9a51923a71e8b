"""What other servers ask that no room has part in: who answers, and the keys of users' devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comity import __version__
from tests.api.neighbours import ask_as, name_of, neighbours

QUERY = "/v1/user/keys/query"


async def test_the_version(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (here, _):
        answer = await ask_as(here, name_of(2), "GET", "/v1/version")
        assert answer == {"server": {"name": "comity", "version": __version__}}


async def test_identity_keys(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (here, there):
        bob = await there.client("bob")
        device_id = (await bob.ask("GET", "/account/whoami")).ok()["device_id"]
        keys: dict[str, Any] = {
            "user_id": bob.user_id,
            "device_id": device_id,
            "algorithms": ["m.megolm.v1.aes-sha2"],
            "keys": {f"ed25519:{device_id}": "key"},
            "signatures": {bob.user_id: {f"ed25519:{device_id}": "signature"}},
        }
        (await bob.ask("POST", "/keys/upload", {"device_keys": keys})).ok()
        nobody = f"@nobody:{name_of(2)}"
        wanted: dict[str, Any] = {"device_keys": {bob.user_id: [], nobody: []}}
        answer = await ask_as(here, name_of(2), "POST", QUERY, wanted)
        assert answer["device_keys"][bob.user_id] == {device_id: keys}
        assert not answer["device_keys"].get(nobody)

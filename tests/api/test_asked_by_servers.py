"""What other servers ask that no room has part in: who answers, and the keys of users' devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comity import __version__
from tests.api.neighbours import ask_as, name_of, neighbours, refusal
from tests.api.support_users import at

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


async def test_what_is_missing_by_a_server_that_has_many_ends(tmp_path: Path) -> None:
    """A server names all the ends that the room's graph has where it is: they can be hundreds."""
    async with neighbours(tmp_path) as (here, there):
        bob, alice = await there.client("bob"), await here.client("alice")
        room_id = await bob.create()
        await alice.join(room_id, via=name_of(2))
        first, _, third = await bob.say_all(room_id, "one", "two", "three")
        ends = [f"${index:043}" for index in range(1_000)]
        path = at("v1", "get_missing_events", room_id)
        wanted = {"earliest_events": [*ends, first], "latest_events": [third]}
        answer = await ask_as(here, name_of(2), "POST", path, wanted)
        assert [event["content"]["body"] for event in answer["events"]] == ["two"]
        wanted = {"earliest_events": [first], "latest_events": [third, *ends]}
        assert await refusal(ask_as(here, name_of(2), "POST", path, wanted)) == (400, "M_BAD_JSON")

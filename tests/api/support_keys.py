"""One-time keys of devices, for tests of what is told of them: uploaded and claimed as clients do it."""

from __future__ import annotations

from typing import Any

from tests.api.support_rooms import Client

KIND = "signed_curve25519"


async def device_of(client: Client) -> str:
    """The id of a client's device."""
    device_id: str = (await client.ask("GET", "/account/whoami")).ok()["device_id"]
    return device_id


async def device_keys_of(client: Client) -> dict[str, Any]:
    """Identity keys of a client's device, as it would upload them."""
    device_id = await device_of(client)
    keys = {f"{kind}:{device_id}": kind for kind in ("curve25519", "ed25519")}
    return {
        "user_id": client.user_id,
        "device_id": device_id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": keys,
        "signatures": {client.user_id: {f"ed25519:{device_id}": "signature"}},
    }


async def give_keys(client: Client, *names: str) -> None:
    """Upload one-time keys of these names, and a fallback key."""
    keys = {f"{KIND}:{name}": {"key": name, "signatures": {}} for name in names}
    fallback = {f"{KIND}:fallback": {"key": "fallback", "fallback": True, "signatures": {}}}
    (await client.ask("POST", "/keys/upload", {"one_time_keys": keys, "fallback_keys": fallback})).ok()


async def claim_key(client: Client, other: Client) -> None:
    """Take a key of the other's device."""
    wanted = {other.user_id: {await device_of(other): KIND}}
    claimed = (await client.ask("POST", "/keys/claim", {"one_time_keys": wanted})).ok()
    assert claimed["one_time_keys"].keys() == {other.user_id}

"""One-time keys of devices, for tests of what is told of them: uploaded and claimed as clients do it."""

from __future__ import annotations

from tests.api.support_rooms import Client

KIND = "signed_curve25519"


async def device_of(client: Client) -> str:
    """The id of a client's device."""
    device_id: str = (await client.ask("GET", "/account/whoami")).ok()["device_id"]
    return device_id


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

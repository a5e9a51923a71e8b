"""The shape of keys that come from elsewhere: what is kept of them, as JSON text.

client-server §Key management API, §Cross-signing. Nothing here raises but for keys of our own users.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from comity.protocol.errors import bad_json, invalid_param, missing_param
from comity.protocol.event import decode_base64
from comity.protocol.identifiers import is_user_id
from comity.users.text import checked_text

#: One-time keys in one upload; clients keep about 50 to 100 in stock.
MAX_ONE_TIME_KEYS = 500
#: The JSON of one device's identity keys, signatures included; of a key for signing too.
MAX_IDENTITY_BYTES = 64 * 1024
#: The JSON of one one-time key.
MAX_KEY_BYTES = 4 * 1024
#: Users or devices asked about in one request.
MAX_QUERIED = 10_000


def wanted_users(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    """user id -> what is asked of them. Raises 400 M_MISSING_PARAM, M_BAD_JSON or M_INVALID_PARAM."""
    wanted = body.get(name)
    if wanted is None:
        raise missing_param(f"The request body lacks {name}")
    if not isinstance(wanted, dict) or not all(is_user_id(user_id) for user_id in wanted):
        raise bad_json(f"{name} is not a map of user ids")
    asked = sum(len(part) for part in wanted.values() if isinstance(part, list | dict))
    if max(asked, len(wanted)) > MAX_QUERIED:
        raise invalid_param(f"{name} asks for more than {MAX_QUERIED} at once")
    return wanted


def wanted_devices(body: Mapping[str, Any]) -> dict[str, list[str]]:
    """`device_keys` of a query: user id -> device ids (none: all). Raises as `wanted_users`."""
    wanted = wanted_users(body, "device_keys")
    for devices in wanted.values():
        if not isinstance(devices, list) or not all(isinstance(device, str) for device in devices):
            raise bad_json("device_keys has a value that is not a list of device ids")
    return wanted


def wanted_algorithms(body: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """`one_time_keys` of a claim: user id -> device id -> algorithm. Raises as `wanted_users`."""
    wanted = wanted_users(body, "one_time_keys")
    for devices in wanted.values():
        if not isinstance(devices, dict) or not all(isinstance(value, str) for value in devices.values()):
            raise bad_json("one_time_keys is not a map of users to maps of devices to algorithms")
    return wanted


def checked_identity(user_id: str, device_id: str, keys: object) -> str | None:
    """The JSON text of `device_keys`, if it is there and the requester's own. Raises 400."""
    if keys is None:
        return None
    if not isinstance(keys, dict):
        raise bad_json("device_keys is not a JSON object")
    if keys.get("user_id") != user_id or keys.get("device_id") != device_id:
        raise invalid_param("device_keys is not of the user and device that upload it")
    if not isinstance(keys.get("algorithms"), list) or not isinstance(keys.get("keys"), dict):
        raise bad_json("device_keys lacks algorithms or keys")
    if not isinstance(keys.get("signatures"), dict):
        raise bad_json("device_keys lacks signatures")
    text = orjson.dumps({name: value for name, value in keys.items() if name != "unsigned"})
    if len(text) > MAX_IDENTITY_BYTES:
        raise invalid_param(f"device_keys has more than {MAX_IDENTITY_BYTES} bytes")
    return text.decode()


def checked_keys(keys: object, what: str) -> Iterable[tuple[str, str, str]]:
    """(algorithm, key id, JSON text) of each member of `one_time_keys` or `fallback_keys`. Raises 400."""
    if keys is None:
        return
    if not isinstance(keys, dict) or len(keys) > MAX_ONE_TIME_KEYS:
        raise bad_json(f"{what} is not a JSON object of at most {MAX_ONE_TIME_KEYS} keys")
    for name, key in keys.items():
        algorithm, colon, key_id = checked_text(name, f"A name in {what}").partition(":")
        if not colon or not algorithm or not key_id:
            raise invalid_param(f"A name in {what} is not of the form algorithm:id")
        if not isinstance(key, str) and not (isinstance(key, dict) and isinstance(key.get("key"), str)):
            raise bad_json(f"A value in {what} is neither a key nor an object with one")
        text = orjson.dumps(key)
        if len(text) > MAX_KEY_BYTES:
            raise invalid_param(f"A key in {what} has more than {MAX_KEY_BYTES} bytes")
        yield algorithm, key_id, text.decode()


def with_name(json: str, name: str | None) -> orjson.Fragment:
    """Identity keys as they are shown: the stored text, which has no `unsigned`, with one at its end."""
    if not name:
        return orjson.Fragment(json)
    return orjson.Fragment(
        f'{json[:-1]},"unsigned":{{"device_display_name":{orjson.dumps(name).decode()}}}}}'
    )


def remote_identity(user_id: str, device_id: str, keys: object) -> str | None:
    """The JSON text of another server's user's identity keys; None for what is none."""
    if not isinstance(keys, dict) or (keys.get("user_id"), keys.get("device_id")) != (user_id, device_id):
        return None
    if not isinstance(keys.get("keys"), dict):
        return None
    text = orjson.dumps({name: value for name, value in keys.items() if name != "unsigned"})
    return text.decode() if len(text) <= MAX_IDENTITY_BYTES else None


def signing_key(user_id: str, usage: str, key: object) -> str | None:
    """The JSON text of a key of that usage, if it is one of the user's; None for what is none."""
    if not isinstance(key, dict) or key.get("user_id") != user_id:
        return None
    usages = key.get("usage")
    if not isinstance(usages, list) or usage not in usages or public_keys(key) is None:
        return None
    text = orjson.dumps(key)
    return text.decode() if len(text) <= MAX_IDENTITY_BYTES else None


def public_keys(key: Mapping[str, Any]) -> dict[str, bytes] | None:
    """key id -> the 32 bytes of the one public key that a key for signing has."""
    keys = key.get("keys")
    if not isinstance(keys, dict) or len(keys) != 1:
        return None
    ((key_id, encoded),) = keys.items()
    if not key_id.startswith("ed25519:") or not isinstance(encoded, str):
        return None
    try:
        public = decode_base64(encoded)
    except ValueError:
        return None
    return {key_id: public} if len(public) == 32 else None

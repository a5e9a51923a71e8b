"""Devices' keys for encryption: kept, shown and given out to local users.

client-server §Key management API, as far as this server goes: keys of other servers' users
are not asked for (the answer says so), and there is no cross-signing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from comity.bus import Bus
from comity.ports import Clock
from comity.protocol.errors import MatrixError, bad_json, invalid_param, missing_param
from comity.protocol.identifiers import is_user_id, server_of
from comity.store import accounts as stored
from comity.store import device_keys, personal
from comity.store.database import Database, Tx, WriteTx
from comity.users.accounts import Accounts
from comity.users.text import checked_text

#: One-time keys in one upload; clients keep about 50 to 100 in stock.
MAX_ONE_TIME_KEYS = 500
#: The JSON of one device's identity keys, signatures included.
MAX_IDENTITY_BYTES = 64 * 1024
#: The JSON of one one-time key.
MAX_KEY_BYTES = 4 * 1024
#: Users or devices asked about in one request.
MAX_QUERIED = 10_000


class Keys:
    """The keys of local devices."""

    def __init__(self, database: Database, bus: Bus, clock: Clock, accounts: Accounts) -> None:
        self._database = database
        self._bus = bus
        self._clock = clock
        self._accounts = accounts

    async def upload(self, user_id: str, device_id: str, body: Mapping[str, Any]) -> dict[str, int]:
        """`POST /keys/upload`: the `one_time_key_counts` after it.

        Raises 400 M_BAD_JSON or M_INVALID_PARAM, 401 M_UNKNOWN_TOKEN; nothing is stored then.
        """
        identity = _checked_identity(user_id, device_id, body.get("device_keys"))
        one_time = list(_checked_keys(body.get("one_time_keys"), "one_time_keys"))
        fallback = list(_checked_keys(body.get("fallback_keys"), "fallback_keys"))
        now = self._clock.now_ms()

        def store(tx: WriteTx) -> dict[str, int]:
            if stored.device(tx, user_id, device_id) is None:
                # Logged out since the request came: nobody would delete these keys.
                raise MatrixError(401, "M_UNKNOWN_TOKEN", "The device has been logged out")
            if identity is not None and device_keys.identity(tx, user_id, device_id) != identity:
                device_keys.put_identity(tx, user_id, device_id, identity)
                self._changed(tx, user_id)
            for algorithm, key_id, json in one_time:
                held = device_keys.one_time_key(tx, user_id, device_id, algorithm, key_id)
                if held is not None and orjson.loads(held) != orjson.loads(json):
                    raise invalid_param(f"There is another one-time key {algorithm}:{key_id} already")
            device_keys.put_one_time_keys(tx, user_id, device_id, one_time, now)
            counts = device_keys.one_time_key_counts(tx, user_id, device_id)
            if one_time and sum(counts.values()) > MAX_ONE_TIME_KEYS:
                raise invalid_param(f"A device has at most {MAX_ONE_TIME_KEYS} one-time keys here")
            for algorithm, key_id, json in fallback:
                device_keys.put_fallback_key(tx, user_id, device_id, algorithm, key_id, json)
            return counts

        if identity is None and not one_time and not fallback:
            return await self._database.look_up(
                lambda tx: device_keys.one_time_key_counts(tx, user_id, device_id)
            )
        return await self._database.write(store)

    def _changed(self, tx: WriteTx, user_id: str) -> None:
        position = tx.next_position()
        device_keys.mark_changed(tx, user_id, position)
        tx.after_commit(lambda: self._bus.publish(position, [user_id]))

    def device_gone(self, tx: WriteTx, user_id: str, device_id: str) -> None:
        """A device is being deleted: its keys with it (for `Sessions.when_device_goes`)."""
        if device_keys.delete(tx, user_id, device_id):
            self._changed(tx, user_id)

    async def query(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """`POST /keys/query`. Raises 400 M_MISSING_PARAM, M_BAD_JSON or M_INVALID_PARAM."""
        wanted = _wanted(body, "device_keys")
        found: dict[str, dict[str, Any]] = {}
        failures: dict[str, Any] = {}
        for user_id, devices in wanted.items():
            if not isinstance(devices, list):
                raise bad_json("device_keys has a value that is not a list of device ids")
            if not self._accounts.is_local(user_id):
                failures[server_of(user_id)] = _NOT_ASKED
                continue
            rows = await self._database.look_up(lambda tx, who=user_id: device_keys.device_keys(tx, who))  # type: ignore[misc]
            found[user_id] = {
                device_id: _with_name(json, name)
                for device_id, json, name in rows
                if not devices or device_id in devices
            }
        return {"device_keys": found, "failures": failures}

    async def claim(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """`POST /keys/claim`. Raises 400 M_MISSING_PARAM, M_BAD_JSON or M_INVALID_PARAM."""
        wanted = _wanted(body, "one_time_keys")
        failures = {
            server_of(user_id): _NOT_ASKED for user_id in wanted if not self._accounts.is_local(user_id)
        }
        local = {user_id: devices for user_id, devices in wanted.items() if self._accounts.is_local(user_id)}
        for devices in local.values():
            if not isinstance(devices, dict) or not all(isinstance(value, str) for value in devices.values()):
                raise bad_json("one_time_keys is not a map of users to maps of devices to algorithms")

        def store(tx: WriteTx) -> dict[str, dict[str, Any]]:
            claimed: dict[str, dict[str, Any]] = {}
            for user_id, devices in local.items():
                for device_id, algorithm in devices.items():
                    key = device_keys.claim(tx, user_id, device_id, algorithm)
                    if key is not None:
                        given = {f"{algorithm}:{key[0]}": orjson.Fragment(key[1])}
                        claimed.setdefault(user_id, {})[device_id] = given
            # Nothing that has a position changed: wake the owners, whose counts are different now.
            tx.after_commit(lambda: self._bus.publish(self._bus.position, list(claimed)))
            return claimed

        return {"one_time_keys": await self._database.write(store), "failures": failures}

    async def changes(self, user_id: str, position: int, upto: int) -> dict[str, list[str]]:
        """`GET /keys/changes`: the user, and local users in a common room, if their devices changed."""

        def read(tx: Tx) -> set[str]:
            candidates = device_keys.changed_since(tx, position, upto)
            return personal.sharing_room(tx, user_id, candidates) | ({user_id} & set(candidates))

        return {"changed": sorted(await self._database.read(read)), "left": []}


_NOT_ASKED = {"errcode": "M_UNRECOGNIZED", "error": "This server does not ask other servers for keys yet"}


def _wanted(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    wanted = body.get(name)
    if wanted is None:
        raise missing_param(f"The request body lacks {name}")
    if not isinstance(wanted, dict) or not all(is_user_id(user_id) for user_id in wanted):
        raise bad_json(f"{name} is not a map of user ids")
    if len(wanted) > MAX_QUERIED or any(
        len(part) > MAX_QUERIED for part in wanted.values() if isinstance(part, list | dict)
    ):
        raise invalid_param(f"{name} asks for more than {MAX_QUERIED} at once")
    return wanted


def _checked_identity(user_id: str, device_id: str, keys: object) -> str | None:
    """The JSON text of `device_keys`, if it is there and the requester's own."""
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


def _checked_keys(keys: object, what: str) -> Iterable[tuple[str, str, str]]:
    """(algorithm, key id, JSON text) of each member of `one_time_keys` or `fallback_keys`."""
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


def _with_name(json: str, name: str | None) -> dict[str, Any]:
    keys: dict[str, Any] = orjson.loads(json)
    return {**keys, "unsigned": {"device_display_name": name}} if name else keys

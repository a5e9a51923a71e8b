"""Keys of anybody's devices, for our clients: our own from here, others' from their servers.

client-server §Key management API, server-server §End-to-End Encryption. Servers are asked in
parallel; one that does not answer is named in `failures`, and the others' answers count. What is known
of its users without asking is given all the same: whoever writes to them can go on encrypting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import orjson

from comity.federation.errors import FederationError
from comity.federation.user_calls import UserCalls
from comity.protocol.errors import MatrixError, bad_json, invalid_param
from comity.protocol.identifiers import server_of
from comity.store import cross_signing
from comity.store.cross_signing import MASTER, SELF_SIGNING, UserSignature
from comity.store.database import Database, Tx
from comity.users.accounts import Accounts
from comity.users.key_shapes import (
    MAX_KEY_BYTES,
    remote_identity,
    signing_key,
    wanted_algorithms,
    wanted_devices,
)
from comity.users.keys import Keys
from comity.users.remote_devices import Known, RemoteDevices

#: ms that a client is content to wait for other servers, if it does not say, and at most.
DEFAULT_TIMEOUT_MS = 10_000
MAX_TIMEOUT_MS = 60_000
#: Other servers that one request may lead to.
MAX_SERVERS = 500
#: Servers asked at once for one request. Those that hang keep their places to the end, so there must be
#: more places than there are such servers in a room.
MAX_AT_ONCE = 100

T = TypeVar("T")


class KeyQueries:
    """`/keys/query` and `/keys/claim`."""

    def __init__(
        self, database: Database, keys: Keys, accounts: Accounts, remote: RemoteDevices, calls: UserCalls
    ) -> None:
        self._database = database
        self._keys = keys
        self._accounts = accounts
        self._remote = remote
        self._calls = calls

    async def query(self, requester: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """`POST /keys/query`. Raises 400 M_MISSING_PARAM, M_BAD_JSON or M_INVALID_PARAM."""
        wanted, timeout = wanted_devices(body), _timeout(body)
        by_server = self._by_server(wanted)
        answer = await self._keys.answer_query(wanted, requester)
        known = await self._remote.known([user_id for part in by_server.values() for user_id in part])
        to_ask: dict[str, dict[str, list[str]]] = {}
        for server, part in by_server.items():
            for user_id, devices in part.items():
                held = known[user_id]
                if held.is_fresh and held.shown is not None:
                    _take_whole(held.shown, user_id, devices, answer)
                else:
                    to_ask.setdefault(server, {})[user_id] = devices
        failures = await _ask_all(
            to_ask, lambda server, part: self._query_server(server, part, known, answer, timeout), timeout
        )
        for part in to_ask.values():
            for user_id, devices in part.items():
                older = known[user_id].shown
                if user_id not in answer["device_keys"] and older is not None:
                    _take_whole(older, user_id, devices, answer)
        answer["master_keys"] = await self._signed(requester, answer["master_keys"])
        return {**answer, "failures": failures}

    async def _signed(self, requester: str, keys: Mapping[str, Any]) -> dict[str, Any]:
        """Master keys with the requester's own signatures of them, which nobody else is shown."""
        others = [user_id for user_id in keys if user_id != requester]

        def read(tx: Tx) -> tuple[list[UserSignature], dict[str, str]]:
            found = cross_signing.signatures_by(tx, requester, others)
            held = cross_signing.told_keys(tx, [item.target for item in found])
            return found, {user_id: json for user_id, usage, json in held if usage == MASTER}

        found, held = await self._database.read(read)
        shown = dict(keys)
        for item in found:
            whole = shown[item.target]
            if isinstance(whole, orjson.Fragment):
                # The stored text, parsed only where something is added to it.
                whole = orjson.loads(held.get(item.target, '{"keys":{}}'))
            if item.target_key not in whole["keys"]:
                continue
            signatures = whole.get("signatures")
            by_user = dict(signatures) if isinstance(signatures, dict) else {}
            theirs = by_user.get(requester)
            by_user[requester] = {
                **(theirs if isinstance(theirs, dict) else {}),
                item.signer_key: item.signature,
            }
            shown[item.target] = {**whole, "signatures": by_user}
        return shown

    async def claim(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """`POST /keys/claim`. Raises 400 M_MISSING_PARAM, M_BAD_JSON or M_INVALID_PARAM."""
        wanted, timeout = wanted_algorithms(body), _timeout(body)
        by_server = self._by_server(wanted)
        claimed = await self._keys.answer_claim(wanted)
        failures = await _ask_all(
            by_server, lambda server, part: self._claim_server(server, part, claimed, timeout), timeout
        )
        return {"one_time_keys": claimed, "failures": failures}

    def _by_server(self, wanted: Mapping[str, T]) -> dict[str, dict[str, T]]:
        by_server: dict[str, dict[str, T]] = {}
        for user_id, part in wanted.items():
            if not self._accounts.is_local(user_id):
                by_server.setdefault(server_of(user_id), {})[user_id] = part
        if len(by_server) > MAX_SERVERS:
            raise invalid_param(f"Users of more than {MAX_SERVERS} other servers are asked for at once")
        return by_server

    async def _query_server(
        self,
        server: str,
        wanted: Mapping[str, list[str]],
        known: Mapping[str, Known],
        answer: dict[str, dict[str, Any]],
        timeout: float,
    ) -> None:
        """Add what a server says of its users, each as soon as it is there. Raises FederationError."""
        strangers = {user_id: devices for user_id, devices in wanted.items() if not known[user_id].followed}

        async def ask_strangers() -> None:
            _take_query(await self._calls.query_keys(server, strangers, timeout), strangers, answer)

        async def ask_whole(user_id: str) -> None:
            _take_whole(await self._remote.whole(user_id), user_id, wanted[user_id], answer)

        asked = [ask_whole(user_id) for user_id in wanted if known[user_id].followed]
        if strangers:
            asked.append(ask_strangers())
        for error in await asyncio.gather(*asked, return_exceptions=True):
            if error is not None:
                raise error

    async def _claim_server(
        self,
        server: str,
        wanted: Mapping[str, Mapping[str, str]],
        claimed: dict[str, dict[str, Any]],
        timeout: float,
    ) -> None:
        """Add the keys that a server gives. Raises FederationError."""
        answer = await self._calls.claim_keys(server, wanted, timeout)
        given = answer.get("one_time_keys")
        for user_id, devices in wanted.items():
            part = given.get(user_id) if isinstance(given, dict) else None
            for device_id, algorithm in devices.items():
                keys = part.get(device_id) if isinstance(part, dict) else None
                if _is_claimed(keys, algorithm):
                    claimed.setdefault(user_id, {})[device_id] = keys


def _is_claimed(keys: object, algorithm: str) -> bool:
    """Whether this is one key of the algorithm."""
    return (
        isinstance(keys, dict)
        and len(keys) == 1
        and all(name.startswith(f"{algorithm}:") for name in keys)
        and len(str(keys)) <= MAX_KEY_BYTES
    )


def _take_whole(
    held: Mapping[str, Any], user_id: str, only: list[str], answer: dict[str, dict[str, Any]]
) -> None:
    """Add a user's list, of its devices those that are wanted."""
    answer["device_keys"][user_id] = {
        device_id: keys for device_id, keys in held["devices"].items() if not only or device_id in only
    }
    for usage in (MASTER, SELF_SIGNING):
        if f"{usage}_key" in held:
            answer[f"{usage}_keys"][user_id] = held[f"{usage}_key"]


def _take_query(
    answer: Mapping[str, Any], wanted: Mapping[str, list[str]], found: dict[str, dict[str, Any]]
) -> None:
    """Add what another server said of the users that it was asked about, and of nobody else."""
    listed = answer.get("device_keys")
    for user_id in wanted:
        devices = listed.get(user_id) if isinstance(listed, dict) else None
        if isinstance(devices, dict):
            found["device_keys"][user_id] = {
                device_id: keys
                for device_id, keys in devices.items()
                if remote_identity(user_id, device_id, keys) is not None
            }
        for usage in (MASTER, SELF_SIGNING):
            part = answer.get(f"{usage}_keys")
            key = part.get(user_id) if isinstance(part, dict) else None
            if signing_key(user_id, usage, key) is not None:
                found[f"{usage}_keys"][user_id] = key


def _timeout(body: Mapping[str, Any]) -> float:
    """Seconds that other servers have. Raises 400 M_BAD_JSON."""
    wanted = body.get("timeout", DEFAULT_TIMEOUT_MS)
    if isinstance(wanted, bool) or not isinstance(wanted, int):
        raise bad_json("timeout is not an integer")
    return min(max(wanted, 0), MAX_TIMEOUT_MS) / 1000


async def _ask_all(
    by_server: Mapping[str, dict[str, T]],
    ask: Callable[[str, dict[str, T]], Awaitable[None]],
    timeout: float,
) -> dict[str, Any]:
    """Have `ask` ask every server; `failures` of those that gave no answer, or not all of it."""
    turn = asyncio.Semaphore(MAX_AT_ONCE)
    failures: dict[str, Any] = {}

    async def one(server: str, part: dict[str, T]) -> None:
        try:
            async with asyncio.timeout(timeout), turn:
                await ask(server, part)
        except TimeoutError:
            failures[server] = {"errcode": "M_UNKNOWN", "error": "The server did not answer in time"}
        except (FederationError, MatrixError) as error:
            failures[server] = {"errcode": "M_UNKNOWN", "error": f"The server gave no answer: {error.text}"}

    await asyncio.gather(*(one(server, part) for server, part in by_server.items()))
    return failures

"""Devices of other servers' users: followed while they share a room with one of ours.

server-server §Device Management. A list is asked for once and kept up by EDUs; where one was missed,
it is stale and asked for anew, in the background and before anybody is told of it. What could not be had
from a server that was away is asked for until it comes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import orjson

from comity.background import Worker
from comity.federation.client import GATEWAY_STATUSES
from comity.federation.errors import FederationError
from comity.federation.user_calls import UserCalls
from comity.ports import Clock
from comity.protocol.errors import MatrixError, bad_json
from comity.protocol.identifiers import server_of
from comity.store import cross_signing, device_lists
from comity.store.database import Database, StoreFailedError, StoreOverloadedError, Tx, WriteTx
from comity.store.device_lists import RemoteList
from comity.users.device_news import DeviceNews
from comity.users.key_shapes import remote_identity, signing_key, with_name
from comity.users.text import checked_text, optional_text

_log = logging.getLogger(__name__)
#: Devices of one user that are known; nobody has as many.
MAX_DEVICES = 2_000
#: Lists that are asked for at once: of one server, and of all together. One that hangs keeps its places
#: for as long as a request may take; it must not have those of the others.
MAX_AT_ONCE_OF_SERVER = 8
MAX_AT_ONCE = 100
#: Lists that wait to be asked for; one that finds no place is asked for later, or when somebody wants it.
MAX_WAITING = 5_000
#: A list is believed so long without being asked for again, lest a missed change stay missed.
MAX_AGE_MS = 24 * 3600 * 1000
#: How often a list is asked for in a row while it changes.
MAX_TRIES = 3
#: Lists that could not be had and are asked for again: how many are remembered, how often they are tried
#: (a server that is known to be away is not asked), and how many in one round.
MAX_OWED = 20_000
RETRY_SECONDS = 30.0
MAX_RETRIED = 200
#: Users whose lists are looked up in one read: about a millisecond.
MAX_IN_ONE_READ = 64
MAX_STREAM_ID = 2**53
MAX_NAME_BYTES = 1_024
#: Previous changes that one update may name.
MAX_PREVIOUS = 100
_TOLD = (cross_signing.MASTER, cross_signing.SELF_SIGNING)

#: (device id, JSON text or None, display name) of each device, usage -> JSON text, stream id.
_Fetched = tuple[list[tuple[str, str | None, str | None]], dict[str, str], int]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a user's list. `followed`: changes of it are told to us, for a room is shared.

    `shown` is the list as `whole` has it, None if there is none; `is_fresh`: it need not be asked for.
    """

    followed: bool = False
    is_fresh: bool = False
    shown: dict[str, Any] | None = None


class RemoteDevices(Worker):
    """What is known of devices elsewhere."""

    def __init__(
        self, database: Database, calls: UserCalls, clock: Clock, news: DeviceNews, server_name: str
    ) -> None:
        self._database = database
        self._calls = calls
        self._clock = clock
        self._news = news
        self._server_name = server_name
        self._fetching: dict[str, asyncio.Task[dict[str, Any]]] = {}
        self._turn = asyncio.Semaphore(MAX_AT_ONCE)
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        #: Users whose lists could not be had, those that were tried longest ago first.
        self._owed: dict[str, None] = {}
        self._is_owed = asyncio.Event()

    # -- what other servers tell

    async def update(self, user_id: str, content: Mapping[str, Any]) -> None:
        """An `m.device_list_update` EDU of the server of `user_id`. Raises 400 for a malformed one."""
        device_id = checked_text(content.get("device_id"), "device_id")
        stream_id, previous = _stream_id(content.get("stream_id")), content.get("prev_id", [])
        if stream_id is None or not isinstance(previous, list) or len(previous) > MAX_PREVIOUS:
            raise bad_json("stream_id is not an integer, or prev_id not a list of them")
        if any(_stream_id(item) is None for item in previous):
            raise bad_json("prev_id is not a list of integers")
        deleted = content.get("deleted") is True
        name = optional_text(content.get("device_display_name"), "device_display_name", most=MAX_NAME_BYTES)
        json = remote_identity(user_id, device_id, content.get("keys"))

        def store(tx: WriteTx) -> bool:
            if not self._shares(tx, user_id):
                return False
            known = device_lists.remote_list(tx, user_id)
            if known is not None and stream_id < known.stream_id and not known.stale:
                return False
            self._news.seen(tx, user_id, tx.next_position())
            if known is None:
                # Also for a list that is on its way: its answer may be older than this change.
                device_lists.put_remote_list(tx, user_id, RemoteList(stream_id, True, 0))
                return True
            is_next = all(item <= known.stream_id for item in previous)
            newest = max(known.stream_id, stream_id)
            stale = known.stale or not is_next
            device_lists.put_remote_list(tx, user_id, RemoteList(newest, stale, known.fetched_at))
            if deleted:
                device_lists.delete_remote_device(tx, user_id, device_id)
            elif not stale and device_lists.count_remote_devices(tx, user_id) < MAX_DEVICES:
                device_lists.put_remote_device(tx, user_id, device_id, json, name)
            return stale

        if await self._database.write(store):
            self._fetch_later(user_id)

    async def update_signing(self, user_id: str, content: Mapping[str, Any]) -> None:
        """An `m.signing_key_update` EDU of the server of `user_id`."""
        keys = {usage: signing_key(user_id, usage, content.get(f"{usage}_key")) for usage in _TOLD}

        def store(tx: WriteTx) -> None:
            held = cross_signing.keys_of(tx, user_id)
            new = {
                usage: json for usage, json in keys.items() if json is not None and held.get(usage) != json
            }
            if not new or not self._shares(tx, user_id):
                return
            position = tx.next_position()
            for usage, json in new.items():
                cross_signing.put(tx, user_id, usage, json, position)
            self._news.seen(tx, user_id, position)

        await self._database.write(store)

    def _shares(self, tx: Tx, user_id: str) -> bool:
        return bool(device_lists.users_sharing(tx, user_id, self._server_name, 1))

    # -- what is asked here

    async def known(self, user_ids: Sequence[str]) -> dict[str, Known]:
        """What is known of users of other servers."""
        now, found = self._clock.now_ms(), dict[str, Known]()
        for start in range(0, len(user_ids), MAX_IN_ONE_READ):
            some = user_ids[start : start + MAX_IN_ONE_READ]
            found |= await self._database.read(partial(self._known, user_ids=some, now=now))
        return found

    def _known(self, tx: Tx, *, user_ids: Sequence[str], now: int) -> dict[str, Known]:
        followed = device_lists.sharing_with(tx, self._server_name, user_ids)
        lists = {
            user_id: known
            for user_id, known in device_lists.remote_lists(tx, followed).items()
            if known.fetched_at
        }
        devices: dict[str, list[tuple[str, str, str | None]]] = {user_id: [] for user_id in lists}
        signing: dict[str, dict[str, str]] = {user_id: {} for user_id in lists}
        for user_id, device_id, json, name in device_lists.remote_devices_of(tx, lists):
            devices[user_id].append((device_id, json, name))
        for user_id, usage, json in cross_signing.told_keys(tx, lists):
            signing[user_id][usage] = json
        found = {user_id: Known(followed=user_id in followed) for user_id in user_ids}
        for user_id, known in lists.items():
            is_fresh = not known.stale and 0 <= now - known.fetched_at < MAX_AGE_MS
            found[user_id] = Known(True, is_fresh, _shown(devices[user_id], signing[user_id]))
        return found

    async def whole(self, user_id: str) -> dict[str, Any]:
        """Ask for a user's list and keep it: {"devices": device id -> keys, "master_key": …, …}.

        Raises FederationError.
        """
        return await asyncio.shield(self._fetch(user_id))

    # -- asking

    def _fetch_later(self, user_id: str) -> None:
        if len(self._fetching) < MAX_WAITING:
            self._fetch(user_id)
        else:
            self._owe(user_id)

    def _fetch(self, user_id: str) -> asyncio.Task[dict[str, Any]]:
        task = self._fetching.get(user_id)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._ask(user_id))
            self._fetching[user_id] = task
            task.add_done_callback(lambda done: self._ended(user_id, done))
        return task

    def _ended(self, user_id: str, task: asyncio.Task[dict[str, Any]]) -> None:
        self._fetching.pop(user_id, None)
        if task.cancelled():
            return
        error, was_owed = task.exception(), user_id in self._owed
        self._owed.pop(user_id, None)
        if isinstance(error, FederationError | MatrixError):
            # A MatrixError: the store could not take what came.
            if isinstance(error, MatrixError) or _is_away(error):
                self._owe(user_id)
            if not was_owed:
                _log.info("the devices of %s could not be fetched: %s", user_id, error)
        elif error is not None:
            _log.error("the devices of %s could not be fetched", user_id, exc_info=error)

    def _owe(self, user_id: str) -> None:
        if len(self._owed) < MAX_OWED:
            self._owed.setdefault(user_id)
            self._is_owed.set()

    async def _work(self) -> None:
        """Ask again for the lists that could not be had, those that an earlier run left too."""
        for user_id in await self._database.read(lambda tx: device_lists.stale_lists(tx, MAX_OWED)):
            self._owe(user_id)
        while True:
            if not self._owed:
                self._is_owed.clear()
            await self._is_owed.wait()
            await self._clock.sleep(RETRY_SECONDS)
            try:
                await self._ask_again(list(itertools.islice(self._owed, MAX_RETRIED)))
            except (StoreFailedError, StoreOverloadedError) as error:
                _log.info("lists of devices wait for the database: %s", error)

    async def _ask_again(self, user_ids: Sequence[str]) -> None:
        """Ask for the lists of those who still share a room with a user of ours; forget the others."""
        still = await self._database.read(
            lambda tx: {user_id for user_id in user_ids if self._shares(tx, user_id)}
        )
        for user_id in user_ids:
            if user_id not in still:
                self._owed.pop(user_id, None)
        await asyncio.gather(*(self._fetch(user_id) for user_id in still), return_exceptions=True)

    async def _ask(self, user_id: str) -> dict[str, Any]:
        server = server_of(user_id)
        turn = self._turns.setdefault(server, asyncio.Semaphore(MAX_AT_ONCE_OF_SERVER))
        for tries_left in reversed(range(MAX_TRIES)):
            async with turn, self._turn:
                shown, stale = await self._ask_once(server, user_id)
            if not stale or not tries_left:
                return shown
        raise AssertionError("a list is asked for once at least")

    async def _ask_once(self, server: str, user_id: str) -> tuple[dict[str, Any], bool]:
        """What the user's server says, kept; and whether a change came meanwhile that may not be in it."""

        def look(tx: Tx) -> tuple[RemoteList | None, dict[str, str]]:
            return device_lists.remote_list(tx, user_id), cross_signing.keys_of(tx, user_id)

        before, held_before = await self._database.read(look)
        try:
            answer = await self._calls.devices(server, user_id)
        except FederationError:
            if before is not None and not before.stale:
                # It may be given out all the same; so it is asked for again, also by the next run.
                await self._database.write(lambda tx: device_lists.mark_stale(tx, user_id))
            raise
        devices, signing, stream_id = _parsed(server, user_id, answer)
        now = self._clock.now_ms()
        with_keys = [(device_id, json, name) for device_id, json, name in devices if json is not None]

        def store(tx: WriteTx) -> bool:
            if not self._shares(tx, user_id):
                return False
            known, held = look(tx)
            stale = held != held_before or _is_overtaken(before, known, stream_id)
            is_new = sorted(with_keys) != device_lists.remote_devices(tx, user_id)
            device_lists.put_remote_list(tx, user_id, RemoteList(stream_id, stale, now))
            device_lists.replace_remote_devices(tx, user_id, devices)
            for usage in _TOLD:
                if usage not in signing:
                    cross_signing.delete(tx, user_id, usage)
                elif held.get(usage) != signing[usage]:
                    is_new = True
                    cross_signing.put(tx, user_id, usage, signing[usage], tx.next_position())
            if known is not None and is_new and (known.fetched_at or user_id in self._owed):
                # A change of which nothing was told, or not to us; or which nobody could ask for then.
                self._news.seen(tx, user_id, tx.next_position())
            return stale

        stale = await self._database.write(store)
        return _shown(with_keys, signing), stale

    async def stop(self) -> None:
        """Stop asking."""
        await super().stop()
        tasks = list(self._fetching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _stream_id(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_STREAM_ID:
        return None
    return value


def _is_away(error: FederationError) -> bool:
    """Whether a server could not be reached, so that it is not asked again before it may be back."""
    return error.temporary and (error.status is None or error.status in GATEWAY_STATUSES)


def _is_overtaken(before: RemoteList | None, known: RemoteList | None, stream_id: int) -> bool:
    """Whether a change that came since `before` may not be in an answer that ends with `stream_id`."""
    if known is None or known == before:
        return False
    # Only of what came meanwhile: a server may count its lists and its changes apart.
    came = before is None or known.stream_id != before.stream_id
    # They went and came back, and nobody told us of changes in between.
    went = before is not None and known.stale and not before.stale
    return went or (came and known.stream_id > stream_id)


def _shown(devices: list[tuple[str, str, str | None]], signing: Mapping[str, str]) -> dict[str, Any]:
    shown: dict[str, Any] = {"devices": {device: with_name(json, name) for device, json, name in devices}}
    for usage in _TOLD:
        if usage in signing:
            shown[f"{usage}_key"] = orjson.Fragment(signing[usage])
    return shown


def _parsed(server: str, user_id: str, answer: Mapping[str, Any]) -> _Fetched:
    """What an answer to `user/devices` says. Raises FederationError."""
    listed, stream_id = answer.get("devices"), _stream_id(answer.get("stream_id"))
    if (
        answer.get("user_id") != user_id
        or not isinstance(listed, list)
        or len(listed) > MAX_DEVICES
        or stream_id is None
    ):
        raise FederationError(server, "the answer is no list of the user's devices", reached=True)
    devices: dict[str, tuple[str, str | None, str | None]] = {}
    for item in listed:
        try:
            device_id = checked_text(item.get("device_id") if isinstance(item, dict) else None, "device_id")
            name = optional_text(item.get("device_display_name"), "its name", most=MAX_NAME_BYTES)
        except MatrixError:
            continue
        devices[device_id] = (device_id, remote_identity(user_id, device_id, item.get("keys")), name)
    keys = {usage: signing_key(user_id, usage, answer.get(f"{usage}_key")) for usage in _TOLD}
    signing = {usage: json for usage, json in keys.items() if json is not None}
    return list(devices.values()), signing, stream_id

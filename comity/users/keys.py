"""Keys of our own users' devices: kept, shown and given out (client-server §Key management API)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from comity.bus import Bus
from comity.ports import Clock
from comity.protocol.errors import MatrixError, invalid_param
from comity.store import accounts as stored
from comity.store import cross_signing, device_keys, device_lists, personal, shared_rooms
from comity.store.database import Database, Tx, WriteTx
from comity.store.device_keys import KeyCounts
from comity.users.accounts import Accounts
from comity.users.device_news import DeviceNews
from comity.users.key_shapes import MAX_ONE_TIME_KEYS, checked_identity, checked_keys, with_name


class Keys:
    """The keys of local devices."""

    def __init__(
        self, database: Database, bus: Bus, clock: Clock, accounts: Accounts, news: DeviceNews
    ) -> None:
        self._database = database
        self._bus = bus
        self._clock = clock
        self._accounts = accounts
        self._news = news
        #: What is told of them in every sync.
        self.counts = KeyCounts()

    def _counts_change(self, tx: WriteTx, user_id: str, device_id: str) -> None:
        tx.after_commit(lambda: self.counts.change(user_id, device_id, self._database.commits))

    async def upload(self, user_id: str, device_id: str, body: Mapping[str, Any]) -> dict[str, int]:
        """`POST /keys/upload`: the `one_time_key_counts` after it.

        Raises 400 M_BAD_JSON or M_INVALID_PARAM, 401 M_UNKNOWN_TOKEN; nothing is stored then.
        """
        identity = checked_identity(user_id, device_id, body.get("device_keys"))
        one_time = list(checked_keys(body.get("one_time_keys"), "one_time_keys"))
        fallback = list(checked_keys(body.get("fallback_keys"), "fallback_keys"))
        now = self._clock.now_ms()

        def store(tx: WriteTx) -> dict[str, int]:
            if stored.device(tx, user_id, device_id) is None:
                # Logged out since the request came: nobody would delete these keys.
                raise MatrixError(401, "M_UNKNOWN_TOKEN", "The device has been logged out")
            return self.put_in(tx, user_id, device_id, identity, one_time, fallback, now)

        if identity is None and not one_time and not fallback:
            return await self._database.look_up(
                lambda tx: device_keys.one_time_key_counts(tx, user_id, device_id)
            )
        return await self._database.write(store)

    def put_in(
        self,
        tx: WriteTx,
        user_id: str,
        device_id: str,
        identity: str | None,
        one_time: Sequence[tuple[str, str, str]],
        fallback: Sequence[tuple[str, str, str]],
        now: int,
    ) -> dict[str, int]:
        """Store checked keys of a device that exists, in a transaction of the caller's; the counts after it.

        Raises 400 M_INVALID_PARAM.
        """
        if identity is not None and device_keys.identity(tx, user_id, device_id) != identity:
            device_keys.put_identity(tx, user_id, device_id, identity)
            self._news.changed(tx, user_id, device_id)
        held = device_keys.one_time_keys(tx, user_id, device_id, [key[:2] for key in one_time])
        for algorithm, key_id, json in one_time if held else ():
            known = held.get((algorithm, key_id))
            if known is not None and orjson.loads(known) != orjson.loads(json):
                raise invalid_param(f"There is another one-time key {algorithm}:{key_id} already")
        # Of an upload that is repeated, what somebody has by now is not given out again.
        given = device_keys.given_before(tx, user_id, device_id, one_time)
        new = [key for key in one_time if key[:2] not in held and key[:2] not in given]
        device_keys.add_one_time_keys(tx, user_id, device_id, new, now)
        counts = device_keys.one_time_key_counts(tx, user_id, device_id)
        if one_time and sum(counts.values()) > MAX_ONE_TIME_KEYS:
            raise invalid_param(f"A device has at most {MAX_ONE_TIME_KEYS} one-time keys here")
        for algorithm, key_id, json in fallback:
            device_keys.put_fallback_key(tx, user_id, device_id, algorithm, key_id, json)
        self._counts_change(tx, user_id, device_id)
        return counts

    def device_gone(self, tx: WriteTx, user_id: str, device_id: str) -> None:
        """A device is being deleted: its keys with it (for `Sessions.when_device_goes`)."""
        had_keys = device_keys.delete(tx, user_id, device_id)
        self._counts_change(tx, user_id, device_id)
        self._news.changed(tx, user_id, device_id, keys=had_keys)

    async def answer_query(
        self, wanted: Mapping[str, list[str]], requester: str | None
    ) -> dict[str, dict[str, Any]]:
        """What is known of local users (others are passed over), as `requester` may see it.

        user id -> device ids (none: all). None asks for another server.
        """
        answer: dict[str, dict[str, Any]] = {"device_keys": {}, "master_keys": {}, "self_signing_keys": {}}
        if requester is not None:
            answer["user_signing_keys"] = {}
        local = [user_id for user_id in wanted if self._accounts.is_local(user_id)]
        answer["device_keys"] = {user_id: {} for user_id in local}

        def read(tx: Tx) -> None:
            shown = answer["device_keys"]
            for user_id, device_id, json, name in device_keys.device_keys_of(tx, local):
                devices = wanted[user_id]
                if not devices or device_id in devices:
                    shown[user_id][device_id] = with_name(json, name)
            for user_id, usage, json in cross_signing.told_keys(tx, local):
                answer[f"{usage}_keys"][user_id] = orjson.Fragment(json)
            if requester is not None and requester in local:
                own = cross_signing.keys_of(tx, requester).get(cross_signing.USER_SIGNING)
                if own is not None:
                    answer["user_signing_keys"][requester] = orjson.Fragment(own)

        await self._database.read(read)
        return answer

    async def answer_claim(self, wanted: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, Any]]:
        """Give keys of local users' devices out, each one-time key once.

        user id -> device id -> algorithm in, user id -> device id -> key id -> key out.
        """
        local = {user_id: devices for user_id, devices in wanted.items() if self._accounts.is_local(user_id)}

        now = self._clock.now_ms()

        def store(tx: WriteTx) -> dict[str, dict[str, Any]]:
            claimed: dict[str, dict[str, Any]] = {}
            owners: list[tuple[str, str]] = []
            keys = (
                (user_id, device_id, algorithm)
                for user_id, devices in local.items()
                for device_id, algorithm in devices.items()
            )
            for key in device_keys.claim(tx, keys, now):
                given = {f"{key.algorithm}:{key.key_id}": orjson.Fragment(key.json)}
                claimed.setdefault(key.user_id, {})[key.device_id] = given
                if key.is_less:
                    owners.append((key.user_id, key.device_id))
            if owners:
                self._tell_owners(tx, owners)
            return claimed

        return await self._database.write(store) if local else {}

    def _tell_owners(self, tx: WriteTx, owners: list[tuple[str, str]]) -> None:
        """Wake the devices whose keys are given out. The position has no row: it is remembered."""
        position = tx.next_position()

        def tell() -> None:
            for user_id, device_id in owners:
                self.counts.change(user_id, device_id, self._database.commits)
                self.counts.given(user_id, device_id, position)
            self._bus.publish(position, {user_id for user_id, _ in owners})

        tx.after_commit(tell)

    async def list_for_server(self, user_id: str) -> dict[str, Any] | None:
        """`GET user/devices/{userId}` (server-server §Device Management); None for no user of ours."""
        if not self._accounts.is_local(user_id):
            return None

        def read(tx: Tx) -> dict[str, Any] | None:
            if stored.user(tx, user_id) is None:
                return None
            devices = []
            for device_id, json, name in device_keys.device_keys(tx, user_id):
                device = {"device_id": device_id, "keys": orjson.Fragment(json)}
                devices.append({**device, "device_display_name": name} if name else device)
            answer: dict[str, Any] = {
                "user_id": user_id,
                "stream_id": device_lists.last_change(tx, user_id),
                "devices": devices,
            }
            for usage, json in cross_signing.keys_of(tx, user_id).items():
                if usage != cross_signing.USER_SIGNING:
                    answer[f"{usage}_key"] = orjson.Fragment(json)
            return answer

        return await self._database.read(read)

    async def changes(self, user_id: str, position: int, upto: int) -> dict[str, list[str]]:
        """`GET /keys/changes`: whose devices changed or came into sight, and whose went from it."""

        def read(tx: Tx) -> dict[str, list[str]]:
            candidates = device_keys.changed_since(tx, position, upto)
            changed = personal.sharing_room(tx, user_id, candidates) | ({user_id} & set(candidates))
            changed |= shared_rooms.met(tx, user_id, shared_rooms.entered(tx, user_id, position, upto))
            changed.update(cross_signing.signed_since(tx, user_id, position, upto))
            left = shared_rooms.parted(tx, user_id, position, upto)
            return {"changed": sorted(changed), "left": sorted(left)}

        return await self._database.read(read)

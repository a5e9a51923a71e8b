"""Device lists of users of another server: that change while they are asked for, or cannot be had."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from comity.federation.errors import FederationError
from comity.federation.user_calls import UserCalls
from comity.protocol.signing import SigningKey
from comity.store import cross_signing, device_lists
from comity.users import remote_devices
from tests.rooms.support import settle
from tests.rooms.test_edus_between_servers import ALICE, ONE, TWO, Pair, pair, person

__all__ = ["pair"]


class LateAnswers:
    """The calls, whose answers to user/devices are held back."""

    def __init__(self, calls: UserCalls) -> None:
        self._calls = calls
        self.gate, self.came = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._calls, name)

    async def devices(self, server: str, user_id: str) -> dict[str, Any]:
        answer = await self._calls.devices(server, user_id)
        self.came.set()
        await self.gate.wait()
        return answer


async def test_a_change_while_the_first_list_is_on_its_way(pair: Pair) -> None:
    await pair.alice.upload_keys()
    remote = pair.bob.place.app._users._remote
    late = LateAnswers(remote._calls)
    remote._calls = late  # type: ignore[assignment]
    await pair.settle()
    await late.came.wait()
    await pair.alice.ask("PUT", "/devices/PHONE", {"display_name": "New"})
    await pair.settle()
    late.gate.set()
    shown = await pair.bob.keys_of(pair.alice)
    assert shown["PHONE"]["unsigned"] == {"device_display_name": "New"}


async def test_a_list_of_which_a_change_is_told_is_asked_for(pair: Pair) -> None:
    await pair.alice.upload_keys()
    await pair.settle()
    await pair.settle()
    known = pair.bob.place.database.read_now(lambda tx: device_lists.remote_list(tx, ALICE))
    assert known is not None
    assert not known.stale


async def test_a_change_that_nobody_told_is_told_once_the_list_is_asked_for_again(pair: Pair) -> None:
    await pair.alice.upload_keys()
    await pair.settle()
    await pair.bob.keys_of(pair.alice)
    since = (await pair.bob.ask("GET", "/sync"))["next_batch"]

    def lose(tx: Any) -> None:
        tx.run("UPDATE remote_devices SET display_name = 'Old' WHERE user_id = ?", (ALICE,))
        tx.run("UPDATE remote_device_lists SET stale = 1 WHERE user_id = ?", (ALICE,))

    await pair.bob.place.database.write(lose)
    await pair.bob.keys_of(pair.alice)
    news = await pair.bob.ask("GET", f"/sync?since={since}")
    assert news["device_lists"]["changed"] == [ALICE]


@pytest.mark.parametrize("local", [True, False])
async def test_who_comes_in_is_somebody_to_look_at(pair: Pair, local: bool) -> None:
    place, server = (pair.alice.place, ONE) if local else (pair.bob.place, TWO)
    carol = await person(place, f"@carol:{server}", "TABLET")
    await carol.upload_keys()
    await pair.settle()
    since = (await pair.alice.ask("GET", "/sync"))["next_batch"]
    await place.rooms.memberships.join(carol.user_id, pair.room_id, [ONE])
    await pair.settle()
    news = await pair.alice.ask("GET", f"/sync?since={since}")
    assert news["device_lists"]["changed"] == [carol.user_id]


async def test_who_comes_back_is_asked_for_anew(pair: Pair) -> None:
    await pair.alice.upload_keys()
    await pair.settle()
    assert "PHONE" in await pair.bob.keys_of(pair.alice)
    await pair.alice.ask("POST", f"/rooms/{pair.room_id}/leave", {})
    await pair.settle()
    await pair.alice.ask("PUT", "/devices/PHONE", {"display_name": "Newer"})
    await pair.settle()
    await pair.alice.place.rooms.memberships.join(ALICE, pair.room_id, [TWO])
    await pair.settle()
    shown = await pair.bob.keys_of(pair.alice)
    assert shown["PHONE"]["unsigned"] == {"device_display_name": "Newer"}


async def _everything(pair: Pair, *others: str) -> dict[str, Any]:
    """What Bob is told who asks for Alice's keys, and for those of others."""
    wanted: dict[str, list[str]] = {user_id: [] for user_id in (ALICE, *others)}
    return await pair.bob.ask("POST", "/keys/query", {"device_keys": wanted})


class Slides:
    """Bob's `device_lists`, by sliding sync."""

    def __init__(self, pair: Pair) -> None:
        self._pair, self._position = pair, ""

    async def changed(self) -> list[str]:
        query = f"?pos={self._position}" if self._position else ""
        path = f"/_matrix/client/unstable/org.matrix.simplified_msc3575/sync{query}"
        answer = await self._pair.bob.ask("POST", path, {"extensions": {"e2ee": {"enabled": True}}})
        self._position = answer["pos"]
        lists = answer["extensions"]["e2ee"].get("device_lists", {"changed": []})
        return [str(user_id) for user_id in lists["changed"]]


async def test_what_is_known_is_given_though_the_server_is_away(pair: Pair) -> None:
    """Also where it is old: and once the server is back, what changed meanwhile is told to everybody."""
    one, two = pair.alice.place, pair.bob.place
    await pair.alice.upload_keys()
    await pair.settle()
    before = await pair.bob.keys_of(pair.alice)
    carol = await person(one, f"@carol:{ONE}", "TABLET")
    await one.rooms.memberships.join(carol.user_id, pair.room_id, [])
    await pair.settle()
    where = f"user_id = '{carol.user_id}'"
    network = two.app._ports.transport
    app = network.apps.pop(ONE)  # type: ignore[attr-defined]
    # Of Alice something is known, of Carol nothing.
    await two.database.write(lambda tx: tx.run(f"DELETE FROM remote_device_lists WHERE {where}"))
    answer = await _everything(pair, carol.user_id)
    assert answer["device_keys"] == {ALICE: before}
    assert list(answer["failures"]) == [ONE]
    day = remote_devices.MAX_AGE_MS
    await two.database.write(
        lambda tx: tx.run(f"UPDATE remote_device_lists SET fetched_at = fetched_at - {day}")
    )
    answer = await _everything(pair)
    assert answer["device_keys"] == {ALICE: before}
    assert list(answer["failures"]) == [ONE]
    # It changes, and of that nothing is told: what is kept for Bob's server is lost.
    await pair.alice.upload_keys("another")
    await one.database.write(lambda tx: tx.run("DELETE FROM device_changes"))
    slides = Slides(pair)
    await slides.changed()
    since = (await pair.bob.ask("GET", "/sync"))["next_batch"]
    network.apps[ONE] = app  # type: ignore[attr-defined]
    two.app._federation.outbox.spoke(ONE)
    await settle(two.clock, seconds=remote_devices.RETRY_SECONDS)
    await pair.settle()
    news = await pair.bob.ask("GET", f"/sync?since={since}")
    assert ALICE in news["device_lists"]["changed"]
    assert ALICE in await slides.changed()
    answer = await _everything(pair)
    assert answer["device_keys"][ALICE]["PHONE"]["keys"]["ed25519:PHONE"] == "another"
    assert answer["failures"] == {}


async def test_keys_for_signing_that_come_while_the_list_is_on_its_way(pair: Pair) -> None:
    await pair.alice.upload_keys()
    await pair.settle()
    remote = pair.bob.place.app._users._remote
    late = LateAnswers(remote._calls)
    remote._calls = late  # type: ignore[assignment]
    await pair.bob.place.database.write(lambda tx: device_lists.mark_stale(tx, ALICE))
    asked = asyncio.create_task(pair.bob.keys_of(pair.alice))
    await late.came.wait()
    key = SigningKey("1", bytes(range(32)))
    name = f"ed25519:{key.public}"
    master = {"user_id": ALICE, "usage": ["master"], "keys": {name: key.public}}
    edu = {"edu_type": "m.signing_key_update", "content": {"user_id": ALICE, "master_key": master}}
    await pair.bob.place.app._users.edus.receive(ONE, [edu], is_replay=False)
    held = pair.bob.place.database.read_now(lambda tx: cross_signing.keys_of(tx, ALICE))
    assert held
    # The server goes on to tell the same of what it has.
    await pair.alice.place.database.write(
        lambda tx: cross_signing.put(tx, ALICE, "master", held["master"], tx.next_position())
    )
    late.gate.set()
    await asked
    assert pair.bob.place.database.read_now(lambda tx: cross_signing.keys_of(tx, ALICE)) == held


class Silent:
    """The calls, in which servers of these names never answer."""

    def __init__(self, calls: UserCalls, names: list[str]) -> None:
        self._calls, self._names = calls, names

    async def query_keys(self, server: str, wanted: dict[str, list[str]], timeout: float) -> dict[str, Any]:
        if server in self._names:
            await asyncio.Event().wait()
        return await self._calls.query_keys(server, wanted, timeout)


async def test_servers_that_hang_hold_nobody_up(pair: Pair) -> None:
    dora = await person(pair.alice.place, f"@dora:{ONE}", "TABLET")
    await dora.upload_keys()
    silent = [f"s{number}.test:1" for number in range(50)]
    queries = pair.bob.place.app._users.key_queries
    queries._calls = Silent(queries._calls, silent)  # type: ignore[assignment]
    wanted: dict[str, list[str]] = {f"@x:{server}": [] for server in silent}
    wanted[dora.user_id] = []
    answer = await pair.bob.ask("POST", "/keys/query", {"device_keys": wanted, "timeout": 500})
    assert "TABLET" in answer["device_keys"][dora.user_id]
    assert answer["failures"].keys() == set(silent)


async def test_a_refusal_is_not_repeated(pair: Pair) -> None:
    """A server that is there and does not know a user is not asked for ever."""
    remote = pair.bob.place.app._users._remote
    with pytest.raises(FederationError):
        await remote.whole(f"@nobody:{ONE}")
    assert not remote._owed

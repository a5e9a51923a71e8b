"""Device lists of users of another server that change while they are asked for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from comity.federation.user_calls import UserCalls
from comity.store import device_lists
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

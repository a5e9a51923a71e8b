"""PUT send between servers: also as servers of 2014 send, empty, and again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from comity.federation.errors import FederationError
from tests.api import support_rooms
from tests.api.neighbours import ask_as, name_of, neighbours, refusal
from tests.api.support_rooms import Place
from tests.engines import quiet

ONE, TWO = name_of(1), name_of(2)


def transaction(*pdus: object, **more: Any) -> dict[str, Any]:
    return {"origin": TWO, "origin_server_ts": 1_400_000_000_000, "pdus": list(pdus), **more}


async def send(there: Place, name: str, body: dict[str, Any]) -> Any:
    return await ask_as(there, ONE, "PUT", f"/v1/send/{name}", body)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"edus": []},
        {"previous_ids": ["916d630ea616342b42e98a3be0b74113"]},
        {"prev_ids": [["a", {}]] * 1000, "destination": ONE},
        {"previous_ids": {"not": "a list"}, "prev_ids": None},
    ],
)
async def test_an_empty_transaction_whatever_comes_beside(tmp_path: Path, more: dict[str, Any]) -> None:
    """2014 §Transactions: `previous_ids` names what the sender sent before, which nobody needs."""
    async with neighbours(tmp_path) as (_, there):
        assert await send(there, "t1", transaction(**more)) == {"pdus": {}}
        assert await send(there, "t2", {"origin": TWO, **more}) == {"pdus": {}}


async def test_each_pdu_has_its_result_and_a_transaction_again_has_the_same(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await alice.create(preset="public_chat")
        await bob.join(room_id, ONE)
        event_id = await bob.say(room_id, "hello")
        [good] = (await ask_as(here, TWO, "GET", f"/v1/event/{event_id}"))["pdus"]
        forged = {**good, "origin_server_ts": 1}
        elsewhere = {**good, "room_id": "!nowhere:example.org"}
        body = transaction(good, forged, elsewhere, "no event", 7, previous_ids=["t0"])
        answer = await send(there, "t1", body)
        assert answer["pdus"].pop(event_id) == {}
        assert answer["pdus"]
        assert all(list(result) == ["error"] for result in answer["pdus"].values())
        again = await send(there, "t1", body)
        assert again["pdus"].pop(event_id) == {}
        assert again == answer
        # What came before it is what counts, whatever comes under that name now.
        assert event_id in (await send(there, "t1", transaction()))["pdus"]


async def test_what_no_transaction_may_be(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (_, there):
        for body, code in (
            (transaction(*[{}] * 51), "M_INVALID_PARAM"),
            (transaction(edus=[{}] * 101), "M_INVALID_PARAM"),
            (transaction(edus={}), "M_BAD_JSON"),
            ({**transaction(), "pdus": {}}, "M_BAD_JSON"),
            ({**transaction(), "origin": ONE}, "M_INVALID_PARAM"),
        ):
            assert await refusal(send(there, "t1", body)) == (400, code)
        assert await refusal(send(there, "t" * 256, transaction())) == (400, "M_INVALID_PARAM")


@pytest.mark.parametrize("enabled", ["true", "false"])
async def test_who_asks_too_much_is_told_so_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enabled: str
) -> None:
    text = support_rooms.CONFIGURATION.replace("enabled = false\n[fed", f"enabled = {enabled}\n[fed")
    monkeypatch.setattr(support_rooms, "CONFIGURATION", text)
    settings = "requests_per_second = 1\nrequest_burst = 5\n"
    async with neighbours(tmp_path, p1=settings) as (here, there):
        for _ in range(5):
            assert await refusal(ask_as(there, ONE, "GET", "/v1/event/$nothing")) == (404, "M_NOT_FOUND")
        state = ask_as(there, ONE, "GET", "/v1/state/!nothing:a.example", event_id="$nothing")
        if enabled == "false":
            assert await refusal(state) == (404, "M_NOT_FOUND")
            return
        with pytest.raises(FederationError) as refused:
            await state
        assert (refused.value.status, refused.value.code) == (429, "M_LIMIT_EXCEEDED")
        assert refused.value.retry_after_ms == 5000
        # A transaction is given time instead.
        waiting = asyncio.create_task(send(there, "t1", transaction()))
        await quiet()
        assert not waiting.done()
        await here.clock.turn(1)
        assert await waiting == {"pdus": {}}

"""How much work other servers may make, on a clock that the test turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import orjson
import pytest

from comity.api.router import Call, Router, json_response
from comity.api.server_auth import OriginGuard
from comity.federation import origin_limits
from comity.federation.certificates import ClientCertificates
from comity.federation.keyring import Keyring
from comity.federation.origin_limits import OriginLimits, cost_of
from comity.federation.server_lists import ServerLists
from comity.ports import Request, Response
from comity.protocol.errors import MatrixError, not_found
from tests.api.support_users import TurnedClock
from tests.engines import quiet
from tests.federation.conftest import OWN_NAME, Side
from tests.federation.peer_server import PeerServer
from tests.federation.test_server_auth import PATH, header

B, C = "b.example", "c.example"
HERE, ELSEWHERE = "192.0.2.1", "192.0.2.2"
GET = "/_matrix/federation/v1/event/%24a"
SEND = "/_matrix/federation/v1/send/t1"


def limits(clock: TurnedClock, *, burst: int = 10, enabled: bool = True) -> OriginLimits:
    return OriginLimits(clock, per_second=1, burst=burst, enabled=enabled)


async def ask(
    limited: OriginLimits, origin: str = B, path: str = GET, content: object = None
) -> Callable[[], None]:
    return await limited.admit(origin, HERE, path, content)


async def refused_for_ms(limited: OriginLimits, origin: str = B, path: str = GET) -> object:
    with pytest.raises(MatrixError) as refused:
        await ask(limited, origin, path)
    assert (refused.value.status, refused.value.code) == (429, "M_LIMIT_EXCEEDED")
    return refused.value.extra["retry_after_ms"]


async def test_who_asks_too_much_is_told_when_to_come_again() -> None:
    clock = TurnedClock()
    limited = limits(clock)
    for _ in range(10):
        (await ask(limited))()
    assert await refused_for_ms(limited) == 1000
    (await ask(limited, C))()
    await clock.turn(1)
    (await ask(limited))()
    assert await refused_for_ms(limited) == 1000


async def test_what_costs_more_counts_more() -> None:
    assert cost_of(GET, None) == 1
    assert cost_of("/_matrix/federation/v1/state/!a", None) == 20
    assert cost_of("/_matrix/federation/v2/send_join/!a/$b", {}) == 20
    assert cost_of(SEND, {"pdus": [{}] * 50}) == 3.5
    assert cost_of(SEND, {"pdus": "x"}) == cost_of(SEND, None) == cost_of("/x", None) == 1
    clock = TurnedClock()
    limited = limits(clock)
    # Dearer than all that may be asked at once: it passes, and is paid off afterwards.
    (await ask(limited, path="/_matrix/federation/v1/state/!a"))()
    assert await refused_for_ms(limited) == 11_000


async def test_a_transaction_waits_a_moment_instead_of_being_refused() -> None:
    clock = TurnedClock()
    limited = limits(clock, burst=1)
    (await ask(limited))()
    waiting = asyncio.create_task(ask(limited, path=SEND))
    await quiet()
    assert not waiting.done()
    await clock.turn(1)
    (await waiting)()
    # Too deep in debt for that.
    (await ask(limits(clock, burst=1), path=SEND, content={"pdus": [{}] * 50}))()
    limited = limits(clock, burst=1)
    (await ask(limited, path="/_matrix/federation/v1/state/!a"))()
    assert await refused_for_ms(limited, path=SEND) == 20_000


async def test_a_bounded_number_of_one_servers_requests_is_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin_limits, "MAX_CONCURRENT", 2)
    monkeypatch.setattr(origin_limits, "MAX_WAITING", 1)
    limited = limits(TurnedClock(), burst=100)
    first, _ = await ask(limited), await ask(limited)
    third = asyncio.create_task(ask(limited))
    await quiet()
    assert not third.done()
    assert await refused_for_ms(limited) == 1000
    (await ask(limited, C))()
    first()
    (await third)()
    (await ask(limited))()


async def test_a_request_that_waits_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin_limits, "MAX_CONCURRENT", 1)
    monkeypatch.setattr(origin_limits, "MAX_WAIT_SECONDS", 0.0)
    limited = limits(TurnedClock(), burst=100)
    end = await ask(limited)
    assert await refused_for_ms(limited) == 1000
    end()
    (await ask(limited))()
    assert limited._turns == {}


async def test_forgeries_are_charged_to_their_address_alone() -> None:
    clock = TurnedClock()
    limited = limits(clock)
    (await ask(limited))()
    for _ in range(100):
        limited.check_address(HERE, C)
        limited.note_forged(HERE)
    with pytest.raises(MatrixError) as refused:
        limited.check_address(HERE, C)
    assert refused.value.status == 429
    # Who has proven itself from there (behind the same proxy) is heard, and so is everybody elsewhere.
    limited.check_address(HERE, B)
    limited.check_address(ELSEWHERE, C)
    # And nobody's budget has been touched.
    for _ in range(9):
        (await ask(limited))()
    await clock.turn(1)
    limited.check_address(HERE, C)


async def test_switched_off() -> None:
    limited = limits(TurnedClock(), burst=1, enabled=False)
    for _ in range(200):
        limited.note_forged(HERE)
        limited.check_address(HERE, C)
        await ask(limited)


# -- in front of the routes


async def test_the_guard_counts_what_is_proven_and_charges_forgeries_to_their_address(
    keyring: Keyring, side: Side, peer: PeerServer
) -> None:
    clock = TurnedClock()
    limited = limits(clock, burst=3)
    router = Router()
    guard = OriginGuard(
        keyring, OWN_NAME, lambda _: None, ClientCertificates(side.keys, clock), None, limited
    )

    async def answer(call: Call) -> Response:
        assert limited._turns[peer.name].users == 1
        if call.query_bool("fail"):
            raise not_found("no")
        return json_response({})

    router.add("GET", "/_matrix/federation/v1/x/{y}", answer, guard=guard, serves="federation")

    async def get(authorization: str, query: str = "") -> Response:
        headers = {"authorization": authorization}
        return await router.handle(Request("GET", PATH, query, headers, b"", HERE, frozenset({"federation"})))

    good = header(peer, "GET")
    forged = good.replace('sig="', 'sig="AAAA')
    for _ in range(20):
        assert (await get(forged)).status == 401
    failing = header(peer, "GET", uri=f"{PATH}?fail=true")
    assert [(await get(good)).status, (await get(failing, "fail=true")).status] == [200, 404]
    assert (await get(good)).status == 200
    refused = await get(good)
    assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
    assert isinstance(refused.body, bytes)
    assert orjson.loads(refused.body)["retry_after_ms"] == 1000
    for _ in range(80):
        assert (await get(forged)).status == 401
    stranger = await get(good.replace(peer.name, "stranger.example"))
    assert stranger.status == 429
    await clock.turn(1)
    assert (await get(good)).status == 200
    assert limited._turns == {}


async def test_the_guard_refuses_who_is_not_welcome_before_anything_is_asked(
    keyring: Keyring, side: Side, peer: PeerServer
) -> None:
    lists = ServerLists(deny=[peer.name])
    guard = OriginGuard(
        keyring, OWN_NAME, lambda _: None, ClientCertificates(side.keys, TurnedClock()), lists
    )
    request = Request("GET", PATH, "", {"authorization": header(peer, "GET")}, b"", HERE, frozenset())
    with pytest.raises(MatrixError) as refused:
        await guard(Call(request, {}))
    assert (refused.value.status, refused.value.code) == (403, "M_FORBIDDEN")

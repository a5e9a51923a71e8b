"""Holes in history: found, remembered, and filled from whoever has what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from comity.ports import Answer, TransportError
from comity.rooms import backfill, gaps, staging
from tests.api.support_rooms import Client
from tests.api.support_rooms import Place as ApiPlace
from tests.rooms.support import Network, Place, a_place, places, settle

ONE, TWO, THREE = "one.test:1001", "two.test:1002", "three.test:1003"
ALICE, BOB, CAROL = f"@alice:{ONE}", f"@bob:{TWO}", f"@carol:{THREE}"


class Line:
    """What goes over the network, and what of it is cut."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.away: set[str] = set()
        #: Servers that answer nothing but transactions.
        self.mute: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        through = Network.request

        async def request(
            network: Network, method: str, endpoint: object, target: str, **more: object
        ) -> Answer:
            server = endpoint.host_header  # type: ignore[attr-defined]
            name = target.split("/")[4]
            self.asked.append((server, name))
            if server in self.away or (server in self.mute and name not in ("send", "server")):
                raise TransportError("the line is cut")
            return await through(network, method, endpoint, target, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(Network, "request", request)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.setattr(staging, "MAX_ROUNDS", 1)
    monkeypatch.setattr(staging, "MISSING_LIMIT", 5)
    monkeypatch.setattr(backfill, "LEAST_EVENTS", 10)
    monkeypatch.setattr(gaps, "MOST_EVENTS", 10)
    return Line(monkeypatch)


async def a_hole(
    line: Line, one: Place, two: Place, three: Place, count: int = 40, *, redacted: bool = False
) -> str:
    """A room of all three in which much was written while `two` was away; `one` is away then.

    What `two` had before is all that there was. If `redacted`, the last of it is redacted in the hole.
    """
    room_id = await one.create(ALICE)
    await two.rooms.memberships.join(BOB, room_id, [ONE])
    while await two.rooms.reader._paging._fill_gap(room_id, 2**62, 100):
        pass
    await three.rooms.memberships.join(CAROL, room_id, [ONE])
    await settle(one.clock, two.clock, three.clock, seconds=1)
    assert two.count("gaps") == 0
    last = await one.say(room_id, "before", ALICE) if redacted else None
    await settle(one.clock, two.clock, three.clock, seconds=1)
    line.away.add(TWO)
    if last is not None:
        await one.send(room_id, ALICE, "m.room.redaction", {}, redacts=last)
    for number in range(count):
        await one.say(room_id, str(number), ALICE)
    await one.send(room_id, ALICE, "m.room.topic", {"topic": "while you were out"}, "")
    await settle(one.clock, three.clock, seconds=1)
    line.away = {ONE}
    await settle(three.clock, seconds=1)
    await three.say(room_id, "welcome back", CAROL)
    await settle(three.clock, seconds=1)
    return room_id


async def test_a_hole_is_filled_before_anybody_pages_there(tmp_path: Path, line: Line) -> None:
    async with places(tmp_path, ONE, TWO, THREE) as (one, two, three):
        room_id = await a_hole(line, one, two, three)
        # What came at once: the newest, and a little of what is before it.
        assert two.timeline(room_id)[-1] == three.timeline(room_id)[-1]
        assert two.count("gaps") == 1
        assert set(two.timeline(room_id)) < set(one.timeline(room_id)) | set(three.timeline(room_id))
        await settle(two.clock, seconds=11)
        assert two.count("gaps") == 0
        assert two.timeline(room_id) == [*one.timeline(room_id), three.timeline(room_id)[-1]]
        assert two.state(room_id) == three.state(room_id)
        two.assert_head_is_stored(room_id)


async def test_what_is_redacted_in_a_hole_is_unread_no_more(tmp_path: Path, line: Line) -> None:
    async with places(tmp_path, ONE, TWO, THREE) as (one, two, three):
        room_id = await a_hole(line, one, two, three, redacted=True)
        await two.app._users.accounts.create(BOB, None)
        token = (await two.app._users.sessions.open(BOB)).access_token
        bob = Client(ApiPlace(two.app, two.clock), BOB, token)
        before = await unread(bob, room_id)
        await settle(two.clock, seconds=11)
        assert two.count("gaps") == 0
        # One less, and one more.
        await three.say(room_id, "news", CAROL)
        await settle(three.clock, seconds=1)
        assert await unread(bob, room_id) == before


async def unread(client: Client, room_id: str) -> int:
    """How many notifications a user has not read in a room."""
    part = (await client.sync())["rooms"]["join"][room_id]
    count: int = part["unread_notifications"]["notification_count"]
    return count


async def test_only_so_much_of_a_hole_is_filled(
    tmp_path: Path, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gaps, "MAX_ROUNDS", 2)
    async with places(tmp_path, ONE, TWO, THREE) as (one, two, three):
        room_id = await a_hole(line, one, two, three)
        before = len(two.timeline(room_id))
        await settle(two.clock, seconds=3600)
        assert len(two.timeline(room_id)) == before + 20
        assert two.count("gaps") == 1
        # A client that pages there gets the rest.
        while await two.rooms.reader._paging._fill_gap(room_id, 2**62, 10):
            pass
        assert two.count("gaps") == 0


async def test_what_nobody_gives_is_asked_for_ever_more_seldom_over_restarts(
    tmp_path: Path, line: Line
) -> None:
    async with places(tmp_path, ONE, TWO, THREE) as (one, two, three):
        room_id = await a_hole(line, one, two, three)
        line.mute = {THREE}
        await settle(two.clock, seconds=11)
        line.asked.clear()
        await settle(two.clock, seconds=30)
        assert (THREE, "backfill") not in line.asked
        assert two.count("gaps") == 1
        timeline = [*one.timeline(room_id), three.timeline(room_id)[-1]]
        network = two.rooms.staging._calls._client._transport
        assert isinstance(network, Network)
        apps = dict(network.apps)
        spent = two.database.read_now(lambda tx: tx.one("SELECT rounds FROM gaps"))
        assert spent == (1,)
        line.mute = set()
        # The second server is another process by now, which knows nothing but what is on the disk.
        await two.app.stop()
        del apps[TWO]
        async with a_place(tmp_path / TWO.replace(":", "_"), TWO, network=network, seed=9) as again:
            await again.clock.turn(60)
            await settle(again.clock, seconds=11)
            assert again.count("gaps") == 0
            assert again.timeline(room_id) == timeline


async def test_other_servers_are_asked_for_what_an_event_lacks(tmp_path: Path, line: Line) -> None:
    async with places(tmp_path, ONE, TWO, THREE) as (one, two, three):
        line.mute = {THREE}
        room_id = await a_hole(line, one, two, three, count=8)
        assert two.count("staged_events") == 1
        # The writer's server says nothing; another is back.
        line.away = set()
        await settle(two.clock, seconds=60)
        assert two.count("staged_events") == 0
        assert (ONE, "get_missing_events") in line.asked
        await settle(two.clock, seconds=60)
        assert two.state(room_id) == three.state(room_id)


async def test_what_was_before_a_join_is_left_to_those_who_page_there(tmp_path: Path, line: Line) -> None:
    async with places(tmp_path, ONE, TWO) as (one, two):
        room_id = await one.create(ALICE)
        for number in range(12):
            await one.say(room_id, str(number), ALICE)
        await two.rooms.memberships.join(BOB, room_id, [ONE])
        await settle(two.clock, seconds=3600)
        assert two.count("gaps") == 1
        assert len(two.timeline(room_id)) == 1

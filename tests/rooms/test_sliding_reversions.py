"""What state resolution takes back, as sliding sync tells it: no event of a timeline says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.api.support_rooms import ask
from tests.rooms.support import ALICE, BOB, CAROL, Place, a_place
from tests.rooms.test_forks import a_shared_room

EVE = "@eve:d.example"
PATH = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"


class Slider:
    """Alice's client, which asks for one list."""

    def __init__(self, place: Place, token: str) -> None:
        self._place, self._token = place, token
        self._pos: dict[str, object] = {}

    async def slide(self, *required: list[str], limit: int = 10) -> Any:
        wish = {"ranges": [[0, 9]], "timeline_limit": limit, "required_state": required}
        body = {"lists": {"all": wish}}
        answer = (await ask(self._place.app, "POST", PATH, body, self._pos, self._token)).ok()
        self._pos = {"pos": answer["pos"]}
        return answer["rooms"]


async def a_slider(place: Place) -> Slider:
    body = {"username": "alice", "password": "correct horse", "auth": {"type": "m.login.dummy"}}
    answer = (await ask(place.app, "POST", "/_matrix/client/v3/register", body, {}, None)).ok()
    assert answer["user_id"] == ALICE
    return Slider(place, answer["access_token"])


def by_key(events: list[dict[str, Any]]) -> dict[tuple[str, str], Any]:
    return {(event["type"], event["state_key"]): event for event in events}


async def test_who_is_no_member_any_more_is_told_though_members_are_loaded_lazily(tmp_path: Path) -> None:
    """Or messages would go on being encrypted for them."""
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place, "11")
        client, lazy = await a_slider(place), ["m.room.member", "$LAZY"]
        await client.slide(lazy)
        late = branch.fork()
        await place.accept(branch.join(EVE))
        told = (await client.slide(lazy))[room_id]
        assert by_key(told["required_state"])["m.room.member", EVE]["content"]["membership"] == "join"
        await place.accept(late.send(BOB, "m.room.join_rules", {"join_rule": "invite"}, ""))
        assert place.membership(room_id, EVE) is None
        told = (await client.slide(lazy))[room_id]
        # MSC4186 StateStub: what there is no more of has no content.
        assert {"type": "m.room.member", "state_key": EVE} in told["required_state"]
        assert told["joined_count"] == 4
        assert await client.slide(lazy) == {}


async def test_a_member_whom_nothing_told_of_is_told_where_there_is_no_gap(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place, "11")
        client, lazy = await a_slider(place), ["m.room.member", "$LAZY"]
        late = branch.fork()
        await place.accept(branch.join(EVE))
        for number in range(2):
            await place.say(room_id, str(number))
        told = (await client.slide(lazy, limit=1))[room_id]
        assert by_key(told["required_state"]).keys() == {("m.room.member", ALICE)}
        await place.accept(late.send(BOB, "m.room.join_rules", {"join_rule": "invite"}, ""))
        told = (await client.slide(lazy, limit=1))[room_id]
        assert told["limited"] is False
        assert {"type": "m.room.member", "state_key": EVE} in told["required_state"]


async def test_more_members_than_are_told_are_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After which apps fetch the list of members: a large room that is whole at last changes thousands."""
    monkeypatch.setattr("comity.sync.sliding.room.MAX_MEMBERS", 0)
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place, "11")
        client, lazy = await a_slider(place), ["m.room.member", "$LAZY"]
        late = branch.fork()
        await place.accept(branch.join(EVE))
        await place.say(room_id, "hello")
        await client.slide(lazy, limit=1)
        await place.accept(late.send(BOB, "m.room.join_rules", {"join_rule": "invite"}, ""))
        told = (await client.slide(lazy, limit=1))[room_id]
        assert (told["limited"], told["joined_count"]) == (True, 4)
        assert by_key(told["required_state"]).keys() == {("m.room.member", BOB)}
        assert [event["type"] for event in told["timeline"]] == ["m.room.join_rules"]
        assert told["prev_batch"]


async def test_state_that_is_gone_is_told_to_who_wants_it(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id, branch = await a_shared_room(place, "11")
        client = await a_slider(place)
        wanted = (["m.room.name", ""], ["m.room.topic", ""])
        late = branch.fork()
        named = branch.send(CAROL, "m.room.name", {"name": "Carol's"}, "")
        await place.accept(named)
        assert (await client.slide(*wanted))[room_id]["name"] == "Carol's"
        await place.accept(late.ban(BOB, CAROL))
        assert place.content(room_id, "m.room.name") is None
        told = (await client.slide(*wanted))[room_id]
        assert told["required_state"] == [{"type": "m.room.name", "state_key": ""}]
        assert told["name"] is None
        # Who begins anew never had it.
        client = Slider(place, client._token)
        assert (await client.slide(*wanted))[room_id]["required_state"] == []

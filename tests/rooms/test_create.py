"""Rooms are made whole or not at all (client-server §Creation)."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest

from comity.protocol.errors import MatrixError
from comity.protocol.room_versions import ROOM_VERSIONS
from tests.rooms.support import ALICE, AMY, BOB, Place, a_place

VERSIONS = ("1", "6", "10", "11", "12")
TABLES = (
    "rooms",
    "events",
    "state_slots",
    "state_pages",
    "forward_extremities",
    "memberships",
    "local_memberships",
    "aliases",
    "room_heads",
)
PRESETS = {
    "private_chat": ("invite", "shared", "can_join"),
    "trusted_private_chat": ("invite", "shared", "can_join"),
    "public_chat": ("public", "shared", "forbidden"),
}


def rows(place: Place) -> dict[str, int]:
    return {table: place.count(table) for table in TABLES}


async def refused(place: Place, **fields: Any) -> tuple[int, str]:
    """(status, code) with which a room is refused; nothing of it may be left."""
    before = rows(place)
    with pytest.raises(MatrixError) as caught:
        await place.create(**fields)
    assert rows(place) == before
    return caught.value.status, caught.value.code


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("preset", PRESETS)
async def test_presets(tmp_path: Path, version: str, preset: str) -> None:
    async with a_place(tmp_path) as place:
        room_id = await place.create(version=version, preset=preset, invite=[AMY])
        rule, history, guests = PRESETS[preset]
        assert place.content(room_id, "m.room.join_rules") == {"join_rule": rule}
        assert place.content(room_id, "m.room.history_visibility") == {"history_visibility": history}
        assert place.content(room_id, "m.room.guest_access") == {"guest_access": guests}
        assert place.membership(room_id, ALICE) == "join"
        create = place.content(room_id, "m.room.create") or {}
        levels = place.content(room_id, "m.room.power_levels") or {}
        assert create["room_version"] == version
        trusted = preset == "trusted_private_chat"
        if version == "12":
            assert ALICE not in levels["users"]
            assert create.get("additional_creators", []) == ([AMY] if trusted else [])
            assert levels["events"]["m.room.tombstone"] > 100
        else:
            assert levels["users"] == ({ALICE: 100, AMY: 100} if trusted else {ALICE: 100})
            assert "additional_creators" not in create
        assert ("creator" in create) == (not ROOM_VERSIONS[version].creator_is_sender)
        place.assert_head_is_stored(room_id)


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_order_of_the_first_events(tmp_path: Path, version: str) -> None:
    async with a_place(tmp_path) as place:
        room_id = await place.create(
            version=version,
            name="Name",
            topic="Topic",
            alias_localpart="al",
            initial_state=[
                {"type": "m.room.topic", "content": {"topic": "overridden"}},
                {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "invite"}},
                {"type": "x.y", "state_key": "k", "content": {"a": 1}},
            ],
        )
        events = [place.stored(event_id) for event_id in place.timeline(room_id)]
        types = [stored.event.type for stored in events if stored is not None]
        assert types[:4] == [
            "m.room.create", "m.room.member", "m.room.power_levels", "m.room.canonical_alias"
        ]  # fmt: skip
        assert types[-2:] == ["m.room.name", "m.room.topic"]
        assert types.index("x.y") > types.index("m.room.history_visibility")
        assert place.content(room_id, "m.room.join_rules") == {"join_rule": "invite"}
        assert (place.content(room_id, "m.room.topic") or {})["topic"] == "Topic"
        assert place.content(room_id, "m.room.canonical_alias") == {"alias": "#al:a.example"}
        assert place.content(room_id, "x.y", "k") == {"a": 1}
        assert (await place.rooms.directory.local("#al:a.example"))[0] == room_id
        # One line of events, each allowed by those before it.
        for earlier, later in itertools.pairwise(events):
            assert earlier is not None
            assert later is not None
            assert later.event.prev_event_ids == (earlier.event.event_id,)
            assert later.event.depth == earlier.event.depth + 1


async def test_the_room_id_of_version_12_is_the_create_events(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id = await place.create(version="12")
        assert room_id == "!" + place.state(room_id)["m.room.create", ""][1:]


async def test_rooms_made_in_the_same_moment_are_different_rooms(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        made = await asyncio.gather(*(place.create(version="12") for _ in range(5)))
        assert len(set(made)) == 5


@pytest.mark.parametrize("version", VERSIONS)
async def test_power_levels_are_overridden_key_by_key(tmp_path: Path, version: str) -> None:
    async with a_place(tmp_path) as place:
        users = {AMY: 50} if version == "12" else {ALICE: 100, AMY: 50}
        override = {"users": users, "invite": 50, "events": {"x.y": 3}}
        room_id = await place.create(version=version, power_level_content_override=override)
        levels = place.content(room_id, "m.room.power_levels") or {}
        # client-server §Creation: the level of tombstones MUST be above state_default in version 12.
        events = {"x.y": 3, "m.room.tombstone": 150} if version == "12" else {"x.y": 3}
        assert (levels["users"], levels["invite"], levels["events"]) == (users, 50, events)
        assert levels["ban"] == 50


@pytest.mark.parametrize("version", ["1", "10", "12"])
async def test_power_levels_may_be_initial_state(tmp_path: Path, version: str) -> None:
    """Events of initial_state take precedence over those of the preset."""
    async with a_place(tmp_path) as place:
        content = {"users": {AMY: 50} if version == "12" else {ALICE: 100, AMY: 50}, "ban": 77}
        room_id = await place.create(
            version=version,
            initial_state=[{"type": "m.room.power_levels", "state_key": "", "content": content}],
        )
        assert place.content(room_id, "m.room.power_levels") == content


async def test_additional_creators(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        room_id = await place.create(
            version="12", preset="trusted_private_chat", invite=[AMY],
            creation_content={"additional_creators": [BOB, ALICE], "m.federate": True, "room_version": "1"},
        )  # fmt: skip
        create = place.content(room_id, "m.room.create") or {}
        assert sorted(create["additional_creators"]) == sorted([BOB, AMY])
        assert create["room_version"] == "12"
        wrong: tuple[object, ...] = ("x", ["not a user"], [1])
        for value in wrong:
            assert (await refused(place, version="12", creation_content={"additional_creators": value}))[
                0
            ] == 400


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_is_not_allowed_leaves_nothing_behind(tmp_path: Path, version: str) -> None:
    async with a_place(tmp_path) as place:
        await place.create(version=version, alias_localpart="taken")
        assert await refused(place, version=version, alias_localpart="taken") == (400, "M_ROOM_IN_USE")
        assert (await refused(place, version=version, alias_localpart="a b"))[0] == 400
        assert (await refused(place, version=version, preset="nonsense"))[0] == 400
        assert await refused(place, version=version, name="x" * 70_000) == (413, "M_TOO_LARGE")
        bad: list[dict[str, Any]] = [
            {"type": "x", "content": {"n": 1.5}},
            {"type": "x", "content": []},
            {"type": 1, "content": {}},
            {"content": {}},
            {"type": "x", "state_key": 1, "content": {}},
            {"type": "x", "state_key": BOB, "content": {}},
        ]
        for entry in bad:
            assert (await refused(place, version=version, initial_state=[entry]))[0] in (400, 403)
        lost = {"users": {BOB: 100}, "users_default": 0}
        if version != "12":
            # Nobody who is here could do anything.
            assert (await refused(place, version=version, power_level_content_override=lost, name="x"))[
                0
            ] in (
                400,
                403,
            )
        assert await refused(place, version="99") == (400, "M_UNSUPPORTED_ROOM_VERSION")
        # And the next room is well.
        room_id = await place.create(version=version, name="well")
        place.assert_head_is_stored(room_id)


async def test_an_alias_that_two_want_at_once_is_given_once(tmp_path: Path) -> None:
    async with a_place(tmp_path) as place:
        results = await asyncio.gather(
            *(place.create(alias_localpart="one") for _ in range(3)), return_exceptions=True
        )
        made = [result for result in results if isinstance(result, str)]
        failed = [result for result in results if isinstance(result, MatrixError)]
        assert (len(made), len(failed)) == (1, 2)
        assert {error.code for error in failed} == {"M_ROOM_IN_USE"}
        assert place.count("rooms") == 1
        assert (await place.rooms.directory.local("#one:a.example"))[0] == made[0]
        await place.say(made[0], "well")

"""What servers of an older make ask: the endpoints of memberships in their first version."""

from __future__ import annotations

from pathlib import Path

from comity.protocol.build import Draft
from tests.api.neighbours import ask_as, name_of, neighbours, refusal, settle, signed
from tests.api.support_users import at

ONE = name_of(1)


async def test_joining_and_leaving_by_the_first_version(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await alice.create(room_version="2")
        template = await ask_as(
            there, ONE, "GET", at("v1", "make_join", room_id, bob.user_id), ver=["1", "2"]
        )
        event = signed(there, template, bob.user_id, {"membership": "join"})
        path = at("v1", "send_join", room_id, event.event_id)
        status, answer = await ask_as(there, ONE, "PUT", path, dict(event.source))
        assert status == 200
        assert {item["type"] for item in answer["state"]} >= {"m.room.create", "m.room.member"}
        assert answer["auth_chain"]
        template = await ask_as(there, ONE, "GET", at("v1", "make_leave", room_id, bob.user_id))
        event = signed(there, template, bob.user_id, {"membership": "leave"})
        path = at("v1", "send_leave", room_id, event.event_id)
        assert await refusal(ask_as(there, ONE, "PUT", path, {})) == (400, "M_INVALID_PARAM")
        assert await ask_as(there, ONE, "PUT", path, dict(event.source)) == [200, {}]
        left = (await alice.ask("GET", at("rooms", room_id, "state", "m.room.member", bob.user_id))).ok()
        assert left == {"membership": "leave"}


async def test_inviting_by_the_first_version(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        rooms = here.app._rooms
        for version, expected in (("2", (200, None)), ("10", (400, "M_INCOMPATIBLE_ROOM_VERSION"))):
            room_id = await alice.create(preset="private_chat", name="Old", room_version=version)
            room = await rooms.writer.resident_room(room_id)
            draft = Draft("m.room.member", alice.user_id, {"membership": "invite"}, bob.user_id)
            event = await rooms.memberships._decisions.draft(
                room,
                lambda tx, batch, draft=draft: rooms.memberships._draft_invite(tx, batch, draft),  # type: ignore[misc]
            )
            shown = [dict(item.source) for item in await rooms.memberships.invite_state(room)]
            body = {**event.source, "unsigned": {"invite_room_state": shown}}
            path = at("v1", "invite", room_id, event.event_id)
            assert await refusal(ask_as(here, name_of(2), "PUT", path, body)) == expected
            if version == "2":
                status, answer = await ask_as(here, name_of(2), "PUT", path, body)
                assert status == 200
                assert set(answer["event"]["signatures"]) == {ONE, name_of(2)}
                assert room_id in (await bob.sync())["rooms"]["invite"]
        await settle(here, there)


async def test_an_invite_must_show_the_room_that_it_is_to(tmp_path: Path) -> None:
    """From room version 12 on: the create event must be there, and be that of the room."""
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        rooms = here.app._rooms
        room_id, other = [await alice.create(preset="private_chat", name="Mine") for _ in range(2)]
        room = await rooms.writer.resident_room(room_id)
        draft = Draft("m.room.member", alice.user_id, {"membership": "invite"}, bob.user_id)
        event = await rooms.memberships._decisions.draft(
            room, lambda tx, batch: rooms.memberships._draft_invite(tx, batch, draft)
        )
        shown = [dict(item.source) for item in await rooms.memberships.invite_state(room)]
        others_room = await rooms.writer.resident_room(other)
        others = [dict(item.source) for item in await rooms.memberships.invite_state(others_room)]
        forged = [{**item, "content": {**item["content"], "type": "m.space"}} for item in shown]
        path = at("v2", "invite", room_id, event.event_id)
        for state, expected in (
            ([], 400), (others, 400), (forged[:1], 400), (shown[1:], 400), (shown[:1], 200), (shown, 200),
        ):  # fmt: skip
            body = {"room_version": "12", "event": dict(event.source), "invite_room_state": state}
            status, _ = await refusal(ask_as(here, name_of(2), "PUT", path, body))
            assert status == expected, state
        assert room_id in (await bob.sync())["rooms"]["invite"]


async def test_queries_of_an_unknown_type(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (here, there):
        alice = await here.client("alice")
        assert await ask_as(there, ONE, "GET", "/v1/query/profile", user_id=alice.user_id) is not None
        unknown = ask_as(there, ONE, "GET", "/v1/query/weather", town="London")
        assert await refusal(unknown) == (404, "M_UNRECOGNIZED")

"""Upgrades of rooms: who may, what comes along, what becomes of the old room and of its members."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.api.neighbours import name_of, neighbours, settle
from tests.api.support_rooms import Client, Place, ask, by_key, place
from tests.api.support_users import Answer, at
from tests.engines import quiet

ONE = name_of(1)
#: A policy server of our own that takes offence at a user.
POLICY = '[policy]\nenabled = true\ndeny_users = ["@alice:*"]\n'


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


async def try_upgrade(client: Client, room_id: str, version: str = "12", **more: object) -> Answer:
    """Ask for another room version."""
    return await client.ask("POST", at("rooms", room_id, "upgrade"), {"new_version": version, **more})


async def upgrade(client: Client, room_id: str, version: str = "12", **more: object) -> str:
    """Upgrade a room; the new one's id."""
    answer = (await try_upgrade(client, room_id, version, **more)).ok()
    assert list(answer) == ["replacement_room"]
    new_id: str = answer["replacement_room"]
    assert new_id != room_id
    return new_id


async def state(client: Client, room_id: str) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The state of a room: contents by key."""
    return by_key((await client.ask("GET", at("rooms", room_id, "state"))).ok())


async def leads_to(client: Client, alias: str) -> str:
    """The room that an alias leads to."""
    room_id: str = (await client.ask("GET", at("directory", "room", alias))).ok()["room_id"]
    return room_id


@pytest.mark.parametrize(("old", "new"), [("1", "6"), ("9", "11"), ("10", "12"), ("12", "12"), ("12", "10")])
async def test_what_comes_along(here: Place, old: str, new: str) -> None:
    alice, bob, mallory = await here.clients("alice", "bob", "mallory")
    allow = [{"type": "m.room_membership", "room_id": "!club:example.org"}]
    carried: dict[str, dict[str, Any]] = {
        "m.room.server_acl": {"allow": ["*"], "deny": ["evil.example"], "allow_ip_literals": False},
        "m.room.encryption": {"algorithm": "m.megolm.v1.aes-sha2"},
        "m.room.name": {"name": "The club"},
        "m.room.avatar": {"url": "mxc://example.org/a"},
        "m.room.topic": {"topic": "Of the club"},
        "m.room.guest_access": {"guest_access": "can_join"},
        "m.room.history_visibility": {"history_visibility": "joined"},
        "m.room.policy": {"via": "policy.example"},
    }
    room_id = await alice.create(
        room_version=old,
        creation_content={"m.federate": False, "type": "org.example.kind"},
        initial_state=[{"type": kind, "state_key": "", "content": body} for kind, body in carried.items()],
    )
    await bob.join(room_id)
    await mallory.join(room_id)
    await alice.set_state(room_id, "org.example.own", {"a": 1})
    (
        await alice.ask("POST", at("rooms", room_id, "ban"), {"user_id": mallory.user_id, "reason": "spam"})
    ).ok()
    rule = (
        {"join_rule": "restricted", "allow": allow} if old in ("9", "10", "12") else {"join_rule": "invite"}
    )
    last = await alice.set_state(room_id, "m.room.join_rules", rule)
    new_id = await upgrade(alice, room_id, new)
    found = await state(alice, new_id)
    create = dict(found["m.room.create", ""])
    assert create.pop("creator", alice.user_id) == alice.user_id
    assert create == {
        "room_version": new, "type": "org.example.kind", "m.federate": False,
        "predecessor": {"room_id": room_id, "event_id": last},
    }  # fmt: skip
    assert {kind: found[kind, ""] for kind in carried} == carried
    assert found["m.room.join_rules", ""] == rule
    assert found["m.room.member", mallory.user_id] == {"membership": "ban", "reason": "spam"}
    assert found["m.room.member", alice.user_id]["membership"] == "join"
    # Nobody else can be put into a room, and what its sender gives its meaning stays where it was.
    assert ("m.room.member", bob.user_id) not in found
    assert ("org.example.own", "") not in found
    before = await state(alice, room_id)
    assert before["m.room.tombstone", ""]["replacement_room"] == new_id
    assert before["m.room.tombstone", ""]["body"]
    (await mallory.ask("POST", at("join", new_id), {})).failed(403, "M_FORBIDDEN")
    # And no setting is made up.
    assert not {"m.room.canonical_alias", "m.room.tombstone"} & {kind for kind, _ in found}


async def test_the_old_room_is_quiet(here: Place) -> None:
    """Step 6: nobody ordinary talks or invites any more; the admins still can."""
    alice, bob, carol = await here.clients("alice", "bob", "carol")
    for users_default, least in ((0, 50), (60, 61)):
        room_id = await alice.create(
            room_version="10", power_level_content_override={"users_default": users_default}
        )
        await bob.join(room_id)
        await upgrade(alice, room_id)
        levels = (await state(alice, room_id))["m.room.power_levels", ""]
        assert (levels["events_default"], levels["invite"]) == (least, least)
        answer = await bob.ask("PUT", at("rooms", room_id, "send", "m.room.message", "t"), {"body": "x"})
        answer.failed(403, "M_FORBIDDEN")
        invite = await bob.ask("POST", at("rooms", room_id, "invite"), {"user_id": carol.user_id})
        invite.failed(403, "M_FORBIDDEN")
        await alice.say(room_id, "It goes on over there")


async def test_levels_that_are_higher_are_not_lowered(here: Place) -> None:
    alice = await here.client("alice")
    room_id = await alice.create(
        room_version="10", power_level_content_override={"events_default": 70, "invite": 80}
    )
    before = (await state(alice, room_id))["m.room.power_levels", ""]
    await upgrade(alice, room_id)
    assert (await state(alice, room_id))["m.room.power_levels", ""] == before


async def test_creators_have_no_level_in_version_12(here: Place) -> None:
    alice, bob, carol, dora = await here.clients("alice", "bob", "carol", "dora")
    users = {alice.user_id: 100, bob.user_id: 100, carol.user_id: 50, dora.user_id: 7}
    room_id = await alice.create(
        room_version="11",
        power_level_content_override={"users": users, "kick": 33, "notifications": {"room": 4}},
    )
    await bob.join(room_id)
    new_id = await upgrade(bob, room_id, additional_creators=[carol.user_id, bob.user_id, carol.user_id])
    found = await state(bob, new_id)
    assert found["m.room.create", ""]["additional_creators"] == [carol.user_id]
    levels = found["m.room.power_levels", ""]
    assert levels["users"] == {alice.user_id: 100, dora.user_id: 7}
    assert (levels["kick"], levels["notifications"]) == (33, {"room": 4})
    # Admins could send tombstones before, and can: that is above state_default.
    assert levels["events"]["m.room.tombstone"] == 100
    await carol.join(new_id)
    await carol.set_state(new_id, "m.room.power_levels", {**levels, "users": {dora.user_id: 9_000}})


async def test_a_tombstone_needs_more_than_other_state_in_version_12(here: Place) -> None:
    alice = await here.client("alice")
    for events in ({}, {"m.room.tombstone": 50}):
        room_id = await alice.create(room_version="9", power_level_content_override={"events": events})
        levels = (await state(alice, await upgrade(alice, room_id)))["m.room.power_levels", ""]
        assert levels["events"]["m.room.tombstone"] == 150


async def test_by_somebody_who_is_no_creator(here: Place) -> None:
    """The creators of the old room, whose power no event tells, do not lose all of it."""
    alice, bob, carol = await here.clients("alice", "bob", "carol")
    room_id = await alice.create(
        room_version="12",
        creation_content={"additional_creators": [carol.user_id]},
        power_level_content_override={"users": {bob.user_id: 100}},
    )
    await bob.join(room_id)
    refused = (await try_upgrade(bob, room_id)).failed(403, "M_FORBIDDEN")
    assert "upgrade" in refused["error"]
    levels = dict((await state(alice, room_id))["m.room.power_levels", ""])
    levels["events"] = {**levels["events"], "m.room.tombstone": 100}
    await alice.set_state(room_id, "m.room.power_levels", levels)
    new_id = await upgrade(bob, room_id)
    found = await state(bob, new_id)
    assert "additional_creators" not in found["m.room.create", ""]
    assert found["m.room.power_levels", ""]["users"] == {alice.user_id: 100, carol.user_id: 100}
    await alice.join(new_id)
    await alice.set_state(new_id, "m.room.name", {"name": "Still mine to name"})
    # And to an older version, in which creators have a level: nobody is locked out.
    older = await upgrade(bob, new_id, "10")
    assert (await state(bob, older))["m.room.power_levels", ""]["users"][bob.user_id] == 100


async def test_a_moderator_upgrades_and_stays_one(here: Place) -> None:
    """What the user could not set in the old room comes along all the same."""
    alice, bob = await here.clients("alice", "bob")
    events = {"m.room.tombstone": 50, "m.room.server_acl": 100, "m.room.power_levels": 100}
    users = {alice.user_id: 100, bob.user_id: 50}
    room_id = await alice.create(
        room_version="6",
        power_level_content_override={"users": users, "events": events},
        initial_state=[{"type": "m.room.server_acl", "content": {"allow": ["*"], "deny": ["a.example"]}}],
    )
    await bob.join(room_id)
    new_id = await upgrade(bob, room_id, "10")
    found = await state(bob, new_id)
    assert found["m.room.server_acl", ""]["deny"] == ["a.example"]
    assert found["m.room.power_levels", ""]["users"] == users
    # They may not change the old room's levels: the tombstone stands without that.
    before = await state(bob, room_id)
    assert before["m.room.tombstone", ""]["replacement_room"] == new_id
    assert before["m.room.power_levels", ""]["events_default"] == 0


async def test_levels_that_are_strings_become_integers(here: Place) -> None:
    alice = await here.client("alice")
    room_id = await alice.create(room_version="5")
    content = {"users": {alice.user_id: " 100 "}, "ban": "60", "events": {"x.y": "7"}, "x": "y"}
    await alice.set_state(room_id, "m.room.power_levels", content)
    levels = (await state(alice, await upgrade(alice, room_id, "10")))["m.room.power_levels", ""]
    assert levels == {"users": {alice.user_id: 100}, "ban": 60, "events": {"x.y": 7}}


@pytest.mark.parametrize(
    ("old", "new", "rule", "becomes"),
    [("10", "7", "knock_restricted", "knock"), ("10", "8", "knock_restricted", "restricted"),
     ("12", "6", "restricted", "invite"), ("7", "6", "knock", "invite"),
     ("10", "6", "knock_restricted", "invite"), ("8", "10", "restricted", "restricted"),
     ("6", "12", "invite", "invite")],
)  # fmt: skip
async def test_a_join_rule_that_the_version_does_not_know(
    here: Place, old: str, new: str, rule: str, becomes: str
) -> None:
    """Never a laxer one."""
    alice = await here.client("alice")
    content = {"join_rule": rule, "allow": [{"type": "m.room_membership", "room_id": "!a:example.org"}]}
    room_id = await alice.create(
        room_version=old, initial_state=[{"type": "m.room.join_rules", "content": content}]
    )
    new_id = await upgrade(alice, room_id, new)
    assert (await state(alice, new_id))["m.room.join_rules", ""] == {**content, "join_rule": becomes}


async def test_the_allow_list_lets_members_in(here: Place) -> None:
    alice, bob = await here.clients("alice", "bob")
    club = await alice.create(room_version="10")
    await bob.join(club)
    allow = [{"type": "m.room_membership", "room_id": club}]
    rule = {"type": "m.room.join_rules", "content": {"join_rule": "restricted", "allow": allow}}
    room_id = await alice.create(room_version="8", initial_state=[rule])
    await bob.join(await upgrade(alice, room_id))


async def test_aliases_and_the_directory_lead_on(here: Place) -> None:
    alice, bob = await here.clients("alice", "bob")
    room_id = await alice.create(room_alias_name="club", visibility="public", name="The club")
    await bob.join(room_id)
    (await bob.ask("PUT", at("directory", "room", "#other:example.org"), {"room_id": room_id})).ok()
    aliases = {"alias": "#club:example.org", "alt_aliases": ["#other:example.org"]}
    await alice.set_state(room_id, "m.room.canonical_alias", aliases)
    new_id = await upgrade(alice, room_id)
    for alias in ("#club:example.org", "#other:example.org"):
        assert await leads_to(bob, alias) == new_id
    assert (await state(alice, new_id))["m.room.canonical_alias", ""] == aliases
    assert (await state(alice, room_id))["m.room.canonical_alias", ""] == {}
    listed = (await bob.ask("GET", "/publicRooms")).ok()["chunk"]
    assert [room["room_id"] for room in listed] == [new_id]
    for each, visibility in ((room_id, "private"), (new_id, "public")):
        answer = (await bob.ask("GET", at("directory", "list", "room", each))).ok()
        assert answer == {"visibility": visibility}
    # Whose alias it was may still delete it.
    (await bob.ask("DELETE", at("directory", "room", "#other:example.org"))).ok()


async def test_aliases_of_other_servers_stay(tmp_path: Path) -> None:
    async with neighbours(tmp_path) as (here, there):
        alice, bob = await here.client("alice"), await there.client("bob")
        room_id = await alice.create(room_alias_name="club", room_version="10")
        await bob.join(room_id, via=ONE)
        theirs, ours = f"#theirs:{name_of(2)}", f"#club:{ONE}"
        (await bob.ask("PUT", at("directory", "room", theirs), {"room_id": room_id})).ok()
        await alice.set_state(room_id, "m.room.canonical_alias", {"alias": ours, "alt_aliases": [theirs]})
        new_id = await upgrade(alice, room_id)
        await settle(here, there)
        assert (await state(alice, new_id))["m.room.canonical_alias", ""] == {"alias": ours}
        assert (await state(bob, room_id))["m.room.canonical_alias", ""] == {"alt_aliases": [theirs]}
        assert (await state(bob, room_id))["m.room.tombstone", ""]["replacement_room"] == new_id
        # Their settings come along on their own server, which learns of both rooms from ours.
        await bob.account_data("m.tag", {"tags": {"m.favourite": {}}}, room_id)
        await bob.join(new_id, via=ONE)
        tags = at("user", bob.user_id, "rooms", new_id, "tags")
        assert (await bob.ask("GET", tags)).ok() == {"tags": {"m.favourite": {}}}


async def test_a_space_keeps_its_rooms(here: Place) -> None:
    alice = await here.client("alice")
    space = await alice.create(room_version="9", creation_content={"type": "m.space"})
    child = {"via": ["example.org"], "order": "a"}
    await alice.set_state(space, "m.space.child", child, "!child:example.org")
    await alice.set_state(space, "m.space.child", {}, "!gone:example.org")
    found = await state(alice, await upgrade(alice, space))
    assert found["m.room.create", ""]["type"] == "m.space"
    assert {key: content for key, content in found.items() if key[0] == "m.space.child"} == {
        ("m.space.child", "!child:example.org"): child
    }


async def test_who_may_not(here: Place) -> None:
    alice, bob, carol = await here.clients("alice", "bob", "carol")
    room_id = await alice.create(room_version="10")
    await bob.join(room_id)
    for client in (bob, carol):
        (await try_upgrade(client, room_id)).failed(403, "M_FORBIDDEN")
    await alice.set_state(room_id, "m.room.name", {"name": "Still here"})
    (await try_upgrade(alice, "!nothing:example.org")).failed(404, "M_NOT_FOUND")
    for version in ("99", "", "x" * 300):
        (await try_upgrade(alice, room_id, version)).failed(400, "M_UNSUPPORTED_ROOM_VERSION")
    path = at("rooms", room_id, "upgrade")
    (await alice.ask("POST", path, {})).failed(400, "M_MISSING_PARAM")
    (await alice.ask("POST", path, {"new_version": 12})).failed(400, "M_BAD_JSON")
    malformed: tuple[object, ...] = ("x", ["no user"], [1], {}, [["@a:b"]])
    for creators in malformed:
        answer = await try_upgrade(alice, room_id, additional_creators=creators)
        answer.failed(400, "M_INVALID_PARAM")
    assert ("m.room.tombstone", "") not in await state(alice, room_id)
    rooms = (await alice.ask("GET", "/joined_rooms")).body.get("joined_rooms", [room_id])
    assert rooms == [room_id]
    # Where the version knows no additional creators, the field has no effect.
    new_id = await upgrade(alice, room_id, "11", additional_creators="x")
    assert "additional_creators" not in (await state(alice, new_id))["m.room.create", ""]


async def test_one_question_asked_twice_has_one_answer(here: Place) -> None:
    alice = await here.client("alice")
    room_id = await alice.create(room_version="10")
    answers = await asyncio.gather(*(upgrade(alice, room_id) for _ in range(3)))
    assert len(set(answers)) == 1


async def test_a_crash_before_the_tombstone(tmp_path: Path) -> None:
    """The old room is as it was, aliases and all, and can be upgraded."""
    async with place(tmp_path) as here:
        alice, bob = await here.clients("alice", "bob")
        room_id = await alice.create(room_version="10", room_alias_name="club", visibility="public")
        await bob.join(room_id)
        asking = asyncio.ensure_future(try_upgrade(alice, room_id))
        while here.database.read_now(lambda tx: tx.one("SELECT count(*) FROM rooms")) == (1,):
            await quiet(1)
        (running,) = here.app._rooms.upgrader._running.values()
        running.cancel()
        await asyncio.gather(asking, running, return_exceptions=True)
    async with place(tmp_path, seed=2) as here:
        alice, bob = here.again(alice), here.again(bob)
        assert ("m.room.tombstone", "") not in await state(alice, room_id)
        assert await leads_to(bob, "#club:example.org") == room_id
        listed = (await bob.ask("GET", "/publicRooms")).ok()["chunk"]
        assert [room["room_id"] for room in listed] == [room_id]
        await bob.say(room_id, "Nothing has happened")
        new_id = await upgrade(alice, room_id)
        assert await leads_to(bob, "#club:example.org") == new_id
        await bob.join(new_id)


async def test_a_tombstone_that_the_policy_server_refuses(tmp_path: Path) -> None:
    async with neighbours(tmp_path, 1, p1=POLICY) as (here,):
        alice = await here.client("alice")
        key = (await ask(here.app, "GET", "/.well-known/matrix/policy_server", None, {}, None)).ok()[
            "public_keys"
        ]
        room_id = await alice.create(room_version="10", room_alias_name="club")
        await alice.set_state(room_id, "m.room.policy", {"via": ONE, "public_keys": key})
        since = await alice.token_now()
        (await try_upgrade(alice, room_id)).failed(400, "M_FORBIDDEN")
        assert ("m.room.tombstone", "") not in await state(alice, room_id)
        assert await leads_to(alice, f"#club:{ONE}") == room_id
        rooms = (await alice.sync(since)).get("rooms", {})
        assert not rooms.get("join")
        assert list((await alice.sync())["rooms"]["join"]) == [room_id]


# -- what users had set


async def rules(client: Client, kind: str) -> list[dict[str, Any]]:
    """A user's own push rules of a kind."""
    found = (await client.ask("GET", "/pushrules/")).ok()["global"][kind]
    return [rule for rule in found if not rule["default"]]


async def test_settings_come_along_with_who_joins(here: Place) -> None:
    alice, bob, carol = await here.clients("alice", "bob", "carol")
    room_id = await alice.create(room_version="10")
    tags = {"tags": {"m.favourite": {"order": 0.25}, "u.work": {}}}
    for client in (alice, bob, carol):
        await client.join(room_id)
        await client.account_data("m.tag", tags, room_id)
        await client.account_data("m.direct", {alice.user_id: [room_id], bob.user_id: ["!x:y"], "odd": 4})
        path = at("pushrules", "global", "room", room_id)
        (await client.ask("PUT", path, {"actions": ["notify"]})).ok()
        mute = {
            "actions": [],
            "conditions": [{"kind": "event_match", "key": "room_id", "pattern": room_id}],
        }
        (await client.ask("PUT", at("pushrules", "global", "override", room_id), mute)).ok()
    new_id = await upgrade(alice, room_id)
    await bob.leave(room_id)
    await bob.join(new_id)
    for client in (alice, bob):
        path = at("user", client.user_id, "rooms", new_id, "tags")
        assert (await client.ask("GET", path)).ok() == tags
        direct = (await client.ask("GET", at("user", client.user_id, "account_data", "m.direct"))).ok()
        assert direct == {alice.user_id: [room_id, new_id], bob.user_id: ["!x:y"], "odd": 4}
        assert {rule["rule_id"]: rule["actions"] for rule in await rules(client, "room")} == {
            room_id: ["notify"], new_id: ["notify"]
        }  # fmt: skip
        muted = {rule["rule_id"]: rule for rule in await rules(client, "override")}
        assert set(muted) == {room_id, new_id}
        assert muted[new_id]["conditions"][0]["pattern"] == new_id
        assert muted[room_id]["conditions"][0]["pattern"] == room_id
    # A user who does not come along has nothing of the new room.
    assert [rule["rule_id"] for rule in await rules(carol, "room")] == [room_id]


async def test_settings_that_are_there_stand(here: Place) -> None:
    alice, bob = await here.clients("alice", "bob")
    room_id = await alice.create(room_version="10")
    await bob.join(room_id)
    await bob.account_data("m.tag", {"tags": {"m.favourite": {}}}, room_id)
    (await bob.ask("PUT", at("pushrules", "global", "room", room_id), {"actions": ["notify"]})).ok()
    new_id = await upgrade(alice, room_id)
    await bob.account_data("m.tag", {"tags": {"m.lowpriority": {}}}, new_id)
    (await bob.ask("PUT", at("pushrules", "global", "room", new_id), {"actions": []})).ok()
    for _ in range(2):
        await bob.join(new_id)
        path = at("user", bob.user_id, "rooms", new_id, "tags")
        assert (await bob.ask("GET", path)).ok() == {"tags": {"m.lowpriority": {}}}
        found = {rule["rule_id"]: rule["actions"] for rule in await rules(bob, "room")}
        assert found == {room_id: ["notify"], new_id: []}


async def test_a_room_that_only_says_it_replaces_another(here: Place) -> None:
    """It gets nothing; nor does who was never in the old room."""
    alice, bob, mallory = await here.clients("alice", "bob", "mallory")
    room_id = await alice.create(room_version="10")
    await bob.join(room_id)
    await bob.account_data("m.tag", {"tags": {"m.favourite": {}}}, room_id)
    for predecessor in (
        {"room_id": room_id, "event_id": "$x"},
        "x",
        {"room_id": 4},
        {"room_id": "!no:where"},
    ):
        trap = await mallory.create(creation_content={"predecessor": predecessor})
        await bob.join(trap)
        assert (await bob.ask("GET", at("user", bob.user_id, "rooms", trap, "tags"))).ok() == {"tags": {}}
    new_id = await upgrade(alice, room_id)
    await mallory.account_data("m.tag", {"tags": {"u.x": {}}}, room_id)
    await mallory.join(new_id)
    path = at("user", mallory.user_id, "rooms", new_id, "tags")
    assert (await mallory.ask("GET", path)).ok() == {"tags": {}}

"""What may happen in a history: one function a happening, each by chance."""

from __future__ import annotations

from typing import Any

from comity.protocol.auth.rules import authorize
from comity.protocol.event import Event
from tests.api.support_rooms import Client
from tests.api.support_users import at
from tests.model.followers import Follower
from tests.model.oracle import VISIBILITIES
from tests.model.world import A_WHILE, ALICE, BOB, LOCAL, REMOTE, World

#: Branches of a room that the other server has at once.
MOST_BRANCHES = 3
STEPS = 45


async def run(world: World) -> None:
    """A whole history; raises DifferenceError, or what else goes wrong."""
    await world.begin()
    for _ in range(STEPS):
        await step(world)
    await world.finish()


async def step(world: World) -> None:
    """One happening."""
    kinds = (
        (local_message, 18), (local_state, 6), (local_membership, 14), (local_redaction, 3), (receipt, 3),
        (remote_event, 22), (late_event, 7), (follow, 22), (page, 4), (time_passes, 3), (restart, 1),
    )  # fmt: skip
    (kind,) = world.chance.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
    await kind(world)


# -- here


async def _try(world: World, client: Client, method: str, path: str, body: object) -> dict[str, Any] | None:
    """A request that may be refused."""
    answer = await client.ask(method, path, body)
    world.say(
        f"{client.user_id}: {method} {path} {body} -> {answer.status} {answer.body.get('event_id', '')}"
    )
    assert answer.status in (200, 400, 403, 404), answer
    return answer.body if answer.status == 200 else None


def _message(world: World, room_id: str, sender: str) -> tuple[str, dict[str, Any], str]:
    """A message, an edit, a reaction, an answer in a thread: type, content, what marks it."""
    chance, marker = world.chance, world.marker()
    content: dict[str, Any] = {"msgtype": chance.choice(["m.text", "m.text", "m.notice"]), "body": marker}
    said = world.said[room_id]
    kind = chance.random()
    if chance.random() < 0.2:
        content["m.mentions"] = {"user_ids": chance.sample(LOCAL, 2)}
    elif sender == ALICE and chance.random() < 0.1:
        content["m.mentions"] = {"room": True}
    if said and kind < 0.12:
        content["m.relates_to"] = {"rel_type": "m.replace", "event_id": chance.choice(said)}
        content["m.new_content"] = {"msgtype": "m.text", "body": marker}
    elif said and kind < 0.3:
        content["m.relates_to"] = {"rel_type": "m.thread", "event_id": chance.choice(said[-6:])}
    elif said and kind < 0.4:
        relation = {"rel_type": "m.annotation", "event_id": chance.choice(said), "key": marker}
        return "m.reaction", {"m.relates_to": relation}, marker
    return "m.room.message", content, marker


async def local_message(world: World) -> None:
    room_id, sender = world.chance.choice(world.rooms), world.chance.choice(LOCAL)
    for _ in range(world.chance.choice([1, 1, 1, 2, 4])):
        event_type, content, marker = _message(world, room_id, sender)
        path = at("rooms", room_id, "send", event_type, marker)
        answer = await _try(world, world.clients[sender], "PUT", path, content)
        if answer is not None:
            world.checker.markers[marker[1:-1]] = answer["event_id"]
            if event_type == "m.room.message" and "m.relates_to" not in content:
                world.said[room_id].append(answer["event_id"])


def _state(world: World) -> tuple[str, dict[str, Any]]:
    chance = world.chance
    kind = chance.choice(["m.room.topic", "m.room.name", "m.room.history_visibility", "x.own"])
    if kind == "m.room.history_visibility":
        return kind, {"history_visibility": chance.choice(VISIBILITIES)}
    return kind, {kind.rpartition(".")[2]: str(chance.randrange(1000))}


async def local_state(world: World) -> None:
    room_id, sender = world.chance.choice(world.rooms), world.chance.choice([ALICE, *LOCAL])
    client = world.clients[sender]
    if world.chance.random() < 0.25:
        levels = await client.ask("GET", at("rooms", room_id, "state", "m.room.power_levels"))
        if levels.status == 200:
            users = {
                **levels.body["users"],
                world.chance.choice([*LOCAL[1:], *REMOTE]): world.chance.choice([0, 50, 60]),
            }
            path = at("rooms", room_id, "state", "m.room.power_levels", "")
            await _try(world, client, "PUT", path, {**levels.body, "users": users})
        return
    event_type, content = _state(world)
    await _try(world, client, "PUT", at("rooms", room_id, "state", event_type, ""), content)


async def local_membership(world: World) -> None:
    chance = world.chance
    room_id, actor, target = chance.choice(world.rooms), chance.choice(LOCAL), chance.choice(LOCAL[1:])
    kind = chance.choice(
        ["join", "join", "join", "leave", "leave", "invite", "kick", "ban", "unban", "forget"]
    )
    if kind == "join":
        await _try(world, world.clients[target], "POST", at("join", room_id), {})
    elif kind in ("leave", "forget"):
        answer = await _try(world, world.clients[target], "POST", at("rooms", room_id, kind), {})
        if answer is not None and kind == "forget":
            for user_id, follower in world.followers:
                if user_id == target:
                    follower.rooms.pop(room_id, None)
    else:
        actor = ALICE if chance.random() < 0.7 else actor
        target = chance.choice([*LOCAL[1:], *LOCAL[1:], *REMOTE])
        if kind != "invite" or target in LOCAL:
            await _try(world, world.clients[actor], "POST", at("rooms", room_id, kind), {"user_id": target})


async def local_redaction(world: World) -> None:
    room_id, sender = world.chance.choice(world.rooms), world.chance.choice([ALICE, *LOCAL])
    target = _some_event(world, room_id)
    if target is not None:
        path = at("rooms", room_id, "redact", target, world.marker())
        await _try(world, world.clients[sender], "PUT", path, {})


def _some_event(world: World, room_id: str) -> str | None:
    """An event that is no state: the rest of a history needs that as it is."""
    listed = [
        stored.event.event_id
        for stored in world.checker.oracle.log(room_id)
        if not stored.event.is_state and stored.event.type != "m.room.redaction"
    ]
    return world.chance.choice(listed[-12:]) if listed else None


async def receipt(world: World) -> None:
    room_id, target = world.chance.choice(world.rooms), world.chance.choice(LOCAL)
    event_id = _some_event(world, room_id)
    if event_id is not None:
        body = world.chance.choice([{}, {}, {"thread_id": "main"}])
        kind = world.chance.choice(["m.read", "m.read.private"])
        path = at("rooms", room_id, "receipt", kind, event_id)
        await _try(world, world.clients[target], "POST", path, body)


# -- elsewhere


async def remote_event(world: World) -> None:
    """The other server goes on, from what it last had or from what is here; and tells of it, or not yet."""
    chance = world.chance
    room_id = chance.choice(world.rooms)
    branches = world.branches[room_id]
    kind = chance.random()
    if kind < 0.45:
        branch = world.network.branch(world.place, room_id)
        branches[:] = [*branches[-MOST_BRANCHES + 1 :], branch]
    elif kind < 0.6:
        branch = chance.choice(branches).fork()
        branches[:] = [*branches[-MOST_BRANCHES + 1 :], branch]
    else:
        branch = branches[-1]
    for _ in range(chance.choice([1, 1, 2, 4, 7])):
        event = _written(world, room_id, branch.fork())
        if event is None or authorize(event, branch.state.get) is not None:
            continue
        branch.add(event)
        fate = chance.random()
        if fate < 0.3:
            world.held_back.append(event)
            world.say(f"elsewhere: {_about(event)}, held back")
        else:
            results = await world.deliver(event)
            await world.rest()
            world.say(f"elsewhere: {_about(event)} -> {results[event.event_id]}")


def _about(event: Event) -> str:
    prev = ", ".join(event.prev_event_ids)
    key = "" if event.state_key is None else f" [{event.state_key}]"
    return f"{event.event_id} {event.type}{key} of {event.sender} {dict(event.content)} after {prev}"


def _written(world: World, room_id: str, branch: Any) -> Event | None:
    """An event of one of the users elsewhere, at the head of a branch."""
    chance, network = world.chance, world.network
    sender = chance.choice(REMOTE)
    kind = chance.random()
    if kind < 0.55:
        event_type, content, marker = _message(world, room_id, sender)
        event = network.write(branch, sender, event_type, content)
        world.checker.markers[marker[1:-1]] = event.event_id
        return event
    if kind < 0.7:
        event_type, content = _state(world)
        return network.write(branch, BOB, event_type, content, "")
    if kind < 0.8:
        target = _some_event(world, room_id)
        if target is None:
            return None
        return network.write(branch, sender, "m.room.redaction", {}, redacts=target)
    if kind < 0.9:
        membership = chance.choice(["leave", "ban", "invite", "leave"])
        return network.write(
            branch, BOB, "m.room.member", {"membership": membership}, chance.choice(LOCAL[1:])
        )
    membership = chance.choice(["join", "join", "leave"])
    return network.write(branch, REMOTE[1], "m.room.member", {"membership": membership}, REMOTE[1])


async def late_event(world: World) -> None:
    """Something that was held back comes."""
    if world.held_back:
        event = world.held_back.pop(world.chance.randrange(len(world.held_back)))
        results = await world.deliver(event)
        await world.rest()
        world.say(f"late: {event.event_id} -> {results[event.event_id]}")


# -- clients, and time


async def follow(world: World) -> None:
    """Some clients ask for news."""
    user_id, follower = world.chance.choice(world.followers)
    world.say(f"{follower.name} of {user_id} catches up")
    await world.catch_up(user_id, follower)


async def page(world: World) -> None:
    """A client pages through a hole of a room's timeline."""
    user_id, follower = world.chance.choice(world.followers)
    found = [room_id for room_id, room in follower.rooms.items() if room.pieces]
    if found:
        room_id = world.chance.choice(found)
        world.say(f"{follower.name} of {user_id} pages {room_id}")
        await _page(follower, room_id)


async def _page(follower: Follower, room_id: str) -> None:
    await follower.fill(room_id)


async def time_passes(world: World) -> None:
    world.say("time passes")
    await world.rest(A_WHILE)


async def restart(world: World) -> None:
    world.say("the server is started again")
    await world.restart()

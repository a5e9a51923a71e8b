"""Many who wait for one event: what memory gives each is what the database would have given them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from comity.store.database import Database
from tests.api.support_rooms import Client, Place, bodies, place, until_waiting
from tests.engines import SQLITE

LONG_MS = 60_000
LAZY = {"room": {"state": {"lazy_load_members": True}}, "presence": {"types": []}}
FILTERS: dict[str, Any] = {
    "none": None,
    "lazy": LAZY,
    "threads": {"room": {"timeline": {"unread_thread_notifications": True}}},
    "short": {"room": {"timeline": {"limit": 1}}, "presence": {"types": []}},
    "messages": {"room": {"timeline": {"types": ["m.room.message"]}, "ephemeral": {"types": []}}},
    "elsewhere": {"room": {"rooms": ["!elsewhere:example.org"]}},
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Place]:
    async with place(tmp_path) as opened:
        yield opened


def without_age(value: Any) -> Any:
    """An answer without what depends on the moment."""
    if isinstance(value, dict):
        return {name: without_age(item) for name, item in value.items() if name != "age"}
    return [without_age(item) for item in value] if isinstance(value, list) else value


def to_be_read(token: str) -> str:
    """The same place in the log, as a device names it that has not been given all its messages: what
    follows such a token is read from the database."""
    place, presence, serial = token.partition("p")
    return f"{place}_{place.removeprefix('s').partition('_')[0]}{presence}{serial}"


class Crowd:
    """A room with those whom an event in it means something different to."""

    def __init__(self, room_id: str, speaker: Client, others: dict[str, Client]) -> None:
        self.room_id = room_id
        self.speaker = speaker
        self.others = others

    async def told(
        self, wanted: object, act: Callable[[], Awaitable[object]], *, waits: bool
    ) -> dict[str, tuple[Any, Any]]:
        """For each: what they were told of `act`, and what is read for the same token.

        `waits`: they waited for it; else they ask when it is done.
        """
        everybody = {**self.others, "speaker": self.speaker}
        for client in everybody.values():
            await client.sync()  # that they are here now is no news any more
        since = {name: (await client.sync(None, wanted))["next_batch"] for name, client in everybody.items()}
        waiting = {
            name: asyncio.create_task(client.sync(since[name], wanted, timeout=LONG_MS))
            for name, client in everybody.items()
            if waits
        }
        await until_waiting()
        await act()
        await until_waiting()
        found = {}
        for name, client in everybody.items():
            waited = waiting.get(name)
            if waited is not None and waited.done():
                told = waited.result()
            else:
                if waited is not None:
                    waited.cancel()
                told = await client.sync(since[name], wanted, timeout=0)
            read = await client.sync(to_be_read(since[name]), wanted, timeout=0)
            found[name] = (without_age(told), without_age(read))
        return found


@pytest.fixture
async def crowd(server: Place) -> Crowd:
    speaker, *clients = await server.clients(
        "speaker", "plain", "other", "named", "deaf", "muted", "strict", "late"
    )
    deaf, muted, strict, late = clients[3:]
    room_id = await speaker.create(preset="public_chat")
    for client in clients[:-1]:
        await client.join(room_id)
    await deaf.account_data("m.ignored_user_list", {"ignored_users": {speaker.user_id: {}}})
    rule = f"/pushrules/global/room/{room_id}"
    (await muted.ask("PUT", rule, {"actions": []})).ok()
    keyword = {"actions": ["notify", {"set_tweak": "highlight"}], "pattern": "cheese"}
    (await strict.ask("PUT", "/pushrules/global/content/word", keyword)).ok()
    await late.join(room_id)
    await speaker.say(room_id, "hello")
    names = ("plain", "other", "named", "deaf", "muted", "strict", "late")
    return Crowd(room_id, speaker, dict(zip(names, clients, strict=True)))


@pytest.mark.parametrize("filter_name", FILTERS)
async def test_who_is_woken_is_told_what_is_in_the_database(crowd: Crowd, filter_name: str) -> None:
    speaker, room_id, wanted = crowd.speaker, crowd.room_id, FILTERS[filter_name]
    thread = await speaker.say(room_id, "a root")
    named = {"msgtype": "m.text", "body": "you", "m.mentions": {"user_ids": [crowd.others["named"].user_id]}}
    in_thread = {
        "msgtype": "m.text", "body": "cheese", "m.relates_to": {"rel_type": "m.thread", "event_id": thread},
    }  # fmt: skip

    async def twice() -> None:
        await speaker.say(room_id, "one")
        await speaker.say(room_id, "two")

    async def said_and_typed() -> None:
        await speaker.say(room_id, "and more")
        path = f"/rooms/{room_id}/typing/{speaker.user_id}"
        (await speaker.ask("PUT", path, {"typing": True, "timeout": 30_000})).ok()

    async def read_and_said() -> None:
        await crowd.others["plain"].receipt(room_id, thread)
        await speaker.say(room_id, "as you see")

    acts: list[Callable[[], Awaitable[object]]] = [
        lambda: speaker.say(room_id, "news"),
        lambda: speaker.send(room_id, "m.room.message", named),
        lambda: speaker.send(room_id, "m.room.message", in_thread),
        lambda: speaker.send(room_id, "org.example.other", {}),
        lambda: speaker.set_state(room_id, "m.room.topic", {"topic": "t"}),
        lambda: speaker.set_state(room_id, "m.room.name", {"name": "n"}),
        lambda: crowd.others["plain"].say(room_id, "by another"),
        lambda: crowd.others["plain"].account_data("org.example", {"a": 1}),
    ]
    if wanted is not LAZY:
        # Whoever asks a second time for a change of a member is given the member anew.
        acts += [lambda: crowd.others["late"].leave(room_id), lambda: crowd.others["late"].join(room_id)]
    for act in acts:
        for name, (told, read) in (await crowd.told(wanted, act, waits=True)).items():
            assert told == read, name
    for act in (*acts, twice, said_and_typed, read_and_said, lambda: speaker.redact(room_id, thread)):
        for name, (told, read) in (await crowd.told(wanted, act, waits=False)).items():
            assert told == read, name


async def test_many_are_told_by_one_look_into_the_database(
    server: Place, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await server.client("alice")
    room_id = await alice.create(preset="public_chat")
    clients = await server.clients(*(f"member{number}" for number in range(12)))
    for client in clients:
        await client.join(room_id)
    tokens = [(await client.sync(None, LAZY))["next_batch"] for client in clients]
    reads: list[int] = []
    read = Database.read

    async def counted(database: Database, look: Any) -> Any:
        reads.append(1)
        return await read(database, look)

    for number in range(3):
        waiting = [
            asyncio.create_task(client.sync(token, LAZY, timeout=LONG_MS))
            for client, token in zip(clients, tokens, strict=True)
        ]
        await until_waiting()
        with monkeypatch.context() as patch:
            patch.setattr(Database, "read", counted)
            reads.clear()
            await alice.say(room_id, f"message {number}")
            answers = await asyncio.wait_for(asyncio.gather(*waiting), 30)
        tokens = [answer["next_batch"] for answer in answers]
        for answer in answers:
            part = answer["rooms"]["join"][room_id]
            assert bodies(part["timeline"]["events"]) == [f"message {number}"]
            assert part["unread_notifications"]["notification_count"] == number + 1
    # The first of them, and what the send itself reads; at the first message each is given its sender.
    # Where a look takes its time, those who are woken together look together.
    assert len(reads) <= (3 if engine == SQLITE else 3 + len(clients))

"""What it means that two servers agree about a room: the same state, the same events.

Owns comparisons across servers, as their clients see them; never changes a room.
"""

from __future__ import annotations

from collections import Counter

from tests.interop.client import Client, texts
from tests.interop.waiting import PATIENCE, eventually


async def same_state(room_id: str, *clients: Client, within: float = PATIENCE) -> dict[tuple[str, str], str]:
    """Wait until every client's server tells the same event for every (type, state_key); that state."""

    async def look() -> dict[tuple[str, str], str]:
        states = [await client.state(room_id) for client in clients]
        for client, state in zip(clients[1:], states[1:], strict=True):
            difference = {
                key: (states[0].get(key), state.get(key))
                for key in states[0].keys() | state.keys()
                if states[0].get(key) != state.get(key)
            }
            assert not difference, f"{clients[0].server.name} and {client.server.name} differ: {difference}"
        return states[0]

    return await eventually(look, f"the same state of {room_id}", within)


async def same_events(room_id: str, *clients: Client, within: float = PATIENCE) -> set[str]:
    """Wait until every client can page through the same set of events, none told twice; that set."""

    async def look() -> set[str]:
        histories = []
        for client in clients:
            ids = [event["event_id"] for event in await client.history(room_id, page=100)]
            twice = [event_id for event_id, count in Counter(ids).items() if count > 1]
            assert not twice, f"{client.server.name} tells twice: {twice}"
            histories.append(set(ids))
        for client, ids_seen in zip(clients[1:], histories[1:], strict=True):
            difference = histories[0] ^ ids_seen
            assert not difference, f"{clients[0].server.name} and {client.server.name} differ: {difference}"
        return histories[0]

    return await eventually(look, f"the same events in {room_id}", within)


async def told_in_order(client: Client, room_id: str, expected: list[str], within: float = PATIENCE) -> None:
    """Wait until `/messages` tells exactly the `expected` bodies (of those), oldest first, none twice."""
    wanted = set(expected)

    async def look() -> bool:
        history = texts(list(reversed(await client.history(room_id))))
        seen = [text for text in history if text in wanted]
        assert seen == expected, f"{client.server.name} tells {seen}"
        return True

    await eventually(look, f"{len(expected)} messages in order at {client.server.name}", within)

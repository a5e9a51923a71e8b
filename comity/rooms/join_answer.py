"""The answer to send_join (server-server §Joining Rooms): the room as it was before the join, whole or
without most of its members.

Spliced from stored bytes; it judges nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from comity.protocol import canonical_json
from comity.protocol.event import Event
from comity.rooms.room import Room
from comity.rooms.serve import splice
from comity.store import rooms as stored_rooms
from comity.store.database import Tx
from comity.store.events import Events, StoredEvent
from comity.store.state import States

#: client-server §Syncing, m.heroes: members that give a nameless room its name.
MAX_HEROES = 5
#: Up to this many entries a state goes whole: a second request would cost more than it saves.
WHOLE_UP_TO = 100
#: Members among whom they are looked for.
_LOOKED_AT = 20


def join_answer(
    tx: Tx, events: Events, states: States, room: Room, event: Event, state: bytes, *,
    own: str, omit: bool, shown: Callable[[StoredEvent], bytes],
) -> bytes:  # fmt: skip
    """The answer's JSON for a join that was stored, before which the room had `state`.

    `own` is our server name. With `omit` members are left out of a large state, but for the heroes of a
    nameless room, and of the auth chain what is in the state. `shown`: how the joining server is given
    an event.
    """
    numbers = [number for _, number in states.items(tx, state)]
    chain: set[int]
    omit = omit and len(numbers) > WHOLE_UP_TO
    if omit:
        numbers = _without_members(tx, events, states, room, event, state)
        direct = list(events.numbers(tx, event.auth_event_ids).values())
        chain = events.auth_chain(tx, numbers) | events.auth_chain(tx, direct, including=True)
        chain -= set(numbers)
    else:
        chain = events.auth_chain(tx, numbers)
    ordered = sorted(chain)
    loaded = events.load(tx, [*numbers, *ordered])
    servers = sorted({*room.servers, own}) if omit else None
    return b"".join(
        (
            b'{"origin":',
            canonical_json.encode(own),
            b',"members_omitted":',
            b"true" if omit else b"false",
            b',"servers_in_room":' + canonical_json.encode(servers) if servers is not None else b"",
            b',"event":',
            event.encoded,
            b',"state":',
            splice(shown(loaded[number]) for number in numbers),
            b',"auth_chain":',
            splice(shown(loaded[number]) for number in ordered),
            b"}",
        )
    )


def _without_members(
    tx: Tx, events: Events, states: States, room: Room, event: Event, state: bytes
) -> list[int]:
    by_key = {states.key(tx, room.number, slot): number for slot, number in states.items(tx, state)}
    kept = [number for (event_type, _), number in by_key.items() if event_type != "m.room.member"]
    if ("m.room.name", "") in by_key or ("m.room.canonical_alias", "") in by_key:
        return kept
    heroes = [
        by_key["m.room.member", user_id]
        for user_id in stored_rooms.first_members(tx, room.number, _LOOKED_AT)
        if ("m.room.member", user_id) in by_key and user_id != event.state_key
    ]
    return [*kept, *heroes[:MAX_HEROES]]

"""Events as clients see them, put together from finished bytes.

The part of an event that is the same for everybody is serialised once and kept (DESIGN §4.1);
`unsigned`, which depends on who asks and when, is spliced in behind it. Whether somebody may
see an event is decided in `comity.rooms.read.visible`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import orjson

from comity.protocol import canonical_json
from comity.protocol.event import Event
from comity.protocol.filters import Filter, select_fields
from comity.protocol.relations import REFERENCE, REPLACE, THREAD
from comity.rooms.read.aggregations import Bundle
from comity.store.database import Tx
from comity.store.events import Events, StoredEvent
from comity.store.state import EMPTY, States

_REDACTION = "m.room.redaction"
#: `unsigned.membership`, written once.
_MEMBERSHIPS: Mapping[str | None, bytes] = {
    None: b"",
    "ban": b',"membership":"ban"',
    "invite": b',"membership":"invite"',
    "join": b',"membership":"join"',
    "knock": b',"membership":"knock"',
    "leave": b',"membership":"leave"',
}


def encode(value: object) -> bytes:
    """JSON bytes of a part of an event."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        # COMPAT: room versions 1–5 allow integers that orjson does not write.
        return canonical_json.encode_lenient(value)


def client_object(event: Event) -> dict[str, object]:
    """An event's client format without `room_id` and `unsigned` (client-server §Room event format)."""
    content = event.content
    value: dict[str, object] = {
        "content": content,
        "event_id": event.event_id,
        "origin_server_ts": event.origin_server_ts,
        "sender": event.sender,
        "type": event.type,
    }
    if event.state_key is not None:
        value["state_key"] = event.state_key
    if event.type == _REDACTION and event.redacts is not None:
        # rooms/v11 §Moving the redacts property: both places, for clients old and new.
        value["redacts"] = event.redacts
        if not event.version.redacts_in_content:
            value["content"] = {**content, "redacts": event.redacts}
    return value


def stripped(event: Event) -> orjson.Fragment:
    """A state event as stripped state (client-server §Stripped state)."""
    return orjson.Fragment(
        encode(
            {
                "content": event.content,
                "sender": event.sender,
                "state_key": event.state_key,
                "type": event.type,
            }
        )
    )


@dataclass(slots=True)
class Reading:
    """Who reads, when and how: what `unsigned` and the shape of events depend on.

    `transactions`: event id -> transaction id, for events that this device sent.
    `delays`: event id -> delay id, for events that the reader had scheduled (MSC4140).
    `membership`: the reader's membership at an event, None to leave it out.
    `may_see`: whether the reader may see an event, asked of the state that an event replaced and of what
    redacted it.
    `is_erased`: whether the reader is given an event without what its sender said (§Account deactivation).
    """

    now_ms: int
    with_room_id: bool = True
    transactions: Mapping[str, str] = field(default_factory=dict)
    delays: Mapping[str, str] = field(default_factory=dict)
    membership: Callable[[StoredEvent], str | None] = lambda _: None
    may_see: Callable[[StoredEvent], bool] = lambda _: False
    is_erased: Callable[[StoredEvent], bool] = lambda _: False
    #: Whether that may be so of any event.
    may_be_erased: bool = False
    #: Of a /sync filter: `event_fields` and `event_format`.
    fields: tuple[tuple[str, ...], ...] | None = None
    federation_format: bool = False

    #: Room id -> how it is written into events.
    rooms: dict[str, bytes] = field(default_factory=dict)
    #: By event number, what to tell of the events' children.
    bundles: Mapping[int, Bundle] = field(default_factory=dict)
    #: Whether to tell what needs the state at the event: `membership`, what it replaced.
    in_context: bool = True

    def shape(self, wanted: Filter) -> None:
        """Take the shape that a filter asks for."""
        self.fields = wanted.event_fields
        self.federation_format = wanted.event_format == "federation"

    def room_part(self, room_id: str) -> bytes:
        """An event's `room_id`, if it is told."""
        if not self.with_room_id:
            return b""
        part = self.rooms.get(room_id)
        if part is None:
            part = self.rooms[room_id] = b',"room_id":%b' % encode(room_id)
        return part

    def is_own(self, event_id: str) -> bool:
        """Whether the reader sent the event in a way that they are told."""
        return event_id in self.transactions or event_id in self.delays

    def brief(self) -> Reading:
        """The same, for lists of state: events from all over the room's life, whose states are far apart.

        What stood around them then is optional, and would cost a look into as many states.
        """
        return replace(self, in_context=False, bundles={})


def bare(stored: StoredEvent) -> StoredEvent:
    """An event as redaction would leave it."""
    return replace(stored, event=stored.event.redacted())


class ClientFormat:
    """Writes events for clients."""

    def __init__(self, states: States, events: Events) -> None:
        self._states = states
        self._events = events

    def event(self, tx: Tx, stored: StoredEvent, reading: Reading) -> orjson.Fragment:
        """One event, as `reading` has it."""
        return orjson.Fragment(self._bytes(tx, stored, reading))

    def redacted(self, tx: Tx, stored: StoredEvent, reading: Reading) -> orjson.Fragment:
        """One event without what redaction would take, for who shall not see its content."""
        return orjson.Fragment(self._bytes(tx, bare(stored), reading))

    def events(self, tx: Tx, listed: list[StoredEvent], reading: Reading) -> list[orjson.Fragment]:
        """Many events."""
        return [orjson.Fragment(self._bytes(tx, stored, reading)) for stored in listed]

    def array(self, tx: Tx, listed: Sequence[StoredEvent], reading: Reading) -> orjson.Fragment:
        """Many events as one JSON array: for pages of history, where each costs next to nothing."""
        if reading.fields is not None or reading.federation_format or reading.may_be_erased:
            return orjson.Fragment(b"[%b]" % b",".join([self._bytes(tx, item, reading) for item in listed]))
        now_ms, in_context, bundles = reading.now_ms, reading.in_context, reading.bundles
        own = {*reading.transactions, *reading.delays}
        #: Messages that follow each other mostly have one state around them.
        root, membership, room_id, room = b"", b"", "", b""
        written = []
        for stored in listed:
            event = stored.event
            if (
                (event.state_key is not None and in_context)
                or stored.redacted_by is not None
                or stored.number in bundles
                or event.event_id in own
            ):
                written.append(self._bytes(tx, stored, reading))
                continue
            if in_context and (stored.state_after != root or not membership):
                root, membership = stored.state_after or b"", membership_part(reading.membership(stored))
            if event.room_id != room_id:
                room_id, room = event.room_id, reading.room_part(event.room_id)
            age = now_ms - event.origin_server_ts
            written.append(
                b'%b%b,"unsigned":{"age":%d%b}}' % (stored.body or _body(stored), room, age, membership)
            )
        return orjson.Fragment(b"[%b]" % b",".join(written))

    def state(
        self, tx: Tx, listed: list[StoredEvent], reading: Reading, timeline: list[StoredEvent]
    ) -> list[orjson.Fragment]:
        """State to tell beside a timeline: what is in both is told alike, other events are told in brief.

        A client that takes state from here alone learns the name of one who left by `prev_content`.
        """
        brief, in_timeline = reading.brief(), {stored.number for stored in timeline}
        return [
            self.event(tx, stored, reading if stored.number in in_timeline else brief) for stored in listed
        ]

    def _bytes(self, tx: Tx, stored: StoredEvent, reading: Reading) -> bytes:
        if reading.is_erased(stored):
            stored = bare(stored)
        event = stored.event
        if reading.federation_format:
            body, room = event.encoded[:-1], b""
        else:
            body, room = stored.body or _body(stored), reading.room_part(event.room_id)
        age = reading.now_ms - event.origin_server_ts
        membership = membership_part(reading.membership(stored)) if reading.in_context else b""
        if (
            (event.state_key is None or not reading.in_context)
            and stored.redacted_by is None
            and stored.number not in reading.bundles
            and not reading.is_own(event.event_id)
        ):
            # What most events are.
            whole = b'%b%b,"unsigned":{"age":%d%b}}' % (body, room, age, membership)
        else:
            rest = self._rest(tx, stored, reading)
            whole = b'%b%b,"unsigned":{"age":%d%b%b}}' % (body, room, age, membership, rest)
        if reading.fields is not None:
            whole = encode(select_fields(orjson.loads(whole), reading.fields))
        return whole

    def halves(self, tx: Tx, stored: StoredEvent, reading: Reading) -> tuple[bytes, bytes]:
        """What stands before `unsigned`, and what `unsigned` has behind age and membership.

        For readers in the clients' format whom nothing is erased for.
        """
        body = stored.body or _body(stored)
        return body + reading.room_part(stored.event.room_id), self._rest(tx, stored, reading)

    def _rest(self, tx: Tx, stored: StoredEvent, reading: Reading) -> bytes:
        """Behind age and membership, what `unsigned` has (client-server §Room event format, UnsignedData)."""
        event = stored.event
        parts = []
        delay_id = reading.delays.get(event.event_id)
        if delay_id is not None:
            parts.append(b',"org.matrix.msc4140.delay_id":%b' % encode(delay_id))
        transaction_id = reading.transactions.get(event.event_id)
        if transaction_id is not None:
            parts.append(b',"transaction_id":%b' % encode(transaction_id))
        if event.state_key is not None and reading.in_context:
            replaced = self.replaced(tx, stored)
            if replaced is not None:
                parts.append(b',"replaces_state":%b' % encode(replaced.event.event_id))
                if reading.may_see(replaced):
                    told = bare(replaced) if reading.is_erased(replaced) else replaced
                    parts.append(b',"prev_content":%b' % encode(told.event.content))
        bundle = reading.bundles.get(stored.number)
        if bundle is not None:
            parts.append(b',"m.relations":%b' % self._bundle(tx, bundle, reading))
        if stored.redacted_by is not None:
            redaction = self._events.get(tx, stored.redacted_by)
            if redaction is not None:
                parts.append(b',"redacted_because":%b' % self._redaction(redaction, reading))
        return b"".join(parts)

    def _bundle(self, tx: Tx, bundle: Bundle, reading: Reading) -> bytes:
        """client-server §Aggregations of child events. Bundles hold no bundles that lead back to them."""
        told: dict[str, object] = {}
        if bundle.edit is not None:
            told[REPLACE] = self.event(tx, bundle.edit, reading)
        if bundle.references:
            told[REFERENCE] = {"chunk": [{"event_id": event_id} for event_id in bundle.references]}
        if bundle.thread is not None:
            told[THREAD] = {
                "latest_event": self.event(tx, bundle.thread.latest, reading),
                "count": bundle.thread.count,
                "current_user_participated": bundle.thread.participated,
            }
        return encode(told)

    def _redaction(self, redaction: StoredEvent, reading: Reading) -> bytes:
        """client-server §Redactions: that an event was redacted is told whoever may see it, why it was to
        those alone who may see the redaction, which may have come after they left."""
        if reading.is_erased(redaction) or not reading.may_see(redaction):
            redaction = bare(redaction)
        body, room = redaction.body or _body(redaction), reading.room_part(redaction.event.room_id)
        return b'%b%b,"unsigned":{"age":%d}}' % (
            body,
            room,
            reading.now_ms - redaction.event.origin_server_ts,
        )

    def replaced(self, tx: Tx, stored: StoredEvent) -> StoredEvent | None:
        """The state event that a state event replaced on its branch."""
        number = stored.replaced
        if number is None:
            slot = self._states.slot(tx, stored.room_num, stored.event.key) if stored.state_before else None
            number = self._states.get(tx, stored.state_before or EMPTY, slot) if slot is not None else 0
            number = stored.replaced = 0 if number == stored.number else number
        return self._events.get(tx, number) if number else None


def _body(stored: StoredEvent) -> bytes:
    body = stored.body = encode(client_object(stored.event))[:-1]
    return body


def membership_part(membership: str | None) -> bytes:
    """An event's `unsigned.membership`, behind its age; empty for None."""
    known = _MEMBERSHIPS.get(membership)
    return b',"membership":%b' % encode(membership) if known is None else known

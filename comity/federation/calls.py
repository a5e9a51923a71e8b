"""One typed function per server-server endpoint that comity calls.

Owns paths, time and size limits, and the shape of answers: what comes back is of the types that
are promised, and counted; whether the events in it are worth anything is for others to judge.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import orjson

from comity.federation.client import FederationClient, FederationError, path
from comity.protocol import canonical_json, identifiers
from comity.protocol.event import Event, encode_event

_V1 = "/_matrix/federation/v1"
_V2 = "/_matrix/federation/v2"
_KEYS = "/_matrix/key/v2"

#: Seconds. A server may work for long on a transaction or a join to a large room.
QUICK_SECONDS = 15.0
KEY_SECONDS = 10.0
NOTARY_SECONDS = 20.0
EVENTS_SECONDS = 45.0
TRANSACTION_SECONDS = 60.0
STATE_SECONDS = 120.0
JOIN_SECONDS = 180.0
#: Bytes. A key document, a profile, a template are one small object.
SMALL_BYTES = 256 * 1024
#: One event of 64 KiB, with `unsigned` and spaces around it.
EVENT_BYTES = 512 * 1024
#: A hundred of the largest events.
EVENTS_BYTES = 16 * 1024 * 1024
#: Half a million ids of 45 characters.
STATE_IDS_BYTES = 32 * 1024 * 1024
#: The largest known rooms answer a join with some 100 MiB.
STATE_BYTES = 256 * 1024 * 1024
#: Events of one state, and of one auth chain; the largest known rooms have half of this.
MAX_STATE_EVENTS = 300_000
#: Events that one answer to `backfill` or `get_missing_events` may hold, whatever was asked for.
MAX_EVENTS = 500
#: Servers that an alias, or an answer to a join, may name.
MAX_SERVERS = 20_000
MAX_ALIAS_SERVERS = 500
#: Key documents in one answer of a notary.
MAX_KEY_DOCUMENTS = 1_000
#: Fields of a profile that are looked at.
MAX_PROFILE_FIELDS = 200
#: Events of a large answer that are parsed before other tasks get a turn: a few milliseconds.
_PARSED_AT_ONCE = 200
#: What servers that do not know an endpoint answer, in old versions without an error code.
_UNKNOWN_ENDPOINT_STATUSES = frozenset({400, 404, 405})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MakeAnswer:
    """A template for a membership event; it only advises."""

    room_version: str
    event: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SendJoinAnswer:
    """The room as it was before the join. `event` is the join with the other server's signature."""

    event: dict[str, Any] | None
    state: list[dict[str, Any]]
    auth_chain: list[dict[str, Any]]
    members_omitted: bool
    servers_in_room: list[str]


@dataclass(frozen=True, slots=True)
class DirectoryAnswer:
    """Where an alias leads, and servers that are in that room."""

    room_id: str
    servers: list[str]


class _SendJoin(msgspec.Struct):
    """The answer to send_join, its events left as bytes."""

    state: list[msgspec.Raw]
    auth_chain: list[msgspec.Raw]
    event: msgspec.Raw = msgspec.Raw()
    members_omitted: bool | None = False
    servers_in_room: list[str] | None = None


class _State(msgspec.Struct):
    pdus: list[msgspec.Raw]
    auth_chain: list[msgspec.Raw]


class _AuthChain(msgspec.Struct):
    auth_chain: list[msgspec.Raw]


class _StateIds(msgspec.Struct):
    pdu_ids: list[str]
    auth_chain_ids: list[str]


class Calls:
    """The calls. Each raises FederationError, also when the answer is not of its shape."""

    def __init__(self, client: FederationClient) -> None:
        self._client = client

    # -- the server itself

    async def version(self, server: str) -> dict[str, Any]:
        """GET version: `{"name": …, "version": …}`, whatever of it is there."""
        data = await self._client.request(
            server, "GET", f"{_V1}/version", signed=False, timeout=QUICK_SECONDS, max_bytes=SMALL_BYTES
        )
        told = _object(server, data).get("server")
        return told if isinstance(told, dict) else {}

    async def server_keys(self, server: str, *, even_if_backing_off: bool = False) -> dict[str, Any]:
        """GET /_matrix/key/v2/server: the key document, its signatures unchecked."""
        data = await self._client.request(
            server,
            "GET",
            f"{_KEYS}/server",
            signed=False,
            timeout=KEY_SECONDS,
            max_bytes=SMALL_BYTES,
            even_if_backing_off=even_if_backing_off,
        )
        return _object(server, data)

    async def query_keys(self, notary: str, wanted: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
        """POST /_matrix/key/v2/query: key documents, their signatures unchecked.

        `wanted` is server -> key id -> the time (ms) until which it should be valid.
        """
        content = {
            "server_keys": {
                server: {key_id: {"minimum_valid_until_ts": until} for key_id, until in keys.items()}
                for server, keys in wanted.items()
            }
        }
        data = await self._client.request(
            notary,
            "POST",
            f"{_KEYS}/query",
            content=content,
            signed=False,
            timeout=NOTARY_SECONDS,
            max_bytes=EVENTS_BYTES,
        )
        return _objects(notary, _object(notary, data).get("server_keys"), MAX_KEY_DOCUMENTS)

    async def send_transaction(self, server: str, transaction_id: str, body: bytes) -> dict[str, Any]:
        """PUT send: the answer. `body` is the transaction as canonical JSON."""
        data = await self._client.request(
            server,
            "PUT",
            path(f"{_V1}/send", transaction_id),
            content_bytes=body,
            timeout=TRANSACTION_SECONDS,
            max_bytes=SMALL_BYTES,
            even_if_backing_off=True,
        )
        return _object(server, data)

    # -- joining and leaving (server-server §Joining Rooms, §Leaving Rooms, §Inviting to a room)

    async def make_join(self, server: str, room_id: str, user_id: str, versions: Sequence[str]) -> MakeAnswer:
        """GET make_join; `versions` are the room versions that we know."""
        return await self._make(server, "make_join", room_id, user_id, [("ver", name) for name in versions])

    async def make_leave(self, server: str, room_id: str, user_id: str) -> MakeAnswer:
        """GET make_leave."""
        return await self._make(server, "make_leave", room_id, user_id, [])

    async def _make(
        self, server: str, what: str, room_id: str, user_id: str, query: list[tuple[str, str]]
    ) -> MakeAnswer:
        data = await self._client.request(
            server,
            "GET",
            path(f"{_V1}/{what}", room_id, user_id),
            query=query,
            timeout=EVENTS_SECONDS,
            max_bytes=EVENT_BYTES,
            even_if_backing_off=True,
        )
        answer = _object(server, data)
        # Without it the room is of version 1 or 2, whose events have the same format.
        version, event = answer.get("room_version", "1"), answer.get("event")
        if not isinstance(version, str) or not isinstance(event, dict):
            raise _malformed(server, f"{what} was answered without a room version or an event")
        return MakeAnswer(version, event)

    async def send_join(self, server: str, room_id: str, event: Event) -> SendJoinAnswer:
        """PUT send_join, v2 and then v1 where the server does not know that."""
        try:
            data = await self._send_membership(server, _V2, "send_join", room_id, event)
            answer = _decode(server, data, _SendJoin)
        except FederationError as error:
            if not _is_unknown_endpoint(error):
                raise
            data = await self._send_membership(server, _V1, "send_join", room_id, event)
            _, answer = _decode(server, data, tuple[int, _SendJoin])
        servers = answer.servers_in_room or []
        return SendJoinAnswer(
            _maybe_event(server, answer.event),
            await _parse_events(server, answer.state),
            await _parse_events(server, answer.auth_chain),
            bool(answer.members_omitted),
            [name for name in servers[:MAX_SERVERS] if identifiers.is_server_name(name)],
        )

    async def send_leave(self, server: str, room_id: str, event: Event) -> None:
        """PUT send_leave, v2 and then v1 where the server does not know that."""
        try:
            await self._send_membership(server, _V2, "send_leave", room_id, event)
        except FederationError as error:
            if not _is_unknown_endpoint(error):
                raise
            await self._send_membership(server, _V1, "send_leave", room_id, event)

    async def _send_membership(
        self, server: str, version: str, what: str, room_id: str, event: Event
    ) -> bytes:
        large = what == "send_join"
        return await self._client.request(
            server,
            "PUT",
            path(f"{version}/{what}", room_id, event.event_id),
            content_bytes=event.encoded,
            timeout=JOIN_SECONDS if large else EVENTS_SECONDS,
            max_bytes=STATE_BYTES if large else EVENT_BYTES,
            even_if_backing_off=True,
        )

    async def invite(
        self, server: str, room_id: str, event: Event, room_version: str, invite_room_state: Sequence[Event]
    ) -> dict[str, Any]:
        """PUT invite: the event with the invited server's signature added.

        `invite_room_state` goes as whole events. Servers that know only v1 can only hold rooms
        of versions 1 and 2.
        """
        state = b",".join(item.encoded for item in invite_room_state)
        body = (
            b'{"event":'
            + event.encoded
            + b',"invite_room_state":['
            + state
            + b'],"room_version":'
            + canonical_json.encode(room_version)
            + b"}"
        )
        try:
            data = await self._invite(server, _V2, room_id, event, body)
            answer = _object(server, data)
        except FederationError as error:
            if not event.version.references_carry_hashes or not _is_unknown_endpoint(error):
                raise
            unsigned = {"invite_room_state": [dict(item.source) for item in invite_room_state]}
            body = encode_event(event.version, {**event.source, "unsigned": unsigned})
            data = await self._invite(server, _V1, room_id, event, body)
            answer = _decode(server, data, tuple[int, dict[str, Any]])[1]
        signed = answer.get("event")
        if not isinstance(signed, dict):
            raise _malformed(server, "the invite was answered without an event")
        return signed

    async def _invite(self, server: str, version: str, room_id: str, event: Event, body: bytes) -> bytes:
        return await self._client.request(
            server,
            "PUT",
            path(f"{version}/invite", room_id, event.event_id),
            content_bytes=body,
            timeout=EVENTS_SECONDS,
            max_bytes=EVENT_BYTES,
            even_if_backing_off=True,
        )

    # -- events (server-server §Retrieving events, §Backfilling and retrieving missing events)

    async def get_event(self, server: str, event_id: str) -> dict[str, Any]:
        """GET event: the PDU."""
        data = await self._client.request(
            server, "GET", path(f"{_V1}/event", event_id), timeout=QUICK_SECONDS, max_bytes=EVENT_BYTES
        )
        events = _objects(server, _object(server, data).get("pdus"), 1)
        if not events:
            raise _malformed(server, "the event was answered without an event")
        return events[0]

    async def state_ids(self, server: str, room_id: str, event_id: str) -> tuple[list[str], list[str]]:
        """GET state_ids: the ids of the state before an event, and of its auth chain."""
        data = await self._client.request(
            server,
            "GET",
            path(f"{_V1}/state_ids", room_id),
            query=[("event_id", event_id)],
            timeout=STATE_SECONDS,
            max_bytes=STATE_IDS_BYTES,
        )
        answer = _decode(server, data, _StateIds)
        for ids in (answer.pdu_ids, answer.auth_chain_ids):
            if len(ids) > MAX_STATE_EVENTS:
                raise _malformed(server, f"more than {MAX_STATE_EVENTS} events")
            if not all(map(identifiers.is_event_id, ids)):
                raise _malformed(server, "state_ids was answered with something that is no event id")
        return answer.pdu_ids, answer.auth_chain_ids

    async def state(
        self, server: str, room_id: str, event_id: str
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """GET state: the state before an event, and its auth chain."""
        data = await self._client.request(
            server,
            "GET",
            path(f"{_V1}/state", room_id),
            query=[("event_id", event_id)],
            timeout=JOIN_SECONDS,
            max_bytes=STATE_BYTES,
        )
        answer = _decode(server, data, _State)
        return await _parse_events(server, answer.pdus), await _parse_events(server, answer.auth_chain)

    async def event_auth(self, server: str, room_id: str, event_id: str) -> list[dict[str, Any]]:
        """GET event_auth: the auth chain of an event."""
        data = await self._client.request(
            server,
            "GET",
            path(f"{_V1}/event_auth", room_id, event_id),
            timeout=STATE_SECONDS,
            max_bytes=STATE_BYTES,
        )
        return await _parse_events(server, _decode(server, data, _AuthChain).auth_chain)

    async def backfill(
        self, server: str, room_id: str, event_ids: Sequence[str], limit: int
    ) -> list[dict[str, Any]]:
        """GET backfill: the events of `event_ids` and those before them, at most `limit` if it obeys."""
        data = await self._client.request(
            server,
            "GET",
            path(f"{_V1}/backfill", room_id),
            query=[*(("v", event_id) for event_id in event_ids), ("limit", str(limit))],
            timeout=EVENTS_SECONDS,
            max_bytes=EVENTS_BYTES,
        )
        return _objects(server, _object(server, data).get("pdus"), MAX_EVENTS)

    async def get_missing_events(
        self,
        server: str,
        room_id: str,
        earliest: Sequence[str],
        latest: Sequence[str],
        limit: int,
        min_depth: int,
    ) -> list[dict[str, Any]]:
        """POST get_missing_events: what lies between `earliest` (which we have) and `latest`."""
        data = await self._client.request(
            server,
            "POST",
            path(f"{_V1}/get_missing_events", room_id),
            content={
                "earliest_events": list(earliest),
                "latest_events": list(latest),
                "limit": limit,
                "min_depth": min_depth,
            },
            timeout=EVENTS_SECONDS,
            max_bytes=EVENTS_BYTES,
        )
        return _objects(server, _object(server, data).get("events"), MAX_EVENTS)

    # -- queries (server-server §Querying for information)

    async def query_profile(self, server: str, user_id: str, field: str | None) -> dict[str, Any]:
        """GET query/profile: the user's profile, or the one field of it."""
        query = [("user_id", user_id)]
        if field is not None:
            query.append(("field", field))
        data = await self._client.request(
            server, "GET", f"{_V1}/query/profile", query=query, timeout=QUICK_SECONDS, max_bytes=SMALL_BYTES
        )
        profile = _object(server, data)
        if len(profile) > MAX_PROFILE_FIELDS:
            raise _malformed(server, f"a profile of more than {MAX_PROFILE_FIELDS} fields")
        return profile

    async def query_directory(self, server: str, alias: str) -> DirectoryAnswer:
        """GET query/directory: where an alias of that server leads."""
        data = await self._client.request(
            server,
            "GET",
            f"{_V1}/query/directory",
            query=[("room_alias", alias)],
            timeout=QUICK_SECONDS,
            max_bytes=SMALL_BYTES,
            even_if_backing_off=True,
        )
        answer = _object(server, data)
        room_id, servers = answer.get("room_id"), answer.get("servers")
        if not identifiers.is_room_id(room_id) or not isinstance(servers, list):
            raise _malformed(server, "the alias was answered without a room id and servers")
        named = [name for name in servers[:MAX_ALIAS_SERVERS] if identifiers.is_server_name(name)]
        return DirectoryAnswer(str(room_id), named)


def _malformed(server: str, text: str) -> FederationError:
    return FederationError(server, f"the answer is not what was asked for: {text}", reached=True)


def _is_unknown_endpoint(error: FederationError) -> bool:
    """Whether the server does not have the endpoint, as opposed to what was asked for through it."""
    return error.status in _UNKNOWN_ENDPOINT_STATUSES and error.code in (None, "M_UNRECOGNIZED")


def _object(server: str, data: bytes) -> dict[str, Any]:
    try:
        value = canonical_json.parse_object(data)
        canonical_json.check_nesting(value)
    except canonical_json.CanonicalJsonError as error:
        raise _malformed(server, str(error)) from None
    return value


def _objects(server: str, value: object, most: int) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _malformed(server, "a list of objects is missing")
    if len(value) > most:
        raise _malformed(server, f"more than {most} objects")
    return value


def _decode(server: str, data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(server, str(error)) from None


def _event(server: str, raw: msgspec.Raw) -> dict[str, Any]:
    try:
        value = orjson.loads(memoryview(raw))
    except orjson.JSONDecodeError as error:
        raise _malformed(server, f"an event is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise _malformed(server, "an event is not an object")
    return value


def _maybe_event(server: str, raw: msgspec.Raw) -> dict[str, Any] | None:
    return None if bytes(raw) in (b"", b"null") else _event(server, raw)


async def _parse_events(server: str, raws: list[msgspec.Raw]) -> list[dict[str, Any]]:
    """Parse the events of a large answer, giving way to other tasks now and then."""
    if len(raws) > MAX_STATE_EVENTS:
        raise _malformed(server, f"more than {MAX_STATE_EVENTS} events")
    events = []
    for index, raw in enumerate(raws):
        if index % _PARSED_AT_ONCE == _PARSED_AT_ONCE - 1:
            await asyncio.sleep(0)
        events.append(_event(server, raw))
    return events

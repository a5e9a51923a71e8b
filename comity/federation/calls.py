"""One typed function per server-server endpoint that comity calls.

Owns paths, time and size limits, and the shape of answers: what comes back is of the types that
are promised, and counted; whether the events in it are worth anything is for others to judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from comity.federation.answers import (
    EVENT_BYTES,
    EVENTS_BYTES,
    EVENTS_SECONDS,
    JOIN_SECONDS,
    MAX_EVENTS,
    MAX_SERVERS,
    MAX_SHOWN_EVENTS,
    MAX_STATE_EVENTS,
    QUICK_SECONDS,
    SMALL_BYTES,
    STATE_BYTES,
    STATE_IDS_BYTES,
    STATE_SECONDS,
    TRANSACTION_SECONDS,
    V1,
    V2,
    decoded,
    event_objects,
    is_unknown_endpoint,
    json_object,
    json_objects,
    malformed,
    maybe_event,
)
from comity.federation.client import FederationClient, FederationError, path
from comity.protocol import canonical_json, identifiers
from comity.protocol.event import Event, encode_event


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

    async def send_transaction(self, server: str, transaction_id: str, body: bytes) -> dict[str, Any]:
        """PUT send: the answer. `body` is the transaction as canonical JSON."""
        data = await self._client.request(
            server,
            "PUT",
            path(f"{V1}/send", transaction_id),
            content_bytes=body,
            timeout=TRANSACTION_SECONDS,
            max_bytes=SMALL_BYTES,
            even_if_backing_off=True,
        )
        return json_object(server, data)

    # -- joining and leaving (server-server §Joining Rooms, §Leaving Rooms, §Inviting to a room)

    async def make_join(self, server: str, room_id: str, user_id: str, versions: Sequence[str]) -> MakeAnswer:
        """GET make_join; `versions` are the room versions that we know."""
        return await self._make(server, "make_join", room_id, user_id, [("ver", name) for name in versions])

    async def make_knock(
        self, server: str, room_id: str, user_id: str, versions: Sequence[str]
    ) -> MakeAnswer:
        """GET make_knock (server-server §Knocking upon a room)."""
        return await self._make(server, "make_knock", room_id, user_id, [("ver", name) for name in versions])

    async def make_leave(self, server: str, room_id: str, user_id: str) -> MakeAnswer:
        """GET make_leave."""
        return await self._make(server, "make_leave", room_id, user_id, [])

    async def _make(
        self, server: str, what: str, room_id: str, user_id: str, query: list[tuple[str, str]]
    ) -> MakeAnswer:
        data = await self._client.request(
            server,
            "GET",
            path(f"{V1}/{what}", room_id, user_id),
            query=query,
            timeout=EVENTS_SECONDS,
            max_bytes=EVENT_BYTES,
            even_if_backing_off=True,
        )
        answer = json_object(server, data)
        # Without it the room is of version 1 or 2, whose events have the same format.
        version, event = answer.get("room_version", "1"), answer.get("event")
        if not isinstance(version, str) or not isinstance(event, dict):
            raise malformed(server, f"{what} was answered without a room version or an event")
        return MakeAnswer(version, event)

    async def send_join(self, server: str, room_id: str, event: Event) -> SendJoinAnswer:
        """PUT send_join, v2 and then v1 where the server does not know that."""
        try:
            data = await self._send_membership(server, V2, "send_join", room_id, event)
            answer = decoded(server, data, _SendJoin)
        except FederationError as error:
            if not is_unknown_endpoint(error):
                raise
            data = await self._send_membership(server, V1, "send_join", room_id, event)
            _, answer = decoded(server, data, tuple[int, _SendJoin])
        servers = answer.servers_in_room or []
        return SendJoinAnswer(
            maybe_event(server, answer.event),
            await event_objects(server, answer.state),
            await event_objects(server, answer.auth_chain),
            bool(answer.members_omitted),
            [name for name in servers[:MAX_SERVERS] if identifiers.is_server_name(name)],
        )

    async def send_leave(self, server: str, room_id: str, event: Event) -> None:
        """PUT send_leave, v2 and then v1 where the server does not know that."""
        try:
            await self._send_membership(server, V2, "send_leave", room_id, event)
        except FederationError as error:
            if not is_unknown_endpoint(error):
                raise
            await self._send_membership(server, V1, "send_leave", room_id, event)

    async def send_knock(self, server: str, room_id: str, event: Event) -> list[dict[str, Any]]:
        """PUT send_knock: the state events that the knocking user is shown of the room."""
        data = await self._send_membership(server, V1, "send_knock", room_id, event)
        return json_objects(server, json_object(server, data).get("knock_room_state"), MAX_SHOWN_EVENTS)

    async def _send_membership(
        self, server: str, version: str, what: str, room_id: str, event: Event
    ) -> bytes:
        large = what == "send_join"
        return await self._client.request(
            server,
            "PUT",
            path(f"{version}/{what}", room_id, event.event_id),
            query=[("omit_members", "true")] if large and version == V2 else (),
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
            data = await self._invite(server, V2, room_id, event, body)
            answer = json_object(server, data)
        except FederationError as error:
            if not event.version.references_carry_hashes or not is_unknown_endpoint(error):
                raise
            unsigned = {"invite_room_state": [dict(item.source) for item in invite_room_state]}
            body = encode_event(event.version, {**event.source, "unsigned": unsigned})
            data = await self._invite(server, V1, room_id, event, body)
            answer = decoded(server, data, tuple[int, dict[str, Any]])[1]
        signed = answer.get("event")
        if not isinstance(signed, dict):
            raise malformed(server, "the invite was answered without an event")
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

    async def exchange_third_party_invite(self, server: str, room_id: str, event: dict[str, Any]) -> None:
        """PUT exchange_third_party_invite: have the inviting server invite a user of ours."""
        await self._client.request(
            server,
            "PUT",
            path(f"{V1}/exchange_third_party_invite", room_id),
            content=event,
            timeout=EVENTS_SECONDS,
            max_bytes=SMALL_BYTES,
            even_if_backing_off=True,
        )

    async def policy_signature(self, server: str, event: Event) -> dict[str, Any]:
        """POST sign: the signatures of a policy server on an event (server-server §Policy Servers)."""
        data = await self._client.request(
            server,
            "POST",
            "/_matrix/policy/v1/sign",
            content_bytes=event.encoded,
            timeout=QUICK_SECONDS,
            max_bytes=SMALL_BYTES,
        )
        return json_object(server, data)

    # -- events (server-server §Retrieving events, §Backfilling and retrieving missing events)

    async def get_event(self, server: str, event_id: str) -> dict[str, Any]:
        """GET event: the PDU."""
        data = await self._client.request(
            server, "GET", path(f"{V1}/event", event_id), timeout=QUICK_SECONDS, max_bytes=EVENT_BYTES
        )
        events = json_objects(server, json_object(server, data).get("pdus"), 1)
        if not events:
            raise malformed(server, "the event was answered without an event")
        return events[0]

    async def timestamp_to_event(
        self, server: str, room_id: str, at_ms: int, *, forwards: bool
    ) -> tuple[str, int]:
        """GET timestamp_to_event: the id and the time (ms) of the event closest to a time."""
        data = await self._client.request(
            server,
            "GET",
            path(f"{V1}/timestamp_to_event", room_id),
            query=[("ts", str(at_ms)), ("dir", "f" if forwards else "b")],
            timeout=QUICK_SECONDS,
            max_bytes=SMALL_BYTES,
        )
        answer = json_object(server, data)
        event_id, at = answer.get("event_id"), answer.get("origin_server_ts")
        if not identifiers.is_event_id(event_id) or type(at) is not int:
            raise malformed(server, "the time was answered without an event and its time")
        return str(event_id), at

    async def state_ids(self, server: str, room_id: str, event_id: str) -> tuple[list[str], list[str]]:
        """GET state_ids: the ids of the state before an event, and of its auth chain."""
        data = await self._client.request(
            server,
            "GET",
            path(f"{V1}/state_ids", room_id),
            query=[("event_id", event_id)],
            timeout=STATE_SECONDS,
            max_bytes=STATE_IDS_BYTES,
        )
        answer = decoded(server, data, _StateIds)
        for ids in (answer.pdu_ids, answer.auth_chain_ids):
            if len(ids) > MAX_STATE_EVENTS:
                raise malformed(server, f"more than {MAX_STATE_EVENTS} events")
            if not all(map(identifiers.is_event_id, ids)):
                raise malformed(server, "state_ids was answered with something that is no event id")
        return answer.pdu_ids, answer.auth_chain_ids

    async def state(
        self, server: str, room_id: str, event_id: str
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """GET state: the state before an event, and its auth chain."""
        state, auth_chain = await self.raw_state(server, room_id, event_id)
        return await event_objects(server, state), await event_objects(server, auth_chain)

    async def raw_state(
        self, server: str, room_id: str, event_id: str
    ) -> tuple[list[msgspec.Raw], list[msgspec.Raw]]:
        """As `state`, but each event is left as the bytes that came: of a large room, they are many."""
        data = await self._client.request(
            server,
            "GET",
            path(f"{V1}/state", room_id),
            query=[("event_id", event_id)],
            timeout=JOIN_SECONDS,
            max_bytes=STATE_BYTES,
        )
        answer = decoded(server, data, _State)
        if len(answer.pdus) > MAX_STATE_EVENTS or len(answer.auth_chain) > MAX_STATE_EVENTS:
            raise malformed(server, f"more than {MAX_STATE_EVENTS} events")
        return answer.pdus, answer.auth_chain

    async def event_auth(self, server: str, room_id: str, event_id: str) -> list[dict[str, Any]]:
        """GET event_auth: the auth chain of an event."""
        data = await self._client.request(
            server,
            "GET",
            path(f"{V1}/event_auth", room_id, event_id),
            timeout=STATE_SECONDS,
            max_bytes=STATE_BYTES,
        )
        return await event_objects(server, decoded(server, data, _AuthChain).auth_chain)

    async def backfill(
        self, server: str, room_id: str, event_ids: Sequence[str], limit: int
    ) -> list[dict[str, Any]]:
        """GET backfill: the events of `event_ids` and those before them, at most `limit` if it obeys."""
        data = await self._client.request(
            server,
            "GET",
            path(f"{V1}/backfill", room_id),
            query=[*(("v", event_id) for event_id in event_ids), ("limit", str(limit))],
            timeout=EVENTS_SECONDS,
            max_bytes=EVENTS_BYTES,
        )
        return json_objects(server, json_object(server, data).get("pdus"), MAX_EVENTS)

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
            path(f"{V1}/get_missing_events", room_id),
            content={
                "earliest_events": list(earliest),
                "latest_events": list(latest),
                "limit": limit,
                "min_depth": min_depth,
            },
            timeout=EVENTS_SECONDS,
            max_bytes=EVENTS_BYTES,
        )
        return json_objects(server, json_object(server, data).get("events"), MAX_EVENTS)

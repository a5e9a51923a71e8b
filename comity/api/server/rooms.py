"""What other servers ask about rooms: events, states, auth chains, history, memberships.

server-server §Retrieving events, §Backfilling, §Joining Rooms, §Leaving Rooms, §Inviting, §Knocking.
"""

from __future__ import annotations

from typing import Any

import orjson

from comity.api.by_time import by_time_query
from comity.api.router import JSON_HEADERS, Call, Guard, Router, json_response
from comity.ports import Clock, Response
from comity.protocol.errors import MatrixError, bad_json, missing_param
from comity.protocol.identifiers import is_event_id
from comity.rooms.resident import Resident
from comity.rooms.serve import Server, splice
from comity.rooms.timestamp import Timestamps
from comity.users.accounts import Accounts

#: Event ids that one request may name; of those that the asking server has already (all ends of the room's
#: graph, as some servers have it: they may be hundreds).
MAX_EVENT_IDS, MAX_HELD_IDS = 100, 5_000
#: server-server §Inviting to a room: what can be invited to by v1.
_V1_INVITE_VERSIONS = ("1", "2")
_V1 = "/_matrix/federation/v1"
_V2 = "/_matrix/federation/v2"


def _json(body: bytes) -> Response:
    return Response(200, body, dict(JSON_HEADERS))


def _ids(value: object, name: str, most: int = MAX_EVENT_IDS) -> list[str]:
    if not isinstance(value, list) or len(value) > most or not all(is_event_id(item) for item in value):
        raise bad_json(f"{name} is not a list of at most {most} event ids")
    return value


class RoomsApi:
    """Routes of the federation API that concern one room."""

    def __init__(
        self,
        server: Server,
        timestamps: Timestamps,
        resident: Resident,
        accounts: Accounts,
        clock: Clock,
        server_name: str,
    ) -> None:
        self._server = server
        self._timestamps = timestamps
        self._resident = resident
        self._accounts = accounts
        self._clock = clock
        self._server_name = server_name

    def routes(self, router: Router, guard: Guard) -> None:
        """Add the routes."""
        for method, template, handler in (
            ("GET", f"{_V1}/event/{{eventId}}", self.event),
            ("GET", f"{_V1}/state/{{roomId}}", self.state),
            ("GET", f"{_V1}/state_ids/{{roomId}}", self.state_ids),
            ("GET", f"{_V1}/event_auth/{{roomId}}/{{eventId}}", self.event_auth),
            ("GET", f"{_V1}/backfill/{{roomId}}", self.backfill),
            ("POST", f"{_V1}/get_missing_events/{{roomId}}", self.missing_events),
            ("GET", f"{_V1}/timestamp_to_event/{{roomId}}", self.by_time),
            ("GET", f"{_V1}/make_join/{{roomId}}/{{userId}}", self.make_join),
            ("GET", f"{_V1}/make_leave/{{roomId}}/{{userId}}", self.make_leave),
            ("GET", f"{_V1}/make_knock/{{roomId}}/{{userId}}", self.make_knock),
            ("PUT", f"{_V2}/send_join/{{roomId}}/{{eventId}}", self.send_join),
            ("PUT", f"{_V1}/send_join/{{roomId}}/{{eventId}}", self.send_join_v1),
            ("PUT", f"{_V2}/send_leave/{{roomId}}/{{eventId}}", self.send_leave),
            ("PUT", f"{_V1}/send_leave/{{roomId}}/{{eventId}}", self.send_leave_v1),
            ("PUT", f"{_V1}/send_knock/{{roomId}}/{{eventId}}", self.send_knock),
            ("PUT", f"{_V2}/invite/{{roomId}}/{{eventId}}", self.invite),
            ("PUT", f"{_V1}/invite/{{roomId}}/{{eventId}}", self.invite_v1),
        ):
            router.add(method, template, handler, guard=guard, serves="federation")

    def _pdus(self, events: list[bytes]) -> Response:
        name = orjson.dumps(self._server_name)
        now = str(self._clock.now_ms()).encode()
        return _json(
            b'{"origin":' + name + b',"origin_server_ts":' + now + b',"pdus":' + splice(events) + b"}"
        )

    async def event(self, call: Call) -> Response:
        """GET /event/{eventId}."""
        return self._pdus([await self._server.event(call.parameters["eventId"], call.origin)])

    async def state(self, call: Call) -> Response:
        """GET /state/{roomId}: the state before an event, and its auth chain."""
        room = await self._server.room_for(call.parameters["roomId"], call.origin)
        events, chain = await self._server.state(room, call.origin, call.query_required("event_id"))
        return _json(b'{"pdus":' + splice(events) + b',"auth_chain":' + splice(chain) + b"}")

    async def state_ids(self, call: Call) -> Response:
        """GET /state_ids/{roomId}."""
        room = await self._server.room_for(call.parameters["roomId"], call.origin)
        ids, chain = await self._server.state_ids(room, call.query_required("event_id"))
        return json_response({"pdu_ids": ids, "auth_chain_ids": chain})

    async def event_auth(self, call: Call) -> Response:
        """GET /event_auth/{roomId}/{eventId}."""
        room = await self._server.room_for(call.parameters["roomId"], call.origin)
        chain = await self._server.event_auth(room, call.origin, call.parameters["eventId"])
        return _json(b'{"auth_chain":' + splice(chain) + b"}")

    async def backfill(self, call: Call) -> Response:
        """GET /backfill/{roomId}."""
        room = await self._server.room_for(call.parameters["roomId"], call.origin)
        starts = _ids(call.query_all("v"), "v")
        if not starts:
            raise missing_param("The query parameter v is missing")
        limit = call.query_int("limit", 10, least=1)
        return self._pdus(await self._server.backfill(room, call.origin, starts, limit))

    async def missing_events(self, call: Call) -> Response:
        """POST /get_missing_events/{roomId}."""
        room = await self._server.room_for(call.parameters["roomId"], call.origin)
        earliest = _ids(call.field("earliest_events", list), "earliest_events", MAX_HELD_IDS)
        latest = _ids(call.field("latest_events", list), "latest_events")
        limit = call.field("limit", int, required=False)
        min_depth = call.field("min_depth", int, required=False)
        events = await self._server.missing_events(
            room, call.origin, earliest, latest, 10 if limit is None else max(limit, 0), min_depth or 0
        )
        return _json(b'{"events":' + splice(events) + b"}")

    async def by_time(self, call: Call) -> Response:
        """GET /timestamp_to_event/{roomId}."""
        at_ms, forwards = by_time_query(call)
        return json_response(
            await self._timestamps.for_server(
                call.parameters["roomId"], call.origin, at_ms, forwards=forwards
            )
        )

    # -- memberships

    async def make_join(self, call: Call) -> Response:
        """GET /make_join/{roomId}/{userId}."""
        return json_response(
            await self._resident.make(
                call.origin,
                call.parameters["roomId"],
                call.parameters["userId"],
                "join",
                call.query_all("ver"),
            )
        )

    async def make_leave(self, call: Call) -> Response:
        """GET /make_leave/{roomId}/{userId}."""
        return json_response(
            await self._resident.make(
                call.origin, call.parameters["roomId"], call.parameters["userId"], "leave"
            )
        )

    async def make_knock(self, call: Call) -> Response:
        """GET /make_knock/{roomId}/{userId}."""
        return json_response(
            await self._resident.make(
                call.origin,
                call.parameters["roomId"],
                call.parameters["userId"],
                "knock",
                call.query_all("ver"),
            )
        )

    async def send_join(self, call: Call) -> Response:
        """PUT /v2/send_join/{roomId}/{eventId}."""
        return _json(await self._take_join(call))

    async def send_join_v1(self, call: Call) -> Response:
        """PUT /v1/send_join/{roomId}/{eventId}: as v2, in an array."""
        return _json(b"[200," + await self._take_join(call) + b"]")

    async def _take_join(self, call: Call) -> bytes:
        room_id, event_id = call.parameters["roomId"], call.parameters["eventId"]
        omit = call.query("omit_members") == "true"
        return await self._resident.send_join(call.origin, room_id, event_id, call.json(), omit_members=omit)

    async def send_leave(self, call: Call) -> Response:
        """PUT /v2/send_leave/{roomId}/{eventId}."""
        await self._take_leave(call)
        return json_response({})

    async def send_leave_v1(self, call: Call) -> Response:
        """PUT /v1/send_leave/{roomId}/{eventId}: as v2, in an array."""
        await self._take_leave(call)
        return json_response([200, {}])

    async def _take_leave(self, call: Call) -> None:
        room_id, event_id = call.parameters["roomId"], call.parameters["eventId"]
        await self._resident.send_leave(call.origin, room_id, event_id, call.json())

    async def send_knock(self, call: Call) -> Response:
        """PUT /v1/send_knock/{roomId}/{eventId}."""
        room_id, event_id = call.parameters["roomId"], call.parameters["eventId"]
        return _json(await self._resident.send_knock(call.origin, room_id, event_id, call.json()))

    async def invite(self, call: Call) -> Response:
        """PUT /v2/invite/{roomId}/{eventId}."""
        return _json(await self._take_invite(call, call.json()))

    async def invite_v1(self, call: Call) -> Response:
        """PUT /v1/invite/{roomId}/{eventId}: the body is the event itself, of room version 1 or 2.

        The two have the same format; which it is, whoever joins learns from the create event.
        """
        event = call.json()
        unsigned = event.get("unsigned")
        shown = unsigned.get("invite_room_state", []) if isinstance(unsigned, dict) else []
        version = _claimed_version(shown)
        if version not in _V1_INVITE_VERSIONS:
            raise MatrixError(
                400,
                "M_INCOMPATIBLE_ROOM_VERSION",
                "Invites to rooms of this version go to /_matrix/federation/v2/invite",
                extra={"room_version": version},
            )
        body = {"room_version": version, "event": event, "invite_room_state": shown}
        return _json(b"[200," + await self._take_invite(call, body) + b"]")

    async def _take_invite(self, call: Call, body: dict[str, Any]) -> bytes:
        event = body.get("event")
        target = event.get("state_key") if isinstance(event, dict) else None
        exists = isinstance(target, str) and await self._accounts.exists(target)
        signed = await self._resident.take_invite(
            call.origin, call.parameters["roomId"], call.parameters["eventId"], body, user_exists=exists
        )
        return b'{"event":' + signed.encoded + b"}"


def _claimed_version(shown: object) -> str:
    """The room's version as the create event among an invite's state has it; 1 where it says nothing."""
    for item in shown if isinstance(shown, list) else ():
        if isinstance(item, dict) and item.get("type") == "m.room.create":
            content = item.get("content")
            version = content.get("room_version", "1") if isinstance(content, dict) else "1"
            return version if isinstance(version, str) else "1"
    return "1"

"""Read rooms: history, events, state, members (client-server §Getting events for a room)."""

from __future__ import annotations

from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.protocol.errors import invalid_param
from comity.protocol.filters import (
    MAX_LIMIT,
    NO_ROOM_EVENT_FILTER,
    RoomEventFilter,
    parse_room_event_filter,
    parse_text,
)
from comity.rooms.read import Reader, Walk

MEMBERSHIPS = ("join", "invite", "knock", "leave", "ban")


def routes(router: Router, guard: Guard, reader: Reader) -> None:
    """Add the routes of this family."""
    api, room = RoomsReadApi(reader), "/rooms/{roomId}"
    for template, handler in (
        ("/joined_rooms", api.joined_rooms),
        (room + "/messages", api.messages),
        (room + "/context/{eventId}", api.context),
        (room + "/event/{eventId}", api.event),
        (room + "/state", api.state),
        (room + "/state/{eventType}", api.state_event),
        (room + "/state/{eventType}/{stateKey}", api.state_event),
        (room + "/members", api.members),
        (room + "/joined_members", api.joined_members),
    ):
        add_classic(router, "GET", template, handler, guard)


class RoomsReadApi:
    """The handlers of these routes."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def joined_rooms(self, call: Call) -> Response:
        """GET /joined_rooms."""
        return json_response({"joined_rooms": await self._reader.joined_rooms(call.requester.user_id)})

    async def messages(self, call: Call) -> Response:
        """GET /rooms/{roomId}/messages."""
        direction = call.query_required("dir")
        if direction not in ("b", "f"):
            raise invalid_param("dir is neither b nor f")
        wanted = _filter(call)
        walk = Walk(
            user_id=call.requester.user_id,
            device_id=call.requester.device_id,
            room_id=call.parameters["roomId"],
            backwards=direction == "b",
            # COMPAT: an empty token stands for none.
            start=call.query("from") or None,
            end=call.query("to") or None,
            limit=_limit(call, wanted, least=1),
            wanted=wanted,
        )
        return json_response(await self._reader.messages(walk))

    async def context(self, call: Call) -> Response:
        """GET /rooms/{roomId}/context/{eventId}."""
        requester, wanted = call.requester, _filter(call)
        return json_response(
            await self._reader.context(
                requester.user_id,
                requester.device_id,
                call.parameters["roomId"],
                call.parameters["eventId"],
                _limit(call, wanted, least=0),
                wanted,
            )
        )

    async def event(self, call: Call) -> Response:
        """GET /rooms/{roomId}/event/{eventId}."""
        requester = call.requester
        return json_response(
            await self._reader.event(
                requester.user_id, requester.device_id, call.parameters["roomId"], call.parameters["eventId"]
            )
        )

    async def state(self, call: Call) -> Response:
        """GET /rooms/{roomId}/state."""
        requester = call.requester
        return json_response(
            await self._reader.state(requester.user_id, requester.device_id, call.parameters["roomId"])
        )

    async def state_event(self, call: Call) -> Response:
        """GET /rooms/{roomId}/state/{eventType}[/{stateKey}]."""
        requester = call.requester
        wanted = call.query("format", "content")
        if wanted not in ("content", "event"):
            raise invalid_param("format is neither content nor event")
        key = (call.parameters["eventType"], call.parameters.get("stateKey", ""))
        return json_response(
            await self._reader.state_event(
                requester.user_id,
                requester.device_id,
                call.parameters["roomId"],
                key,
                whole=wanted == "event",
            )
        )

    async def members(self, call: Call) -> Response:
        """GET /rooms/{roomId}/members."""
        requester = call.requester
        for name in ("membership", "not_membership"):
            if call.query(name) not in (None, *MEMBERSHIPS):
                raise invalid_param(f"{name} is not a membership")
        return json_response(
            await self._reader.members(
                requester.user_id,
                requester.device_id,
                call.parameters["roomId"],
                at=call.query("at") or None,
                membership=call.query("membership"),
                not_membership=call.query("not_membership"),
            )
        )

    async def joined_members(self, call: Call) -> Response:
        """GET /rooms/{roomId}/joined_members."""
        return json_response(
            await self._reader.joined_members(call.requester.user_id, call.parameters["roomId"])
        )


def _limit(call: Call, wanted: RoomEventFilter, *, least: int) -> int:
    """How many events: the lesser of what the query and the filter say."""
    most = MAX_LIMIT if wanted.events.limit is None else wanted.events.limit
    return min(call.query_int("limit", wanted.limit, least=least, most=MAX_LIMIT), most)


def _filter(call: Call) -> RoomEventFilter:
    text = call.query("filter")
    return parse_room_event_filter(parse_text(text)) if text else NO_ROOM_EVENT_FILTER

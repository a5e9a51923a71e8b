"""Server-side key backups (client-server §Server-side key backups)."""

from __future__ import annotations

from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.protocol.errors import bad_json, missing_param
from comity.users.key_backup import KeyBackups

_ALL, _ROOM = "/room_keys/keys", "/room_keys/keys/{roomId}"
_SESSION, _VERSION = "/room_keys/keys/{roomId}/{sessionId}", "/room_keys/version/{version}"


def routes(router: Router, guard: Guard, backups: KeyBackups) -> None:
    """Add the routes of this family."""
    _versions(router, guard, backups)

    async def put(call: Call) -> Response:
        at, body = call.parameters, call.json()
        rooms: dict[str, object]
        if "sessionId" in at:
            rooms = {at["roomId"]: {"sessions": {at["sessionId"]: body}}}
        elif "roomId" in at:
            rooms = {at["roomId"]: {"sessions": _member(body, "sessions")}}
        else:
            rooms = _member(body, "rooms")
        version = call.query_required("version")
        return json_response(await backups.put(call.requester.user_id, version, rooms))

    async def get_all(call: Call) -> Response:
        rooms = await backups.keys(call.requester.user_id, call.query_required("version"))
        return json_response({"rooms": rooms})

    async def get_room(call: Call) -> Response:
        room_id, version = call.parameters["roomId"], call.query_required("version")
        rooms = await backups.keys(call.requester.user_id, version, room_id)
        return json_response(rooms.get(room_id, {"sessions": {}}))

    async def get_session(call: Call) -> Response:
        at, version = call.parameters, call.query_required("version")
        user_id = call.requester.user_id
        return json_response(await backups.key(user_id, version, at["roomId"], at["sessionId"]))

    async def delete(call: Call) -> Response:
        at, version = call.parameters, call.query_required("version")
        where = at.get("roomId"), at.get("sessionId")
        return json_response(await backups.delete_keys(call.requester.user_id, version, *where))

    for path, get in ((_ALL, get_all), (_ROOM, get_room), (_SESSION, get_session)):
        add_classic(router, "PUT", path, put, guard)
        add_classic(router, "GET", path, get, guard)
        add_classic(router, "DELETE", path, delete, guard)


def _versions(router: Router, guard: Guard, backups: KeyBackups) -> None:
    async def create(call: Call) -> Response:
        return json_response({"version": await backups.create(call.requester.user_id, call.json())})

    async def info(call: Call) -> Response:
        version = call.parameters.get("version")
        return json_response(await backups.info(call.requester.user_id, version))

    async def update(call: Call) -> Response:
        await backups.update(call.requester.user_id, call.parameters["version"], call.json())
        return json_response({})

    async def delete(call: Call) -> Response:
        await backups.delete(call.requester.user_id, call.parameters["version"])
        return json_response({})

    add_classic(router, "POST", "/room_keys/version", create, guard)
    add_classic(router, "GET", "/room_keys/version", info, guard)
    add_classic(router, "GET", _VERSION, info, guard)
    add_classic(router, "PUT", _VERSION, update, guard)
    add_classic(router, "DELETE", _VERSION, delete, guard)


def _member(body: dict[str, object], name: str) -> dict[str, object]:
    """An object inside the body. Raises 400 M_MISSING_PARAM or M_BAD_JSON."""
    value = body.get(name)
    if value is None:
        raise missing_param(f"The request body lacks {name}")
    if not isinstance(value, dict):
        raise bad_json(f"{name} is not a JSON object")
    return value

"""Account data and tags (client-server §Client Config, §Room Tagging)."""

from __future__ import annotations

from comity.api.auth import must_be_self
from comity.api.client.prefixes import add_classic
from comity.api.router import JSON_HEADERS, Call, Guard, Router, json_response
from comity.ports import Response
from comity.users.account_data import AccountData


def routes(router: Router, guard: Guard, account_data: AccountData) -> None:
    """Add the routes of this family."""

    async def get(call: Call) -> Response:
        room_id = call.parameters.get("roomId")
        content = await account_data.get(must_be_self(call), room_id, call.parameters["type"])
        return Response(200, content, dict(JSON_HEADERS))

    async def put(call: Call) -> Response:
        user_id = must_be_self(call)
        room_id = call.parameters.get("roomId")
        await account_data.put(user_id, room_id, call.parameters["type"], call.json())
        return json_response({})

    async def get_tags(call: Call) -> Response:
        return json_response({"tags": await account_data.tags(must_be_self(call), call.parameters["roomId"])})

    async def put_tag(call: Call) -> Response:
        user_id = must_be_self(call)
        await account_data.put_tag(user_id, call.parameters["roomId"], call.parameters["tag"], call.json())
        return json_response({})

    async def delete_tag(call: Call) -> Response:
        await account_data.delete_tag(must_be_self(call), call.parameters["roomId"], call.parameters["tag"])
        return json_response({})

    for place in ("/user/{userId}/account_data/{type}", "/user/{userId}/rooms/{roomId}/account_data/{type}"):
        add_classic(router, "GET", place, get, guard)
        add_classic(router, "PUT", place, put, guard)
    tags = "/user/{userId}/rooms/{roomId}/tags"
    add_classic(router, "GET", tags, get_tags, guard)
    add_classic(router, "PUT", tags + "/{tag}", put_tag, guard)
    add_classic(router, "DELETE", tags + "/{tag}", delete_tag, guard)

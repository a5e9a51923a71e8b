"""Devices (client-server §Device Management)."""

from __future__ import annotations

from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.protocol.errors import bad_json
from comity.users.devices import MAX_DELETED_AT_ONCE, Devices


def routes(router: Router, guard: Guard, devices: Devices) -> None:
    """Add the routes of this family."""

    async def list_all(call: Call) -> Response:
        return json_response({"devices": await devices.all(call.requester.user_id)})

    async def get(call: Call) -> Response:
        return json_response(await devices.get(call.requester.user_id, call.parameters["deviceId"]))

    async def put(call: Call) -> Response:
        name = call.json().get("display_name")
        await devices.rename(call.requester.user_id, call.parameters["deviceId"], name)
        return json_response({})

    async def delete(call: Call) -> Response:
        wanted = [call.parameters["deviceId"]]
        await devices.delete(call.requester.user_id, wanted, call.json_or_empty())
        return json_response({})

    async def delete_several(call: Call) -> Response:
        wanted: list[object] = call.field("devices", list)
        ids = [device_id for device_id in wanted if isinstance(device_id, str)]
        if len(ids) < len(wanted) or len(ids) > MAX_DELETED_AT_ONCE:
            raise bad_json(f"devices is not a list of at most {MAX_DELETED_AT_ONCE} device ids")
        await devices.delete(call.requester.user_id, ids, call.json())
        return json_response({})

    add_classic(router, "GET", "/devices", list_all, guard)
    add_classic(router, "GET", "/devices/{deviceId}", get, guard)
    add_classic(router, "PUT", "/devices/{deviceId}", put, guard)
    add_classic(router, "DELETE", "/devices/{deviceId}", delete, guard)
    add_classic(router, "POST", "/delete_devices", delete_several, guard)

"""Dehydrated devices (MSC3814, under its unstable name)."""

from __future__ import annotations

from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.users.dehydrated import DehydratedDevices

PATH = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"


def routes(router: Router, guard: Guard, devices: DehydratedDevices) -> None:
    """Add the routes of this family."""

    async def put(call: Call) -> Response:
        return json_response({"device_id": await devices.put(call.requester.user_id, call.json())})

    async def get(call: Call) -> Response:
        return json_response(await devices.get(call.requester.user_id))

    async def delete(call: Call) -> Response:
        return json_response({"device_id": await devices.delete(call.requester.user_id)})

    async def events(call: Call) -> Response:
        if call.request.method == "POST":
            # COMPAT: an older form of the proposal, which some clients speak.
            batch = call.json_or_empty().get("next_batch")
        else:
            batch = call.query("from")
        at = call.parameters
        return json_response(await devices.events(call.requester.user_id, at["deviceId"], batch))

    router.add("PUT", PATH, put, guard=guard)
    router.add("GET", PATH, get, guard=guard)
    router.add("DELETE", PATH, delete, guard=guard)
    router.add("GET", PATH + "/{deviceId}/events", events, guard=guard)
    router.add("POST", PATH + "/{deviceId}/events", events, guard=guard)

"""Keys for encryption, and messages to devices (client-server §End-to-End Encryption)."""

from __future__ import annotations

from collections.abc import Callable

from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.users.cross_signing import CrossSigning
from comity.users.key_queries import KeyQueries
from comity.users.keys import Keys
from comity.users.to_device import ToDevice

#: The position in a sync token. Raises 400 M_INVALID_PARAM for what is none.
PositionOf = Callable[[str], int]


def routes(
    router: Router,
    guard: Guard,
    keys: Keys,
    queries: KeyQueries,
    signing: CrossSigning,
    to_device: ToDevice,
    position_of: PositionOf,
) -> None:
    """Add the routes of this family."""

    async def upload(call: Call) -> Response:
        who = call.requester
        return json_response(
            {"one_time_key_counts": await keys.upload(who.user_id, who.device_id, call.json())}
        )

    async def query(call: Call) -> Response:
        return json_response(await queries.query(call.requester.user_id, call.json()))

    async def claim(call: Call) -> Response:
        return json_response(await queries.claim(call.json()))

    async def changes(call: Call) -> Response:
        after, upto = position_of(call.query_required("from")), position_of(call.query_required("to"))
        return json_response(await keys.changes(call.requester.user_id, after, upto))

    async def upload_signing(call: Call) -> Response:
        await signing.upload(call.requester.user_id, call.json(), by_oauth=call.requester.by_oauth)
        return json_response({})

    async def add_signatures(call: Call) -> Response:
        return json_response(await signing.add_signatures(call.requester.user_id, call.json()))

    async def send_to_device(call: Call) -> Response:
        who, at = call.requester, call.parameters
        await to_device.send(who.user_id, who.device_id, at["eventType"], at["txnId"], call.json())
        return json_response({})

    add_classic(router, "POST", "/keys/upload", upload, guard)
    # COMPAT: an old form of r0 has the device id in the path.
    router.add("POST", "/_matrix/client/r0/keys/upload/{deviceId}", upload, guard=guard)
    add_classic(router, "POST", "/keys/query", query, guard)
    add_classic(router, "POST", "/keys/claim", claim, guard)
    add_classic(router, "GET", "/keys/changes", changes, guard)
    add_classic(router, "POST", "/keys/device_signing/upload", upload_signing, guard)
    add_classic(router, "POST", "/keys/signatures/upload", add_signatures, guard)
    add_classic(router, "PUT", "/sendToDevice/{eventType}/{txnId}", send_to_device, guard)

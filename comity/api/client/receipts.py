"""Receipts and read markers (client-server §Receipts, §Read and unread markers)."""

from __future__ import annotations

from comity.api.client.prefixes import add_classic
from comity.api.router import Call, Guard, Router, json_response
from comity.ports import Response
from comity.users.receipts import Receipts


def routes(router: Router, guard: Guard, receipts: Receipts) -> None:
    """Add the routes of this family."""

    async def receipt(call: Call) -> Response:
        at = call.parameters
        # COMPAT: clients from before threads send no body at all.
        body = call.json_or_empty()
        user_id = call.requester.user_id
        await receipts.receive(user_id, at["roomId"], at["receiptType"], at["eventId"], body)
        return json_response({})

    async def read_markers(call: Call) -> Response:
        await receipts.mark(call.requester.user_id, call.parameters["roomId"], call.json())
        return json_response({})

    add_classic(router, "POST", "/rooms/{roomId}/receipt/{receiptType}/{eventId}", receipt, guard)
    add_classic(router, "POST", "/rooms/{roomId}/read_markers", read_markers, guard)

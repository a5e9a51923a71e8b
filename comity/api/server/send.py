"""PUT /_matrix/federation/v1/send/{txnId} (server-server §Transactions)."""

from __future__ import annotations

from comity.api.router import JSON_HEADERS, Call, Guard, Router
from comity.ports import Response
from comity.protocol.errors import bad_json, invalid_param
from comity.rooms.intake import MAX_EDUS, MAX_PDUS, Intake
from comity.users.edus import Edus

#: A transaction id is somebody else's string: it is bounded before it is stored.
MAX_TRANSACTION_ID = 255


class SendApi:
    """Takes other servers' transactions."""

    def __init__(self, intake: Intake, edus: Edus) -> None:
        self._intake = intake
        self._edus = edus

    def routes(self, router: Router, guard: Guard) -> None:
        """Add the route."""
        router.add("PUT", "/_matrix/federation/v1/send/{txnId}", self.send, guard=guard, serves="federation")

    async def send(self, call: Call) -> Response:
        """Take at most 50 PDUs and 100 EDUs; answer when what lasts is on disk."""
        transaction_id = call.parameters["txnId"]
        if len(transaction_id) > MAX_TRANSACTION_ID:
            raise invalid_param("The transaction id is too long")
        body = call.json()
        if body.get("origin", call.origin) != call.origin:
            raise invalid_param("The transaction's origin is not the server that sent it")
        pdus, edus = body.get("pdus", []), body.get("edus", [])
        if not isinstance(pdus, list) or not isinstance(edus, list):
            raise bad_json("pdus and edus are lists")
        if len(pdus) > MAX_PDUS or len(edus) > MAX_EDUS:
            raise invalid_param(f"A transaction has at most {MAX_PDUS} PDUs and {MAX_EDUS} EDUs")
        is_replay = bool(edus) and await self._intake.has_answered(call.origin, transaction_id)
        answer = await self._intake.receive(call.origin, transaction_id, pdus)
        if edus:
            await self._edus.receive(call.origin, edus, is_replay=is_replay)
        return Response(200, answer, dict(JSON_HEADERS))

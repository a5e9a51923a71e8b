"""Transaction identifiers of requests (client-server §Transaction identifiers)."""

from __future__ import annotations

from comity.api.router import Call
from comity.protocol.errors import invalid_param
from comity.rooms.write import ClientTransaction

#: A transaction id is the client's string: it is bounded before it is stored.
MAX_TRANSACTION_ID = 255


def transaction_id_of(call: Call) -> str:
    """The transaction id in the path. Raises 400 M_INVALID_PARAM."""
    transaction_id = call.parameters["txnId"]
    if len(transaction_id) > MAX_TRANSACTION_ID:
        raise invalid_param("The transaction id is too long")
    return transaction_id


def scope_of(call: Call, endpoint: str) -> str:
    """Within which a transaction id means the same request: the room and the endpoint."""
    return f"{call.parameters['roomId']} {endpoint}"


def transaction_of(call: Call, endpoint: str) -> ClientTransaction:
    """What makes this request the same as another. Raises 400 M_INVALID_PARAM."""
    requester = call.requester
    return ClientTransaction(
        requester.user_id, requester.device_id, scope_of(call, endpoint), transaction_id_of(call)
    )

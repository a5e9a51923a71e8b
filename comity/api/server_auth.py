"""Who asks, when a server asks: the guard of the federation routes.

Owns the reading of the X-Matrix header of a request to us and the refusals (server-server
§Request Authentication). The keys and the arithmetic are the keyring's.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from comity.api.router import Call
from comity.federation.keyring import Keyring
from comity.protocol.errors import MatrixError, unauthorized
from comity.protocol.signing import Authorization, parse_authorization, request_object

#: Signatures of one request that are looked at: a server sends one per key it signs with.
MAX_AUTHORIZATIONS = 4
#: Where one header's value ends and that of a repeated one begins, once they are joined.
_NEXT_HEADER = re.compile(r",[ \t]*(?=x-matrix[ \t])", re.IGNORECASE)


class OriginGuard:
    """Lets a request pass that its origin has signed, and sets `call.server`."""

    def __init__(self, keyring: Keyring, server_name: str, spoke: Callable[[str], None]) -> None:
        """`server_name` is ours; `spoke` is told of each server that made a valid request."""
        self._keyring = keyring
        self._server_name = server_name
        self._spoke = spoke

    async def __call__(self, call: Call) -> None:
        """Raises MatrixError: 401 M_UNAUTHORIZED, 400 M_NOT_JSON or M_BAD_JSON, 413 M_TOO_LARGE."""
        request = call.request
        header = request.headers.get("authorization")
        if header is None:
            raise unauthorized("This endpoint is for other servers, which sign with an X-Matrix header")
        authorizations = [parse_authorization(part) for part in _NEXT_HEADER.split(header)]
        if len(authorizations) > MAX_AUTHORIZATIONS:
            raise unauthorized("The request has too many Authorization headers")
        origin = self._checked_origin(authorizations)
        content = call.deep_json() if request.body or request.body_too_large else None
        target = f"{request.path}?{request.query}" if request.query else request.path
        # COMPAT: the header may lack the destination; what is signed has it nevertheless.
        message = request_object(request.method, target, origin, self._server_name, content)
        refusal: MatrixError | None = None
        for authorization in authorizations:
            try:
                await self._keyring.verify_request(origin, authorization, message)
                break
            except MatrixError as error:
                refusal = refusal or error
        else:
            raise refusal or unauthorized("The request is not signed")
        call.server = origin
        self._spoke(origin)

    def _checked_origin(self, authorizations: list[Authorization]) -> str:
        """The one server that all the headers name, if they are meant for us. Raises MatrixError."""
        origin = authorizations[0].origin
        for authorization in authorizations:
            if authorization.origin != origin:
                raise unauthorized("The Authorization headers name different origins")
            if authorization.destination is not None and authorization.destination != self._server_name:
                raise unauthorized(
                    f"The request is meant for another server than this one, which is {self._server_name}"
                )
        if origin == self._server_name:
            raise unauthorized("The request claims to come from this server itself")
        return origin

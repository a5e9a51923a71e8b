"""Who asks, when a server asks: the guard of the federation routes.

Owns the reading of the X-Matrix header of a request to us and the refusals (server-server
§Request Authentication). The keys and the arithmetic are the keyring's, and whose a TLS client
certificate is, is `federation.certificates`' affair.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from comity.api.router import Call
from comity.federation.certificates import ClientCertificates
from comity.federation.keyring import Keyring
from comity.federation.origin_limits import OriginLimits
from comity.federation.server_lists import ServerLists
from comity.protocol.errors import MatrixError, unauthorized
from comity.protocol.signing import Authorization, parse_authorization, request_object

#: Signatures of one request that are looked at: a server sends one per key it signs with.
MAX_AUTHORIZATIONS = 4
#: Where one header's value ends and that of a repeated one begins, once they are joined.
_NEXT_HEADER = re.compile(r",[ \t]*(?=x-matrix[ \t])", re.IGNORECASE)


class OriginGuard:
    """Lets a request pass that its origin has signed, and sets `call.server`."""

    def __init__(
        self,
        keyring: Keyring,
        server_name: str,
        spoke: Callable[[str], None],
        certificates: ClientCertificates,
        lists: ServerLists | None = None,
        limits: OriginLimits | None = None,
    ) -> None:
        """`server_name` is ours; `spoke` is told of each server that made a valid request.

        `certificates` judges the TLS client certificates of those that present one. `lists` say who
        is answered (None: everybody), `limits` how much of each (None: without end).
        """
        self._lists = lists or ServerLists()
        self._limits = limits
        self._keyring = keyring
        self._server_name = server_name
        self._spoke = spoke
        self._certificates = certificates

    async def __call__(self, call: Call) -> None:
        """Raises MatrixError: 401 M_UNAUTHORIZED, 400 M_NOT_JSON or M_BAD_JSON, 413 M_TOO_LARGE.

        And 403 M_FORBIDDEN for a server that is not welcome, 429 M_LIMIT_EXCEEDED for too much.
        """
        request = call.request
        header = request.headers.get("authorization")
        if header is None:
            raise unauthorized("This endpoint is for other servers, which sign with an X-Matrix header")
        authorizations = [parse_authorization(part) for part in _NEXT_HEADER.split(header)]
        if len(authorizations) > MAX_AUTHORIZATIONS:
            raise unauthorized("The request has too many Authorization headers")
        origin = self._checked_origin(authorizations)
        self._lists.check_asking(origin)
        if self._limits is not None:
            self._limits.check_address(request.remote, origin)
        content = call.deep_json() if request.body or request.body_too_large else None
        target = f"{request.path}?{request.query}" if request.query else request.path
        # COMPAT: the header may lack the destination; what is signed has it nevertheless.
        message = request_object(request.method, target, origin, self._server_name, content)
        refusal = await self._refusal(origin, authorizations, message)
        if refusal is not None:
            if self._limits is not None:
                self._limits.note_forged(request.remote)
            raise refusal
        if request.peer_certificate is not None:
            await self._certificates.check(origin, request.peer_certificate)
        self._spoke(origin)
        if self._limits is not None:
            call.at_end = await self._limits.admit(origin, request.remote, request.path, content)
        call.server = origin

    async def _refusal(
        self, origin: str, authorizations: Sequence[Authorization], message: Mapping[str, Any]
    ) -> MatrixError | None:
        """What is wrong with all of the signatures; None if one of them holds."""
        refusal: MatrixError | None = None
        for authorization in authorizations:
            try:
                await self._keyring.verify_request(origin, authorization, message)
                return None
            except MatrixError as error:
                refusal = refusal or error
        return refusal or unauthorized("The request is not signed")

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

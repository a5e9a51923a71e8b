"""The endpoints of OAuth 2.0 that clients call themselves (client-server §OAuth 2.0 API). No pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from comity.api.address import client_address
from comity.api.router import Call, Router, json_response
from comity.config import Config
from comity.ports import Response
from comity.protocol.errors import MatrixError
from comity.users.oauth import endpoints
from comity.users.oauth.device_grant import INTERVAL_MS, LIFETIME_MS
from comity.users.oauth.errors import OAuthError, invalid_client, invalid_request
from comity.users.oauth.system import OAuthSystem
from comity.web.forms import read_form
from comity.web.pages import Pages

#: The longest metadata of a client: all URIs as long as they may be.
MAX_METADATA_BYTES = 64 * 1024
#: How long clients may keep the metadata of this server: it changes with its configuration alone.
METADATA_SECONDS = 3600
#: RFC 6749 §5.1.
NOT_STORED = {"Cache-Control": "no-store", "Pragma": "no-cache"}

Handler = Callable[[Call], Awaitable[Response]]


class OAuthEndpoints:
    """Registration, tokens, revocation, devices, and the metadata."""

    def __init__(self, config: Config, oauth: OAuthSystem, pages: Pages) -> None:
        self._config = config
        self._oauth = oauth
        self._pages = pages

    def routes(self, router: Router) -> None:
        """Add the routes of this family."""
        # The second is COMPAT: where clients look that were written before v1.15 (MSC2965).
        for path in ("/_matrix/client/v1", "/_matrix/client/unstable/org.matrix.msc2965"):
            router.add("GET", f"{path}/auth_metadata", self._metadata, guard=None)
        if not self._config.has_oauth:
            return
        router.add("POST", endpoints.REGISTER, told_as_oauth(self._register), guard=None)
        router.add("POST", endpoints.TOKEN, told_as_oauth(self._token), guard=None)
        router.add("POST", endpoints.REVOKE, told_as_oauth(self._revoke), guard=None)
        router.add("POST", endpoints.DEVICE, told_as_oauth(self._device), guard=None)

    async def _metadata(self, call: Call) -> Response:
        """`GET /auth_metadata`; 404 M_UNRECOGNIZED where OAuth 2.0 is off (§Authentication API discovery)."""
        if not self._config.has_oauth:
            raise MatrixError(404, "M_UNRECOGNIZED", "This server has no OAuth 2.0: log in as ever")
        told = endpoints.metadata(self._oauth.base_url, registration_open=self._config.registration.enabled)
        response = json_response(told)
        response.headers["Cache-Control"] = f"public, max-age={METADATA_SECONDS}"
        return response

    async def _register(self, call: Call) -> Response:
        if len(call.request.body) > MAX_METADATA_BYTES:
            raise OAuthError("invalid_client_metadata", "The metadata is too large", 413)
        try:
            given = call.json()
        except MatrixError as error:
            raise OAuthError("invalid_client_metadata", error.text, error.status) from None
        client = await self._oauth.clients.register(given, client_address(call.request))
        return json_response({"client_id": client.client_id, **client.metadata.told()}, 201)

    async def _token(self, call: Call) -> Response:
        granted = await self._oauth.tokens.give(read_form(call.request), client_address(call.request))
        return json_response(granted.told())

    async def _revoke(self, call: Call) -> Response:
        await self._oauth.tokens.revoke(read_form(call.request), client_address(call.request))
        return json_response({})

    async def _device(self, call: Call) -> Response:
        """RFC 8628 §3.1, §3.2."""
        form = read_form(call.request)
        client = await self._oauth.clients.find(form.text("client_id"))
        if client is None:
            raise invalid_client("The client is not registered here: register again")
        begun = await self._oauth.device_grant.begin(client, form.text("scope"), client_address(call.request))
        return json_response(
            {
                "device_code": begun.device_code,
                "user_code": begun.user_code,
                "verification_uri": self._pages.url(endpoints.LINK),
                "verification_uri_complete": self._pages.url(endpoints.LINK, user_code=begun.user_code),
                "expires_in": LIFETIME_MS // 1000,
                "interval": INTERVAL_MS // 1000,
            }
        )


def told_as_oauth(handler: Handler) -> Handler:
    """A handler whose errors are told as RFC 6749 §5.2 has them."""

    async def answer(call: Call) -> Response:
        wait_ms: object = None
        try:
            response = await handler(call)
        except OAuthError as error:
            response = _told(error)
        except MatrixError as error:
            if error.status == 429:
                wait_ms = error.extra.get("retry_after_ms")
                response = _told(OAuthError("temporarily_unavailable", error.text, 429))
            elif error.status >= 500:
                response = _told(OAuthError("server_error", error.text, error.status))
            else:
                response = _told(OAuthError(invalid_request("").code, error.text, error.status))
        response.headers.update(NOT_STORED)
        if isinstance(wait_ms, int):
            response.headers["Retry-After"] = str(-(-wait_ms // 1000))
        return response

    return answer


def _told(error: OAuthError) -> Response:
    return json_response({"error": error.code, "error_description": error.text}, error.status)

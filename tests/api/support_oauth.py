"""A client of OAuth 2.0, as apps are one: it registers, sends its user to the pages, takes tokens."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import orjson

from comity.app import App
from comity.ports import Request
from tests import specification
from tests.api.support_browser import ORIGIN, Browser, Page
from tests.api.support_users import Answer

VERIFIER = "v" * 20 + "-._~" + "w" * 30
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
WEB_CLIENT: Mapping[str, Any] = {
    "client_name": "An App",
    "client_uri": "https://client.example/",
    "redirect_uris": ["https://app.client.example/callback"],
    "response_types": ["code"],
    "grant_types": [
        "authorization_code",
        "refresh_token",
        "urn:ietf:params:oauth:grant-type:device_code",
        "urn:ietf:params:oauth:grant-type:token-exchange",
    ],
    "token_endpoint_auth_method": "none",
    "application_type": "web",
}
REDIRECT = "https://app.client.example/callback"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


def scope(device_id: str = "ABCDEFGHIJ") -> str:
    """The scope that clients ask for."""
    return f"urn:matrix:client:api:* urn:matrix:client:device:{device_id}"


async def call(
    app: App,
    method: str,
    url: str,
    *,
    json: object = None,
    form: Mapping[str, str] | None = None,
    token: str = "",
    raw: bytes | None = None,
    kind: str = "",
) -> Answer:
    """A request of a client."""
    parts = urlsplit(url)
    body, headers = raw if raw is not None else b"", {"content-type": kind}
    if json is not None:
        body, headers = orjson.dumps(json), {"content-type": "application/json"}
    elif form is not None:
        body, headers = urlencode(form).encode(), {"content-type": "application/x-www-form-urlencoded"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    request = Request(method, parts.path, parts.query, headers, body, "192.0.2.9", frozenset({"client"}))
    response = await app.handle(request)
    assert isinstance(response.body, bytes)
    told = orjson.loads(response.body)
    # The endpoints of OAuth 2.0 tell errors as its own specifications have them.
    if parts.path.startswith("/_matrix/"):
        assert not (faults := specification.faults(app.router, request, response.status, told)), faults
    return Answer(response.status, told, response.headers)


class OAuthClient:
    """One app."""

    def __init__(self, app: App, metadata: Mapping[str, Any], client_id: str) -> None:
        self.app = app
        self.metadata = metadata
        self.client_id = client_id

    @classmethod
    async def registered(cls, app: App, given: Mapping[str, Any] = WEB_CLIENT) -> OAuthClient:
        """An app that knows the server and has registered."""
        metadata = (await call(app, "GET", f"{ORIGIN}/_matrix/client/v1/auth_metadata")).ok()
        answer = await call(app, "POST", metadata["registration_endpoint"], json=given)
        assert answer.status == 201, answer
        return cls(app, metadata, answer.body["client_id"])

    def request(self, **changed: str) -> dict[str, str]:
        """The parameters of an authorization request; an empty one is left out."""
        given = {
            "client_id": self.client_id,
            "response_type": "code",
            "response_mode": "fragment",
            "redirect_uri": REDIRECT,
            "scope": scope(),
            "state": "a state & more",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            **changed,
        }
        return {name: value for name, value in given.items() if value}

    async def open(self, browser: Browser, **changed: str) -> Page:
        """Send the user to the authorization page."""
        return await browser.get(self.metadata["authorization_endpoint"], **self.request(**changed))

    async def consent(self, browser: Browser, **changed: str) -> dict[str, str]:
        """Have the user consent; what comes back to the client."""
        page = await self.open(browser, **changed)
        await browser.send(page, "/_comity/oauth2/authorize", decision="allow")
        return returned(browser.left_for)

    async def token(self, **form: str) -> Answer:
        """A token request."""
        return await call(
            self.app, "POST", self.metadata["token_endpoint"], form={"client_id": self.client_id, **form}
        )

    async def take(self, code: str, **changed: str) -> Answer:
        """Take tokens for a code."""
        given = {"code": code, "redirect_uri": REDIRECT, "code_verifier": VERIFIER, **changed}
        return await self.token(grant_type="authorization_code", **given)

    async def log_in(self, browser: Browser, device_id: str = "ABCDEFGHIJ") -> dict[str, Any]:
        """The whole way, for who is signed in to the pages: the answer to the token request."""
        code = (await self.consent(browser, scope=scope(device_id)))["code"]
        tokens: dict[str, Any] = (await self.take(code)).ok()
        return tokens

    async def refresh(self, refresh_token: str) -> Answer:
        """New tokens."""
        return await self.token(grant_type="refresh_token", refresh_token=refresh_token)

    async def revoke(self, token: str, **more: str) -> Answer:
        """Log out."""
        return await call(
            self.app, "POST", self.metadata["revocation_endpoint"], form={"token": token, **more}
        )

    async def whoami(self, access_token: str) -> Answer:
        """Whom a token stands for."""
        return await call(self.app, "GET", f"{ORIGIN}/_matrix/client/v3/account/whoami", token=access_token)


def returned(url: str) -> dict[str, str]:
    """The parameters that come back with a redirect URI, in the fragment or the query."""
    parts = urlsplit(url)
    return {name: values[0] for name, values in parse_qs(parts.fragment or parts.query).items()}

"""An OpenID provider that does what a test wants, over real HTTP and TLS on loopback.

It is strict about what it is asked: a request that the standards do not allow fails the test.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
from base64 import b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote_plus, urlencode, urlsplit

import orjson
from joserfc import jwk, jwt

from comity.net.http_client import HttpsTransport
from comity.net.http_server import server_ssl_context
from comity.ports import Outbound, Request, Response
from tests.api.support_browser import Browser, Page
from tests.api.support_rooms import Place, place
from tests.net.authority import Authority
from tests.net.serving import Serving

CLIENT_ID, CLIENT_SECRET = "comity at example", "s3cret & co"
Claims = dict[str, Any]
#: Made once: an RSA key takes a while.
KEY = jwk.generate_key("RSA", 2048, {"kid": "first", "use": "sig", "alg": "RS256"})


@dataclass
class _Code:
    query: dict[str, str]
    claims: Claims
    used: bool = False


@dataclass
class Provider:
    """What it is, and what it does otherwise than it should."""

    issuer: str = ""
    now: Callable[[], float] = lambda: 0.0
    keys: list[Any] = field(default_factory=lambda: [KEY])
    #: Changes of the discovery document, of the ID token's header, and of its claims.
    document: Claims = field(default_factory=dict)
    header: Claims = field(default_factory=dict)
    claims: Claims = field(default_factory=dict)
    #: Makes the token in the place of the usual one, from its claims.
    sign: Callable[[Claims], str] | None = None
    #: What it answers to the code beside the ID token; the user info.
    tokens: Claims = field(default_factory=dict)
    userinfo: Claims | None = None
    #: Who signs in, without being asked, when a browser comes: (subject, claims).
    person: tuple[str, Claims] | None = None
    #: Answers at a path, in the place of its own.
    instead: dict[str, Response] = field(default_factory=dict)
    #: (method, path) of every request.
    asked: list[tuple[str, str]] = field(default_factory=list)
    _codes: dict[str, _Code] = field(default_factory=dict)
    _numbers: Any = field(default_factory=itertools.count)

    # -- what a browser sees

    def sign_in(self, url: str, subject: str, *, wrong: Claims | None = None, **claims: Any) -> str:
        """Somebody signs in, and lets the server know: where their browser is sent.

        `wrong` is put into the query with which it is sent back; None takes a parameter away.
        """
        parts = urlsplit(url)
        assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{self.issuer.rstrip('/')}/authorize"
        pairs = parse_qsl(parts.query, strict_parsing=True)
        query = dict(pairs)
        assert len(query) == len(pairs)
        assert query["response_type"] == "code" and query["client_id"] == CLIENT_ID
        assert "openid" in query["scope"].split(" ")
        assert query["code_challenge_method"] == "S256" and len(query["code_challenge"]) == 43
        assert len(query["state"]) >= 22 and len(query["nonce"]) >= 22
        code = f"code {next(self._numbers)}"
        self._codes[code] = _Code(query, {"sub": subject, **claims})
        brought = {"code": code, "state": query["state"], "iss": self.issuer, **(wrong or {})}
        back = urlencode({name: value for name, value in brought.items() if value is not None})
        return f"{query['redirect_uri']}?{back}"

    # -- what the server sees

    async def handle(self, request: Request) -> Response:
        """Answer a request of the server's."""
        self.asked.append((request.method, request.path))
        if request.path in self.instead:
            return self.instead[request.path]
        if request.path.endswith("/.well-known/openid-configuration"):
            return _json(self._document())
        if request.path == "/keys":
            return _json({"keys": [key.as_dict(private=False) for key in self.keys]})
        if request.path == "/authorize" and self.person is not None:
            url = f"{self.issuer}/authorize?{request.query}"
            return Response(302, b"", {"location": self.sign_in(url, self.person[0], **self.person[1])})
        if request.path == "/token":
            return self._redeem(request)
        if request.path == "/userinfo" and self.userinfo is not None:
            assert request.headers["authorization"] == "Bearer an-access-token"
            return _json(self.userinfo)
        return Response(404, b"nothing here")

    def _document(self) -> Claims:
        base = self.issuer.rstrip("/")
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{base}/authorize",
            "token_endpoint": f"{base}/token",
            "jwks_uri": f"{base}/keys",
            **({"userinfo_endpoint": f"{base}/userinfo"} if self.userinfo is not None else {}),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "authorization_response_iss_parameter_supported": True,
            **self.document,
        }

    def _redeem(self, request: Request) -> Response:
        """RFC 6749 §4.1.3, RFC 7636 §4.6."""
        assert request.method == "POST"
        assert request.headers["content-type"] == "application/x-www-form-urlencoded"
        form = {
            name: value for name, (value,) in parse_qs(request.body.decode(), strict_parsing=True).items()
        }
        methods = self.document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if "client_secret_basic" in methods:
            pair = b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()
            assert [unquote_plus(part) for part in pair.split(":")] == [CLIENT_ID, CLIENT_SECRET]
        else:
            assert (form["client_id"], form["client_secret"]) == (CLIENT_ID, CLIENT_SECRET)
        code = self._codes.get(form["code"])
        if code is None or code.used:
            return _json({"error": "invalid_grant", "error_description": "That code is no good"}, 400)
        code.used = True
        assert form["grant_type"] == "authorization_code"
        assert form["redirect_uri"] == code.query["redirect_uri"]
        challenge = urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        assert challenge.decode() == code.query["code_challenge"]
        now = int(self.now())
        claims = {
            "iss": self.issuer, "aud": CLIENT_ID, "exp": now + 300, "iat": now,
            "nonce": code.query["nonce"], **code.claims, **self.claims,
        }  # fmt: skip
        claims = {name: value for name, value in claims.items() if value is not None}
        return _json(
            {"access_token": "an-access-token", "token_type": "Bearer", "id_token": self._signed(claims)}
            | self.tokens
        )

    def _signed(self, claims: Claims) -> str:
        if self.sign is not None:
            return self.sign(claims)
        header = {"alg": "RS256", "kid": self.keys[0].kid, **self.header}
        return jwt.encode({name: value for name, value in header.items() if value}, claims, self.keys[0])


def _json(value: object, status: int = 200) -> Response:
    return Response(status, orjson.dumps(value), {"content-type": "application/json"})


def unsigned(claims: Claims) -> str:
    """A token without a signature (alg none)."""
    return ".".join([part({"alg": "none"}), part(claims), ""])


def signed_with_public_key(claims: Claims) -> str:
    """A token whose secret is the public key, which everybody knows (HS256 in the place of RS256)."""
    signed = f"{part({'alg': 'HS256', 'kid': KEY.kid})}.{part(claims)}"
    digest = hmac.new(KEY.as_pem(private=False), signed.encode(), "sha256").digest()
    return f"{signed}.{urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def part(value: Claims) -> str:
    """A part of a token, as it is written."""
    return urlsafe_b64encode(orjson.dumps(value)).rstrip(b"=").decode()


SETTINGS = """
[outbound]
trusted_ca = ["ca.pem"]
allow_ranges = ["127.0.0.1"]
[oidc.mock]
issuer = "{issuer}"
client_id = "{client_id}"
client_secret = "{secret}"
display_name = "Mock & Co"
"""


@asynccontextmanager
async def outbound_of(authority: Authority) -> AsyncIterator[Outbound]:
    """The real door to the network, which trusts the tests' authority, on loopback."""
    transport = HttpsTransport(
        trusted_ca=[authority.ca], verify_certificates=True, allow_ranges=["127.0.0.1"], user_agent="tests"
    )
    await transport.open()
    try:
        yield transport
    finally:
        await transport.close()


@dataclass
class Both:
    """A server, and a provider by which people sign in to it."""

    place: Place
    provider: Provider
    name: str = "mock"

    def browser(self) -> Browser:
        """A browser of somebody's."""
        return Browser(self.place.app)

    async def to_provider(self, browser: Browser, redirect_url: str = "https://app.example/") -> str:
        """An app sends a browser to sign in: the provider's URL that it ends at."""
        await browser.get(
            f"/_matrix/client/v3/login/sso/redirect/{self.name}?{urlencode({'redirectUrl': redirect_url})}"
        )
        assert browser.left_for, "the browser was not sent to the provider"
        return browser.left_for

    async def come(self, browser: Browser, subject: str, redirect_url: str = "", **claims: Any) -> Page:
        """Somebody signs in for an app: the page that they see after it."""
        url = await self.to_provider(browser, redirect_url or "https://app.example/")
        return await browser.get(self.provider.sign_in(url, subject, **claims))

    async def let_in(self, browser: Browser, page: Page) -> str:
        """They let the app in: its login token."""
        await browser.send(page, "/_comity/sso/allow")
        return login_token(browser.left_for)


def login_token(url: str) -> str:
    """The login token with which an app was called."""
    (token,) = parse_qs(urlsplit(url).query)["loginToken"]
    return token


@asynccontextmanager
async def provider_and_door(directory: Path, path: str = "") -> AsyncIterator[tuple[Provider, Outbound]]:
    """A running provider, and the door to the network by which a server reaches it."""
    authority, serving = Authority(directory), Serving()
    there = Provider()
    issued = authority.issue(["127.0.0.1"])
    tls = server_ssl_context(issued.certificate, issued.private_key)
    served = await serving.start(there.handle, tls=tls)
    there.issuer = f"https://127.0.0.1:{served.port}{path}"
    try:
        async with outbound_of(authority) as outbound:
            yield there, outbound
    finally:
        await serving.close()


def settings_of(provider: Provider, settings: str = "") -> str:
    """The configuration of a server for that provider; `settings` is more of `[oidc.mock]`."""
    return SETTINGS.format(issuer=provider.issuer, client_id=CLIENT_ID, secret=CLIENT_SECRET) + settings


@asynccontextmanager
async def both(
    directory: Path, settings: str = "", *, path: str = "", limits: str = ""
) -> AsyncIterator[Both]:
    """A server and a provider; `settings` is more of `[oidc.mock]`, `path` ends the issuer.

    `limits` is what is in `[rate_limits]`, in the place of none.
    """
    changes = {"[rate_limits]\nenabled = false": f"[rate_limits]\n{limits}"} if limits else {}
    async with (
        provider_and_door(directory, path) as (provider, outbound),
        place(
            directory, settings=settings_of(provider, settings), outbound=outbound, changes=changes
        ) as opened,
    ):
        provider.now = lambda: opened.clock.now_ms() / 1000
        yield Both(opened, provider)

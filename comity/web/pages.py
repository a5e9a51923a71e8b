"""The pages that people see: how each is guarded, drawn and answered. What is on them is others'.

A page is drawn from a template by the server alone and works without a script. Every browser has a
cookie with a token of chance (HttpOnly, SameSite=Lax): it stands for nobody until its user signs in,
and then for a session in the database (`comity.users.browsers`), under a new token. A form carries
an HMAC under that token, so that no other site can send it. Answers forbid frames, scripts (but for
our own files, on pages that ask for them) and everything from elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from comity.api.address import client_address
from comity.api.router import Call, Router
from comity.config import Config
from comity.ports import Request, Response
from comity.protocol.errors import MatrixError, forbidden, not_found
from comity.users.browsers import LONGEST_MS, Browsers, SignedIn
from comity.web.forms import NO_FORM, Form, parse_form, read_form

_log = logging.getLogger(__name__)
#: What every page of ours stands below: one path for a reverse proxy to pass on.
ROOT = "/_comity"
SIGN_IN = f"{ROOT}/sign-in"
ACCOUNT = f"{ROOT}/account"
_HERE = Path(__file__).parent
#: A token of ours: anything else in the cookie is thrown away.
_TOKEN = re.compile(r"[A-Za-z0-9]{43}")
#: The longest address on this server to come back to: an authorization request with all that it carries.
MAX_THEN_CHARACTERS = 8_000
#: An address on this server: no scheme, no host, nothing that a browser could take for either.
_OWN_ADDRESS = re.compile(re.escape(ROOT) + r"/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*")
STATIC_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
#: How long a browser keeps a static file; its address changes with what is in it.
STATIC_SECONDS = 7 * 24 * 3600
SECURITY_HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": with that, browsers leave out where a form comes from.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Handler = Callable[["Visit"], Awaitable[Response]]


@dataclass(slots=True)
class Visit:
    """One request of a browser, and the ways to answer it."""

    call: Call
    #: Who is signed in there, if anybody is.
    browser: SignedIn | None
    #: What was sent; empty for GET.
    form: Form
    #: The token in the browser's cookie.
    token: str = field(repr=False)
    _pages: Pages = field(repr=False)
    _cookie: str | None = field(default=None, repr=False)

    @property
    def user(self) -> SignedIn:
        """Who is signed in; only on pages that need it."""
        if self.browser is None:
            raise RuntimeError("This page is open to everybody")
        return self.browser

    @property
    def address(self) -> str:
        """Where the request came from."""
        return client_address(self.call.request)

    @property
    def user_agent(self) -> str:
        """The browser's own name."""
        return self.call.request.headers.get("user-agent", "")

    @property
    def query(self) -> Form:
        """The parameters of the address. Raises 400 M_INVALID_PARAM."""
        return parse_form(self.call.request.query)

    @property
    def binding(self) -> bytes:
        """What ties something to this browser: it is another in every other one, and after signing in."""
        return hashlib.sha256(b"binding " + self.token.encode()).digest()

    def page(
        self,
        template: str,
        *,
        status: int = 200,
        form_targets: Sequence[str] = (),
        with_scripts: bool = False,
        **values: object,
    ) -> Response:
        """The page of a template.

        `form_targets` are origins or schemes (`https://client.example`, `org.example.app:`) that a
        form may lead to by a redirect; `with_scripts` lets files of `static/` run.
        """
        response = self._pages.draw(
            template,
            status,
            {
                "csrf": self._pages.csrf(self.token),
                "user_id": self.browser and self.browser.user_id,
                **values,
            },
            form_targets,
            with_scripts=with_scripts,
        )
        self._set_cookie(response)
        return response

    def redirect(self, path: str, **query: str) -> Response:
        """Go on at one of our own pages."""
        return self.redirect_away(self._pages.href(path, **query))

    def redirect_away(self, url: str) -> Response:
        """Go on at a URL that the caller has checked."""
        response = Response(303, b"", self._pages.headers() | {"Location": url})
        self._set_cookie(response)
        return response

    def signed_in(self, token: str) -> None:
        """From this answer on, the browser holds that token."""
        self.token = token
        self._cookie = self._pages.cookie(token, seconds=LONGEST_MS // 1000)

    def signed_out(self) -> None:
        """From this answer on, the browser holds a token that stands for nobody."""
        self.token = self._pages.new_token()
        self._cookie = self._pages.cookie(self.token)

    def _set_cookie(self, response: Response) -> None:
        if self._cookie is not None:
            response.headers["Set-Cookie"] = self._cookie


class Pages:
    """Draws pages, and adds their routes."""

    def __init__(self, router: Router, config: Config, browsers: Browsers) -> None:
        base = urlsplit(config.client_base_url)
        self._router = router
        self._browsers = browsers
        self._origin = f"{base.scheme}://{base.netloc}"
        self._prefix = base.path.rstrip("/")
        self._is_secure = base.scheme == "https"
        # Browsers take a cookie of that name from nobody but this very host, over TLS.
        self._cookie_name = "__Host-comity" if self._is_secure else "comity"
        self._static = {path.name: path.read_bytes() for path in sorted((_HERE / "static").iterdir())}
        self._templates = templates()
        #: What every template may use beside its own values.
        self._common = {
            "href": self.href,
            "static": self._static_href,
            "server_name": config.server_name,
            "root": ROOT,
        }
        router.add("GET", f"{ROOT}/static/{{name}}", self._serve_static, guard=None)

    # -- routes

    def add(self, method: str, path: str, handler: Handler, *, signed_in: bool = False) -> None:
        """Add a page. Where nobody is signed in though `signed_in`, the browser goes to sign in first."""

        async def answer(call: Call) -> Response:
            visit = Visit(call, None, NO_FORM, "", self)
            try:
                await self._receive(visit)
                if signed_in and visit.browser is None:
                    return self.to_sign_in(visit)
                return await handler(visit)
            except MatrixError as error:
                return self._failed(visit, error)

        self._router.add(method, path, answer, guard=None)

    async def _receive(self, visit: Visit) -> None:
        """Find out who comes, and that a form is from a page of ours. Raises MatrixError."""
        request = visit.call.request
        token = self._sent_token(request)
        if token is None:
            visit.signed_out()
        else:
            visit.token = token
            visit.browser = await self._browsers.find(token)
        if request.method in ("GET", "HEAD"):
            return
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise forbidden("This form was sent by another site")
        visit.form = read_form(request)
        if not hmac.compare_digest(visit.form.text("csrf").encode(), self.csrf(visit.token).encode()):
            raise forbidden("This page was open for too long, or in another session. Go back and try again.")

    def to_sign_in(self, visit: Visit, **more: str) -> Response:
        """Go and sign in, then come back to the page that was asked for."""
        request = visit.call.request
        query = urlencode(visit.query) if request.method == "GET" else ""
        then = request.path.removeprefix(self._prefix) + (f"?{query}" if query else "")
        return visit.redirect(SIGN_IN, then=own_address(then), **more)

    def _failed(self, visit: Visit, error: MatrixError) -> Response:
        if error.status >= 500:
            _log.warning("%s %s: %s", visit.call.request.method, visit.call.request.path, error)
        response = visit.page("error.html", status=error.status, text=error.text)
        wait_ms = error.extra.get("retry_after_ms")
        if isinstance(wait_ms, int):
            response.headers["Retry-After"] = str(-(-wait_ms // 1000))
        return response

    # -- addresses

    def href(self, path: str, **query: str) -> str:
        """The address of a page of ours, as links and forms have it."""
        return self._prefix + path + (("&" if "?" in path else "?") + urlencode(query) if query else "")

    def url(self, path: str, **query: str) -> str:
        """The same in full, for those who are not on a page."""
        return self._origin + self.href(path, **query)

    def _static_href(self, name: str) -> str:
        return self.href(f"{ROOT}/static/{name}", v=hashlib.sha256(self._static[name]).hexdigest()[:12])

    async def _serve_static(self, call: Call) -> Response:
        body = self._static.get(call.parameters["name"])
        if body is None:
            raise not_found("No such file")
        kind = STATIC_TYPES[Path(call.parameters["name"]).suffix]
        headers = {"Content-Type": kind, "Cache-Control": f"public, max-age={STATIC_SECONDS}"}
        return Response(200, body, {**self.headers(), **headers})

    # -- cookies and forms

    def new_token(self) -> str:
        """A token that stands for nobody."""
        return self._browsers.new_token()

    def _sent_token(self, request: Request) -> str | None:
        # By hand: the standard library gives all cookies up at one of another program that is malformed.
        for cookie in request.headers.get("cookie", "").split(";"):
            name, _, value = cookie.strip().partition("=")
            if name == self._cookie_name and _TOKEN.fullmatch(value):
                return value
        return None

    def cookie(self, token: str, seconds: int | None = None) -> str:
        """The value of Set-Cookie; without `seconds`, it goes when the browser is closed."""
        parts = [f"{self._cookie_name}={token}", "Path=/", "HttpOnly", "SameSite=Lax"]
        if self._is_secure:
            parts.append("Secure")
        if seconds is not None:
            parts.append(f"Max-Age={seconds}")
        return "; ".join(parts)

    def csrf(self, token: str) -> str:
        """What a form must carry that the browser with that token sends."""
        return hmac.new(token.encode(), b"form", hashlib.sha256).hexdigest()

    # -- drawing

    def draw(
        self,
        template: str,
        status: int,
        values: Mapping[str, object],
        form_targets: Sequence[str] = (),
        *,
        with_scripts: bool = False,
    ) -> Response:
        """A template as an answer; for pages without a visitor. See `Visit.page`."""
        body = self._templates[template].render({**self._common, **values})
        headers = self.headers(form_targets, with_scripts=with_scripts)
        return Response(status, body.encode(), {**headers, "Content-Type": "text/html; charset=utf-8"})

    def headers(self, form_targets: Sequence[str] = (), *, with_scripts: bool = False) -> dict[str, str]:
        """What every answer of ours says to the browser."""
        policy = [
            "default-src 'none'",
            "style-src 'self'",
            "img-src 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
            "form-action " + " ".join(["'self'", *form_targets]),
        ]
        if with_scripts:
            policy.append("script-src 'self'")
        return {**SECURITY_HEADERS, "Content-Security-Policy": "; ".join(policy)}


@cache
def templates() -> Mapping[str, Template]:
    """Every template by its name, compiled: what is wrong with one is told at the start."""
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        # All of them stay compiled, those that they are made of too.
        cache_size=-1,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["moment"] = moment
    return {name: environment.get_template(name) for name in environment.list_templates()}


def moment(milliseconds: int) -> str:
    """A time since the epoch as people read it."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def own_address(text: str, default: str = ACCOUNT) -> str:
    """An address on this server to go on at, or the default: never one that leads anywhere else."""
    if len(text) > MAX_THEN_CHARACTERS or not _OWN_ADDRESS.fullmatch(text):
        return default
    return text

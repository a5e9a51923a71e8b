"""A browser without a screen: it keeps its cookies, reads the forms of a page and sends them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from urllib.parse import urlencode, urljoin, urlsplit

from comity.app import App
from comity.ports import Request

#: Where the tests' server is for browsers.
ORIGIN = "https://example.org"
#: More redirects than any way through the pages has.
MAX_REDIRECTS = 10


@dataclass
class PageForm:
    """A form of a page: where it goes, and what it holds already."""

    method: str
    action: str
    fields: dict[str, str] = field(default_factory=dict)
    #: name=value of its buttons.
    buttons: list[str] = field(default_factory=list)


@dataclass
class Page:
    """What a browser shows."""

    url: str
    status: int
    headers: Mapping[str, str]
    text: str
    forms: list[PageForm]
    links: list[str]

    @property
    def words(self) -> str:
        """The text alone, with single spaces."""
        return " ".join(_Words.of(self.text).split())

    def form(self, path: str) -> PageForm:
        """The one form that goes to `path`."""
        (found,) = [form for form in self.forms if urlsplit(form.action).path == path]
        return found


class Browser:
    """One browser of one person."""

    def __init__(self, app: App, address: str = "192.0.2.1") -> None:
        self._app = app
        self._address = address
        self.cookies: dict[str, str] = {}
        #: Set where the browser was sent to another site; it does not go there.
        self.left_for = ""

    async def get(self, url: str, **query: str) -> Page:
        """Open an address, and follow where it leads."""
        return await self._go("GET", urljoin(ORIGIN, url) + (f"?{urlencode(query)}" if query else ""), b"")

    async def post(self, url: str, fields: Mapping[str, str], **headers: str) -> Page:
        """Send a form as it is given, and follow where that leads."""
        return await self._go("POST", urljoin(ORIGIN, url), urlencode(fields).encode(), headers)

    async def send(self, page: Page, path: str, **fields: str) -> Page:
        """Fill in the page's form that goes to `path`, and send it."""
        form = page.form(path)
        return await self.post(urljoin(page.url, form.action), {**form.fields, **fields})

    async def sign_in(self, name: str, password: str = "correct horse") -> Page:
        """Sign in to the pages."""
        page = await self.get("/_comity/sign-in")
        return await self.send(page, "/_comity/sign-in", name=name, password=password)

    async def _go(self, method: str, url: str, body: bytes, headers: Mapping[str, str] | None = None) -> Page:
        self.left_for = ""
        for _ in range(MAX_REDIRECTS):
            parts = urlsplit(url)
            sent = {**(headers or {})}
            if method == "POST":
                sent.setdefault("content-type", "application/x-www-form-urlencoded")
            if self.cookies:
                sent["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
            request = Request(
                method, parts.path, parts.query, sent, body, self._address, frozenset({"client"})
            )
            response = await self._app.handle(request)
            for name, morsel in SimpleCookie(response.headers.get("Set-Cookie", "")).items():
                self.cookies[name] = morsel.value
            assert isinstance(response.body, bytes)
            if response.status not in (302, 303):
                text = response.body.decode()
                return Page(url, response.status, response.headers, text, *_Reader.read(text))
            url, method, body, headers = urljoin(url, response.headers["Location"]), "GET", b"", None
            if not url.startswith(ORIGIN + "/"):
                self.left_for = url
                return Page(url, 303, response.headers, "", [], [])
        raise AssertionError(f"The pages lead in a circle, to {url}")


class _Reader(HTMLParser):
    """Finds forms and links."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[PageForm] = []
        self.links: list[str] = []

    @classmethod
    def read(cls, text: str) -> tuple[list[PageForm], list[str]]:
        reader = cls()
        reader.feed(text)
        return reader.forms, reader.links

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(PageForm(given.get("method", "get").upper(), given.get("action", "")))
        elif tag == "a":
            self.links.append(given.get("href", ""))
        elif tag == "input" and given.get("name") and self.forms:
            if given.get("type") != "checkbox" or "checked" in given:
                self.forms[-1].fields[given["name"]] = given.get("value", "")
        elif tag == "button" and given.get("name") and self.forms:
            self.forms[-1].buttons.append(f"{given['name']}={given.get('value', '')}")


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    @classmethod
    def of(cls, text: str) -> str:
        words = cls()
        words.feed(text)
        return " ".join(words.found)

    def handle_data(self, data: str) -> None:
        self.found.append(data)

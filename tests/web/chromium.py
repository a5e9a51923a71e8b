"""A real browser before the pages: Chromium, driven by Playwright, on a server behind TLS on loopback.

With COMITY_SCREENSHOTS naming a folder, every page that a test stops at is drawn into it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from comity.app import App, build
from comity.cli.certificates import self_signed
from comity.config import loads, signing_key
from comity.net.http_server import HttpServer, server_ssl_context
from comity.net.system import SystemClock, SystemEntropy, ThreadOffload
from comity.ports import Outbound, Ports, Request, Response
from tests.api.support_rooms import Network, NoResolver
from tests.engines import Pauses

PASSWORD = "correct horse"
SCREENSHOTS = os.environ.get("COMITY_SCREENSHOTS")
#: What it is called, by those who package it.
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: The narrowest screen that has to do (WCAG 2.2 §1.4.10, Reflow), and an ordinary one; in CSS pixels.
NARROW, WIDE = (320, 640), (1100, 800)
CONFIGURATION = """
server_name = "example.org"
data_dir = "."
[registration]
enabled = true
requires = "nothing"
[passwords]
memory_kib = 8
iterations = 1
[federation]
enabled = false
[public]
client_base_url = "{url}"
"""


def executable() -> str:
    """The browser; skips the test where there is none."""
    for name in NAMES:
        found = shutil.which(name)
        if found is not None:
            return found
    pytest.skip("Chromium is not here: install it (Debian: apt-get install chromium)")


@dataclass
class Site:
    """A server, its address, and a listener where apps and other sites are."""

    app: App
    url: str
    #: Of another site, without TLS.
    elsewhere: str
    http: aiohttp.ClientSession
    #: Paths of the other site to the HTML there.
    pages: dict[str, str] = field(default_factory=dict)

    async def post(self, path: str, form: Mapping[str, str] | None = None, **more: Any) -> tuple[int, Any]:
        """A request of an app: the status and the JSON that came back."""
        async with self.http.post(self.url + path, data=form, ssl=False, **more) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str, token: str) -> tuple[int, Any]:
        """A request of an app that is logged in."""
        headers = {"Authorization": f"Bearer {token}"}
        async with self.http.get(self.url + path, headers=headers, ssl=False) as answer:
            return answer.status, await answer.json()

    async def account(self, name: str) -> str:
        """Make an account as an app would, and stay logged in; the access token."""
        body = {"username": name, "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
        status, answer = await self.post("/_matrix/client/v3/register", json=body)
        assert status == 200, answer
        token: str = answer["access_token"]
        return token


@asynccontextmanager
async def site(directory: Path, settings: str = "", outbound: Outbound | None = None) -> AsyncIterator[Site]:
    """A running server behind TLS, and another site beside it.

    `settings` is more configuration text; `outbound` is how it asks places by URLs.
    """
    certificate = self_signed(["127.0.0.1"], datetime.now(UTC))
    (directory / "certificate.pem").write_bytes(certificate.certificate_pem)
    (directory / "key.pem").write_bytes(certificate.private_key_pem)
    (directory / "signing.key").write_text(signing_key.render("a1", SystemEntropy().bytes(32)))
    tls = server_ssl_context(directory / "certificate.pem", directory / "key.pem")
    apps: list[App] = []
    pages: dict[str, str] = {}

    async def handle(request: Request) -> Response:
        return await apps[0].handle(request)

    async def other_site(request: Request) -> Response:
        html = pages.get(request.path, "<!doctype html><title>An app</title><p>Here is the app.")
        return Response(200, html.encode(), {"Content-Type": "text/html; charset=utf-8"})

    offload = ThreadOffload()
    server, other = (HttpServer(function, max_body_bytes=1 << 20) for function in (handle, other_site))
    try:
        address = await server.listen("127.0.0.1:0", frozenset({"client"}), tls)
        elsewhere = await other.listen("127.0.0.1:0", frozenset({"client"}), None)
        url = f"https://{address}"
        network = Network()
        ports = Ports(
            SystemClock(), SystemEntropy(), network, NoResolver(), offload, Pauses(), outbound or network
        )
        app = build(loads(CONFIGURATION.format(url=url) + settings, directory), ports)
        apps.append(app)
        await app.start()
        try:
            async with aiohttp.ClientSession() as http:
                # Another name: to a browser, another site.
                yield Site(app, url, f"http://{elsewhere}".replace("127.0.0.1", "localhost"), http, pages)
        finally:
            await app.stop()
    finally:
        await server.close(0)
        await other.close(0)
        await offload.close()


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """The browser."""
    path = executable()
    async with async_playwright() as playwright:
        # In a container there may be neither user namespaces nor much shared memory.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = await playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def window(
    browser: Browser, *, size: tuple[int, int] = WIDE, dark: bool = False, attacked: bool = False
) -> AsyncIterator[Page]:
    """A window of a new visitor, without scripts.

    At its end, the pages' policy must have refused nothing; with `attacked`, scripts run (for the
    attacker), and it must have refused something.
    """
    context: BrowserContext = await browser.new_context(
        ignore_https_errors=True,
        java_script_enabled=attacked,
        color_scheme="dark" if dark else "light",
        viewport={"width": size[0], "height": size[1]},
    )
    said: list[str] = []
    page = await context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.set_default_timeout(15_000)
    try:
        yield page
        refused = [text for text in said if "Content Security Policy" in text]
        assert bool(refused) == attacked, refused
    finally:
        await context.close()


async def look(page: Page, name: str) -> None:
    """Stop at a page: it has one heading and fits into the window."""
    assert await page.locator("h1").count() == 1, page.url
    too_wide = await page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert too_wide <= 0, f"{page.url} is too wide by {too_wide} pixels"
    if SCREENSHOTS:
        Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        await page.screenshot(path=str(Path(SCREENSHOTS) / f"{name}.png"), full_page=True)


async def sign_in(page: Page, name: str) -> None:
    """Fill in the sign-in page that the window is at, by the keyboard alone."""
    # The first field has the focus by itself.
    await expect(page.get_by_label("User name")).to_be_focused()
    await page.keyboard.type(name)
    await page.keyboard.press("Tab")
    await page.keyboard.type(PASSWORD)
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Password", exact=True)).to_have_count(0)

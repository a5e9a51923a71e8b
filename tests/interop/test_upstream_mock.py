"""Signing in through an OpenID provider that nobody here wrote (PyPI: oidc-provider-mock), over real HTTP."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from comity.net.http_client import HttpsTransport
from comity.net.system import SystemClock
from tests.api.support_browser import Browser, Page
from tests.api.support_provider import login_token
from tests.api.support_rooms import Place, ask, place
from tests.interop.process import START_WITHIN, free_port
from tests.interop.servers import INSTALL_HINT, oidc_python

pytestmark = [pytest.mark.interop]

SETTINGS = """
[outbound]
allow_ranges = ["127.0.0.1", "::1"]
[oidc.other]
issuer = "{issuer}"
client_id = "comity"
client_secret = "s3cret"
display_name = "Another make"
"""
CLAIMS = '{"sub": "1", "preferred_username": "alice", "name": "Alice", "email": "a@example.com"}'


@asynccontextmanager
async def provider() -> AsyncIterator[str]:
    """The issuer of a running provider."""
    python = oidc_python()
    if python is None:
        pytest.skip(f"no oidc-provider-mock: {INSTALL_HINT}")
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        str(python), "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(port), "--host", "localhost",
        "--require-nonce", "true", "--user-claims", CLAIMS,
        env=dict(os.environ), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        async with asyncio.timeout(START_WITHIN):
            while b"running on" not in (line := await process.stderr.readline()):
                assert line, "the provider ended at once"
        reading = asyncio.create_task(process.stderr.read())
        yield f"http://localhost:{port}"
        reading.cancel()
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def both(directory: Path) -> AsyncIterator[Place]:
    """A server that people sign in to through that provider, at the provider's own time."""
    transport = HttpsTransport(
        trusted_ca=[], verify_certificates=True, allow_ranges=["127.0.0.1", "::1"], user_agent="tests"
    )
    await transport.open()
    try:
        async with (
            provider() as issuer,
            place(directory, settings=SETTINGS.format(issuer=issuer), outbound=transport) as here,
        ):
            here.clock.jump(SystemClock().now_ms() / 1000)
            yield here
    finally:
        await transport.close()


async def come(browser: Browser, url: str, **form: str) -> Page:
    """Somebody fills in the provider's form, and is sent back."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=form, allow_redirects=False) as answer,
    ):
        assert answer.status == 302, await answer.text()
        return await browser.get(answer.headers["Location"])


async def test_signing_in(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        browser = Browser(here.app)
        path = "/_matrix/client/v3/login/sso/redirect/other"
        await browser.get(path, redirectUrl="https://app.example/")
        page = await come(browser, browser.left_for, sub="1")
        assert urlsplit(page.url).path == "/_comity/sso/allow", page.words
        await browser.send(page, "/_comity/sso/allow")
        body = {"type": "m.login.token", "token": login_token(browser.left_for)}
        opened = (await ask(here.app, "POST", "/_matrix/client/v3/login", body, {}, None)).ok()
        assert opened["user_id"] == "@alice:example.org"
        # Somebody of whom it tells nothing.
        await browser.get(path, redirectUrl="https://app.example/")
        page = await come(browser, browser.left_for, sub="somebody else")
        assert urlsplit(page.url).path == "/_comity/upstream/choose" and "somebody else" in page.words

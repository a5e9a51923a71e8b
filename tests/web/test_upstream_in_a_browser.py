"""Signing in through a provider with a real browser: redirects, policies, scripts of the fallbacks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, BrowserContext, expect

from comity.net.system import SystemClock
from tests.api.support_provider import Provider, login_token, provider_and_door, settings_of
from tests.web.chromium import NARROW, Site, chromium, look, site, window

REDIRECT = "/_matrix/client/v3/login/sso/redirect"
ALICE: dict[str, Any] = {"preferred_username": "alice", "email": "alice@example.com"}


@asynccontextmanager
async def all_three(directory: Path) -> AsyncIterator[tuple[Site, Provider, Browser]]:
    """A server, a provider, and a browser that both are real to."""
    async with provider_and_door(directory) as (provider, outbound):
        provider.now = lambda: SystemClock().now_ms() / 1000
        provider.person = ("1", ALICE)
        async with site(directory, settings_of(provider), outbound) as there, chromium() as browser:
            yield there, provider, browser


async def log_in(there: Site, token: str) -> Any:
    status, answer = await there.post(
        "/_matrix/client/v3/login", json={"type": "m.login.token", "token": token}
    )
    assert status == 200, answer
    return answer


async def test_an_app_is_let_in(tmp_path: Path) -> None:
    async with all_three(tmp_path) as (there, _, browser), window(browser) as page:
        await page.goto(f"{there.url}{REDIRECT}?action=login&redirectUrl={there.elsewhere}/app")
        await look(page, "sso_choose")
        await page.get_by_role("link", name="Continue with Mock & Co").click()
        await look(page, "sso_allow")
        await page.get_by_role("button").click()
        await expect(page.get_by_text("Here is the app.")).to_be_visible()
        answer = await log_in(there, login_token(page.url))
        assert answer["user_id"] == "@alice:example.org"


async def test_a_newcomer_chooses_a_name_and_links_another_sign_in(tmp_path: Path) -> None:
    async with (
        all_three(tmp_path) as (there, provider, browser),
        window(browser, size=NARROW, dark=True) as page,
    ):
        await there.account("alice")
        await page.goto(f"{there.url}/_comity/sign-in?then=/_comity/account/sign-ins")
        await page.get_by_role("link", name="Sign in with Mock & Co").click()
        await look(page, "upstream_choose")
        await page.get_by_label("User name", exact=True).fill("alice2")
        await page.get_by_role("button", name="Make the account").click()
        await look(page, "sign_ins")
        provider.person = ("2", {"email": "second@example.com"})
        await page.get_by_role("button", name="Link Mock & Co", exact=True).click()
        await expect(page.get_by_text("second@example.com")).to_be_visible()
        await page.get_by_role("button", name="Unlink Mock & Co, alice@example.com").click()
        await expect(page.get_by_text("alice@example.com")).to_have_count(0)


@asynccontextmanager
async def with_scripts(browser: Browser) -> AsyncIterator[tuple[BrowserContext, list[str]]]:
    """A visitor whose browser runs scripts, and what it has said of policies."""
    context = await browser.new_context(ignore_https_errors=True)
    context.set_default_timeout(15_000)
    refused: list[str] = []
    context.on(
        "console",
        lambda message: refused.append(message.text) if "Security Policy" in message.text else None,
    )
    try:
        yield context, refused
        assert refused == []
    finally:
        await context.close()


async def test_a_stage_is_completed_in_a_window_of_its_own(tmp_path: Path) -> None:
    async with all_three(tmp_path) as (there, _, browser), with_scripts(browser) as (context, _refused):
        page = await context.new_page()
        await page.goto(f"{there.url}{REDIRECT}/mock?redirectUrl={there.elsewhere}/app")
        await page.get_by_role("button").click()
        await expect(page.get_by_text("Here is the app.")).to_be_visible()
        opened = await log_in(there, login_token(page.url))
        headers = {"Authorization": f"Bearer {opened['access_token']}"}
        status, asked = await there.post(
            "/_matrix/client/v3/delete_devices", json={"devices": ["X"]}, headers=headers
        )
        assert status == 401
        fallback = f"{there.url}/_matrix/client/v3/auth/m.login.sso/fallback/web?session={asked['session']}"
        await page.evaluate(
            "url => { window.told = []; window.opened = window.open(url);"
            " window.addEventListener('message', event => window.told.push(event.data)) }",
            fallback,
        )
        popup = context.pages[-1] if len(context.pages) > 1 else await context.wait_for_event("page")
        await popup.get_by_role("button", name="Confirm with Mock & Co").click()
        await expect(popup.get_by_role("heading", name="Done")).to_be_visible()
        await page.wait_for_function("window.told.includes('authDone')")
        status, _ = await there.post(
            "/_matrix/client/v3/delete_devices",
            json={"devices": ["X"], "auth": {"session": asked["session"]}}, headers=headers,
        )  # fmt: skip
        assert status == 200


async def test_an_app_that_cannot_log_in_by_itself(tmp_path: Path) -> None:
    async with all_three(tmp_path) as (there, _, browser), with_scripts(browser) as (context, _refused):
        await context.add_init_script(
            "window.matrixLogin = { onLogin: answer => { window.answer = answer } }"
        )
        page = await context.new_page()
        await page.goto(f"{there.url}/_matrix/static/client/login/?device_id=GHTYAJCE")
        await page.get_by_role("link", name="Log in with Mock & Co").click()
        await page.get_by_role("button", name="Continue to the app").click()
        await page.wait_for_function("window.answer")
        answer = await page.evaluate("window.answer")
        assert (answer["user_id"], answer["device_id"]) == ("@alice:example.org", "GHTYAJCE")

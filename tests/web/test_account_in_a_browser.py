"""The account page in a real browser, without scripts, on screens of both sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.web.chromium import NARROW, WIDE, chromium, look, sign_in, site, window

ACCOUNT = "/_comity/account"


async def part(page: Page, label: str) -> None:
    """Go to a part of the account page."""
    await page.get_by_role("navigation").get_by_role("link", name=label).click()


@pytest.mark.parametrize(("size", "dark"), [(WIDE, False), (NARROW, True)])
async def test_an_account_from_end_to_end(tmp_path: Path, size: tuple[int, int], dark: bool) -> None:
    name = f"account-{'dark' if dark else 'light'}"
    async with site(tmp_path) as there, chromium() as browser, window(browser, size=size, dark=dark) as page:
        token = await there.account("alice")
        await page.goto(f"{there.url}{ACCOUNT}")
        await sign_in(page, "alice")
        await page.get_by_label("Name").fill("Alice A.")
        await page.get_by_role("button", name="Save").click()
        await expect(page.get_by_role("status")).to_contain_text("has been changed")
        await look(page, f"{name}-profile")

        await page.get_by_role("link", name="Your e-mail addresses").click()
        await look(page, f"{name}-addresses")

        await part(page, "Devices")
        await look(page, f"{name}-devices")
        await page.get_by_role("link", name="Details").click()
        await look(page, f"{name}-device")
        await page.get_by_role("link", name="Sign out").click()
        await look(page, f"{name}-sign-out")
        await page.get_by_role("button", name="Sign out", exact=True).click()
        await expect(page.get_by_role("status")).to_contain_text("signed out")
        assert (await there.get("/_matrix/client/v3/account/whoami", token))[0] == 401

        await part(page, "Password")
        await page.get_by_label("Present password").fill("correct horse")
        await page.get_by_label("New password", exact=True).fill("battery")
        await page.get_by_label("New password again").fill("staple")
        await page.get_by_role("button", name="Change it").click()
        await expect(page.get_by_role("alert")).to_contain_text("not the same")
        await look(page, f"{name}-password")

        await page.goto(f"{there.url}{ACCOUNT}?action=org.matrix.cross_signing_reset")
        await look(page, f"{name}-identity")
        await page.get_by_role("button", name="Approve the reset").click()
        await expect(page.get_by_role("status")).to_contain_text("ten minutes")

        await part(page, "Deactivate")
        await look(page, f"{name}-deactivate")
        await page.get_by_label("Your password").fill("correct horse")
        await page.get_by_role("button", name="Deactivate for ever").click()
        await expect(page.get_by_role("status")).to_contain_text("@alice:example.org is no more")
        await look(page, f"{name}-deactivated")
        await page.goto(f"{there.url}/_comity/recover")
        await look(page, f"{name}-recover")


async def test_the_cookie_is_for_this_host_over_tls_and_hidden_from_scripts(tmp_path: Path) -> None:
    async with site(tmp_path) as there, chromium() as browser, window(browser) as page:
        await there.account("alice")
        await page.goto(f"{there.url}{ACCOUNT}")
        (before,) = await page.context.cookies()
        await sign_in(page, "alice")
        (cookie,) = await page.context.cookies()
        assert cookie["name"] == "__Host-comity"
        assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Lax")
        assert cookie["value"] != before["value"] and cookie["expires"] > 0
        await page.get_by_role("button", name="Sign out of this page").click()
        await expect(page.get_by_role("heading")).to_contain_text("Sign in")
        (after,) = await page.context.cookies()
        assert after["value"] not in (before["value"], cookie["value"]) and after["expires"] == -1

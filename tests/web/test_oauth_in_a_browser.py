"""OAuth 2.0 with a real browser: registration of an app, sign-in, consent, and what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from playwright.async_api import expect

from tests.api.support_oauth import CHALLENGE, DEVICE_GRANT, VERIFIER, returned, scope
from tests.web.chromium import NARROW, Site, chromium, look, sign_in, site, window

WHOAMI = "/_matrix/client/v3/account/whoami"
TOKEN = "/_comity/oauth2/token"


class NativeApp:
    """An app that waits on the loopback interface for its user to come back."""

    def __init__(self, there: Site, client_id: str) -> None:
        self._there = there
        self.client_id = client_id
        self.redirect_uri = f"{there.elsewhere}/callback"

    @classmethod
    async def registered(cls, there: Site) -> NativeApp:
        metadata = {
            "client_name": "Pocket Matrix",
            "client_uri": "https://pocket.example/",
            "tos_uri": "https://pocket.example/terms",
            "policy_uri": "https://pocket.example/privacy",
            "redirect_uris": ["http://localhost/callback"],
            "grant_types": ["authorization_code", "refresh_token", DEVICE_GRANT],
            "application_type": "native",
        }
        status, answer = await there.post("/_comity/oauth2/register", json=metadata)
        assert status == 201, answer
        return cls(there, answer["client_id"])

    def url(self, **changed: str) -> str:
        """Where the app sends its user."""
        query = {
            "client_id": self.client_id,
            "response_type": "code",
            "response_mode": "fragment",
            "redirect_uri": self.redirect_uri,
            "scope": scope(),
            "state": "s1",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            **changed,
        }
        return f"{self._there.url}/_comity/oauth2/authorize?{urlencode(query)}"

    async def token(self, **form: str) -> tuple[int, Any]:
        """A token request."""
        return await self._there.post(TOKEN, {"client_id": self.client_id, **form})

    async def take(self, code: str, verifier: str = VERIFIER) -> tuple[int, Any]:
        """Take tokens for a code."""
        given = {"code": code, "redirect_uri": self.redirect_uri, "code_verifier": verifier}
        return await self.token(grant_type="authorization_code", **given)


async def test_an_app_is_let_in_refreshes_and_logs_out(tmp_path: Path) -> None:
    async with site(tmp_path) as there, chromium() as browser, window(browser) as page:
        await there.account("alice")
        app = await NativeApp.registered(there)
        await page.goto(app.url())
        await look(page, "sign-in")
        await expect(page.get_by_label("User name")).to_be_focused()
        await page.keyboard.type("alice")
        await page.keyboard.press("Tab")
        await page.keyboard.type("wrong")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_contain_text("wrong")
        await look(page, "sign-in-wrong")
        # The name stands there still.
        await expect(page.get_by_label("Password", exact=True)).to_be_focused()
        await page.keyboard.type("correct horse")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading")).to_contain_text("Pocket Matrix")
        await look(page, "consent")
        await page.get_by_role("button", name="Allow").click()
        await page.wait_for_url(f"{app.redirect_uri}**")
        told = returned(page.url)
        assert told["state"] == "s1" and urlsplit(page.url).query == ""

        status, tokens = await app.take(told["code"])
        assert status == 200
        assert (await there.get(WHOAMI, tokens["access_token"]))[1]["user_id"] == "@alice:example.org"
        status, renewed = await app.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"])
        assert status == 200
        assert (await there.get(WHOAMI, renewed["access_token"]))[0] == 200
        # The old one was stolen, it seems: nobody goes on.
        status, answer = await app.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"])
        assert (status, answer["error"]) == (400, "invalid_grant")
        assert (await there.get(WHOAMI, renewed["access_token"]))[0] == 401

        # Signed in already, the user is still asked.
        await page.goto(app.url())
        await page.get_by_role("button", name="Allow").click()
        await page.wait_for_url(f"{app.redirect_uri}**")
        code = returned(page.url)["code"]
        _, tokens = await app.take(code)
        status, _ = await there.post("/_comity/oauth2/revoke", {"token": tokens["refresh_token"]})
        assert status == 200
        assert (await there.get(WHOAMI, tokens["access_token"]))[0] == 401
        assert (await app.take(code))[1]["error"] == "invalid_grant"


async def test_who_steals_a_code_or_a_user_gets_nothing(tmp_path: Path) -> None:
    async with site(tmp_path) as there, chromium() as browser, window(browser) as page:
        await there.account("alice")
        app = await NativeApp.registered(there)
        await page.goto(app.url())
        await sign_in(page, "alice")
        await page.get_by_role("button", name="Allow").click()
        await page.wait_for_url(f"{app.redirect_uri}**")
        code = returned(page.url)["code"]
        status, answer = await app.take(code, "x" * 43)
        assert (status, answer["error"]) == (400, "invalid_grant")
        assert (await app.take(code))[0] == 400
        # A redirect to where the app is not.
        await page.goto(app.url(redirect_uri="http://localhost.evil.example/callback"))
        assert page.url.startswith(there.url)
        await expect(page.get_by_role("alert")).to_contain_text("not registered")
        await look(page, "wrong-redirect")
        # The user refuses.
        await page.goto(app.url())
        await page.get_by_role("button", name="Refuse").click()
        await page.wait_for_url(f"{app.redirect_uri}**")
        assert returned(page.url)["error"] == "access_denied"


async def test_other_sites_neither_frame_the_pages_nor_send_their_forms(tmp_path: Path) -> None:
    async with site(tmp_path) as there, chromium() as browser, window(browser, attacked=True) as page:
        token = await there.account("alice")
        app = await NativeApp.registered(there)
        await page.goto(f"{there.url}/_comity/sign-in")
        await sign_in(page, "alice")
        await look(page, "account")
        there.pages["/attack"] = (
            f'<!doctype html><title>Attack</title><form method="post" action="{there.url}/_comity/account">'
            '<input name="displayname" value="Mallory"><button>Win</button></form>'
        )
        await page.goto(f"{there.elsewhere}/attack")
        await page.get_by_role("button").click()
        await expect(page.get_by_role("alert")).to_be_visible()
        there.pages["/frame"] = f'<!doctype html><title>Frame</title><iframe src="{app.url()}"></iframe>'
        frames = page.context.pages[0]
        await frames.goto(f"{there.elsewhere}/frame")
        inner = frames.frames[1]
        assert await inner.get_by_role("button").count() == 0
        status, profile = await there.get("/_matrix/client/v3/profile/@alice:example.org", token)
        assert (status, profile) == (200, {})


async def test_an_app_on_a_device_without_a_browser(tmp_path: Path) -> None:
    async with site(tmp_path) as there, chromium() as browser, window(browser, size=NARROW) as page:
        await there.account("alice")
        app = await NativeApp.registered(there)
        form = {"client_id": app.client_id, "scope": scope()}
        status, begun = await there.post("/_comity/oauth2/device", form)
        assert status == 200
        polled = {"grant_type": DEVICE_GRANT, "device_code": begun["device_code"]}
        assert (await app.token(**polled))[1]["error"] == "authorization_pending"
        await page.goto(begun["verification_uri"])
        await sign_in(page, "alice")
        await look(page, "link")
        await expect(page.get_by_label("Code")).to_be_focused()
        await page.keyboard.type(begun["user_code"].lower())
        await page.keyboard.press("Enter")
        await expect(page.get_by_text(begun["user_code"])).to_be_visible()
        await look(page, "link-confirm")
        await page.get_by_role("button", name="Allow").click()
        await expect(page.get_by_role("status")).to_contain_text("other device")
        await look(page, "link-done")
        status, tokens = await app.token(**polled)
        assert status == 200, tokens
        _, who = await there.get(WHOAMI, tokens["access_token"])
        assert (who["user_id"], who["device_id"]) == ("@alice:example.org", "ABCDEFGHIJ")


async def test_a_new_user_on_a_small_dark_screen(tmp_path: Path) -> None:
    async with (
        site(tmp_path) as there,
        chromium() as browser,
        window(browser, size=NARROW, dark=True) as page,
    ):
        app = await NativeApp.registered(there)
        await page.goto(app.url(prompt="create"))
        await look(page, "register-dark")
        await page.get_by_label("User name").fill("bob")
        await page.get_by_label("Password", exact=True).fill("horse")
        await page.get_by_label("The password again").fill("hors")
        await page.get_by_role("button", name="Create the account").click()
        await expect(page.get_by_role("alert")).to_contain_text("not the same")
        await page.get_by_label("Password", exact=True).fill("horse")
        await page.get_by_label("The password again").fill("horse")
        await page.get_by_role("button", name="Create the account").click()
        await expect(page.get_by_text("@bob:example.org").first).to_be_visible()
        await look(page, "consent-dark")
        await page.get_by_role("button", name="Allow").click()
        await page.wait_for_url(f"{app.redirect_uri}**")
        _, tokens = await app.take(returned(page.url)["code"])
        assert (await there.get(WHOAMI, tokens["access_token"]))[1]["user_id"] == "@bob:example.org"

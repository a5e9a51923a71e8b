"""What holds of every page: who may send a form, what a cookie stands for, what browsers are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from comity.store import sessions
from comity.web.pages import own_address
from tests.api.support_browser import ORIGIN, Browser
from tests.api.support_rooms import place

SIGN_IN = "/_comity/sign-in"


async def test_signing_in_and_out(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.client("alice")
        browser = Browser(here.app)
        page = await browser.get(SIGN_IN)
        assert page.status == 200 and "Sign in" in page.words
        before = dict(browser.cookies)
        page = await browser.send(page, SIGN_IN, name="alice", password="wrong")
        assert page.status == 403 and "wrong" in page.words
        assert browser.cookies == before
        page = await browser.send(page, SIGN_IN, name="@alice:example.org", password="correct horse")
        assert browser.cookies.keys() == before.keys() and browser.cookies != before
        # The token from before signing in never comes to stand for somebody.
        other = Browser(here.app)
        other.cookies = before
        assert (await other.get(SIGN_IN)).url == ORIGIN + SIGN_IN


async def test_a_browser_is_told_what_is_forbidden(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        page = await Browser(here.app).get(SIGN_IN)
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "form-action 'self'" in policy and "script-src" not in policy
        assert page.headers["X-Frame-Options"] == "DENY"
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert page.headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in page.headers
        cookie = page.headers["Set-Cookie"]
        assert cookie.startswith("__Host-comity=")
        assert {"Path=/", "HttpOnly", "SameSite=Lax", "Secure"} <= set(cookie.split("; "))


async def test_cookies_of_other_programs_do_no_harm(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.client("alice")
        browser = Browser(here.app)
        await browser.sign_in("alice")
        browser.cookies = {"other": '{"a": [1, 2], "b": "c d"}', **browser.cookies, "last": "=;;"}
        assert (await browser.get(SIGN_IN)).url != ORIGIN + SIGN_IN
        browser.cookies["__Host-comity"] = "not a token"
        assert (await browser.get(SIGN_IN)).url == ORIGIN + SIGN_IN


async def test_a_form_is_taken_from_our_own_pages_alone(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.client("alice")
        browser = Browser(here.app)
        page = await browser.get(SIGN_IN)
        fields = {**page.form(SIGN_IN).fields, "name": "alice", "password": "correct horse"}
        assert (await browser.post(SIGN_IN, {**fields, "csrf": ""})).status == 403
        assert (await browser.post(SIGN_IN, {**fields, "csrf": "0" * 64})).status == 403
        theirs = await Browser(here.app).get(SIGN_IN)
        assert (await browser.post(SIGN_IN, {**fields, **theirs.form(SIGN_IN).fields})).status == 403
        foreign = {"sec-fetch-site": "cross-site"}
        assert (await browser.post(SIGN_IN, fields, **foreign)).status == 403
        assert (await Browser(here.app).post(SIGN_IN, fields)).status == 403
        assert (await browser.post(SIGN_IN, fields, **{"content-type": "text/plain"})).status == 415
        assert (await browser.post(SIGN_IN, {**fields, "name": "a" * 70_000})).status == 413
        many = {f"f{number}": "" for number in range(60)}
        assert (await browser.post(SIGN_IN, {**fields, **many})).status == 400
        assert (await browser.get(SIGN_IN)).url == ORIGIN + SIGN_IN


async def test_a_user_who_is_locked_or_gone_is_signed_out(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        alice = await here.client("alice")
        browser, thief = Browser(here.app), Browser(here.app)
        await browser.sign_in("alice")
        assert (await browser.get(SIGN_IN)).url != ORIGIN + SIGN_IN
        body = {
            "new_password": "better horse",
            "auth": {"type": "m.login.password", "password": "correct horse"},
        }
        await thief.sign_in("alice")
        (await alice.ask("POST", "/account/password", body)).ok()
        assert (await thief.get(SIGN_IN)).url == ORIGIN + SIGN_IN
        await browser.sign_in("alice", "better horse")
        await here.database.write(
            lambda tx: sessions.set_moderation(tx, alice.user_id, suspended=False, locked=True)
        )
        assert (await browser.get(SIGN_IN)).url == ORIGIN + SIGN_IN
        assert "locked" in (await browser.sign_in("alice", "better horse")).words


async def test_a_browser_that_is_not_used_is_signed_out(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.client("alice")
        browser = Browser(here.app)
        await browser.sign_in("alice")
        for _ in range(3):
            await here.clock.turn(13 * 24 * 3600)
            assert (await browser.get(SIGN_IN)).url != ORIGIN + SIGN_IN
        await here.clock.turn(15 * 24 * 3600)
        assert (await browser.get(SIGN_IN)).url == ORIGIN + SIGN_IN


async def test_static_files(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        browser = Browser(here.app)
        style = await browser.get("/_comity/static/comity.css")
        assert style.headers["Content-Type"].startswith("text/css")
        assert (await browser.get("/_comity/static/..%2fpages.py")).status == 404


@pytest.mark.parametrize(
    "there",
    [
        "https://evil.example/",
        "//evil.example/_comity/",
        "/_comity/\\evil.example",
        "/_comity//evil.example\n",
        "/elsewhere",
        "javascript:alert(1)",
        "",
        "/_comity/" + "a" * 9_000,
    ],
)
def test_nobody_is_led_elsewhere(there: str) -> None:
    assert own_address(there) == "/_comity/account"


def test_an_address_of_ours_is_gone_back_to() -> None:
    there = "/_comity/oauth2/authorize?scope=urn%3Amatrix%3A*&redirect_uri=https%3A%2F%2Fclient.example"
    assert own_address(there) == there

"""Signing in through an OpenID provider: apps (m.login.sso), new accounts, accounts that were there."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from comity.store import accounts, sessions
from tests.api.support_browser import ORIGIN, Browser
from tests.api.support_provider import Both, both, login_token
from tests.api.support_rooms import Client, ask, place

CHOOSE, ALLOW = "/_comity/upstream/choose", "/_comity/sso/allow"
ALICE: dict[str, Any] = {"preferred_username": "alice", "name": "Alice A.", "email": "alice@example.com"}


async def log_in(here: Both, token: str) -> Any:
    """Log in as the app does; the answer's body."""
    return (await redeem(here, token)).ok()


async def redeem(here: Both, token: str) -> Any:
    body = {"type": "m.login.token", "token": token}
    return await ask(here.place.app, "POST", "/_matrix/client/v3/login", body, {}, None)


async def test_the_flow_is_told(tmp_path: Path) -> None:
    settings = 'brand = "google"\nicon = "mxc://example.org/abc"\n'
    async with both(tmp_path, settings) as here:
        answer = (await ask(here.place.app, "GET", "/_matrix/client/v3/login", None, {}, None)).ok()
        (flow,) = [flow for flow in answer["flows"] if flow["type"] == "m.login.sso"]
        assert flow["oauth_aware_preferred"] is True
        assert flow["identity_providers"] == [
            {"id": "mock", "name": "Mock & Co", "brand": "google", "icon": "mxc://example.org/abc"}
        ]


async def test_an_app_lets_a_newcomer_in(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        browser = here.browser()
        page = await here.come(browser, "1", "https://app.example/?loginToken=old&a=b#top", **ALICE)
        assert urlsplit(page.url).path == ALLOW
        assert "app.example" in page.words and "@alice:example.org" in page.words
        assert "form-action 'self' https://app.example" in page.headers["Content-Security-Policy"]
        token = await here.let_in(browser, page)
        parts = urlsplit(browser.left_for)
        assert (parts.netloc, parts.fragment, parse_qs(parts.query)["a"]) == ("app.example", "top", ["b"])
        opened = await log_in(here, token)
        assert opened["user_id"] == "@alice:example.org"
        alice = Client(here.place, opened["user_id"], opened["access_token"])
        shown = (await alice.ask("GET", "/profile/@alice:example.org")).ok()
        assert shown["displayname"] == "Alice A."
        # Once is all that the token is good for.
        (await redeem(here, token)).failed(403, "M_FORBIDDEN")
        # The next time, no account is made.
        page = await here.come(here.browser(), "1", preferred_username="alicia")
        assert "@alice:example.org" in page.words


async def test_the_token_is_for_a_few_seconds(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        browser = here.browser()
        token = await here.let_in(browser, await here.come(browser, "1", **ALICE))
        await here.place.clock.turn(11)
        (await redeem(here, token)).failed(403, "M_FORBIDDEN")


async def test_the_newcomer_whose_name_is_taken_chooses_one(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        await here.place.client("alice")
        browser = here.browser()
        page = await here.come(browser, "1", **ALICE)
        assert urlsplit(page.url).path == CHOOSE
        assert "Mock & Co" in page.words and "alice@example.com" in page.words
        assert page.form(CHOOSE).fields["name"] == "alice"
        page = await browser.send(page, CHOOSE, name="alice")
        assert page.status == 400 and "taken" in page.words
        page = await browser.send(page, CHOOSE, name="not a name")
        assert page.status == 400 and "a-z" in page.words
        page = await browser.send(page, CHOOSE, name="Alice.2")
        assert urlsplit(page.url).path == ALLOW
        opened = await log_in(here, await here.let_in(browser, page))
        assert opened["user_id"] == "@alice.2:example.org"


@pytest.mark.parametrize(
    ("settings", "claims", "user"),
    [
        ('localpart = "email"\n', ALICE | {"email": "Al.Ice@example.com"}, "al.ice"),
        ('localpart = "sub"\n', ALICE, "subject-7"),
        ("", {"preferred_username": "AliceSmith"}, "alicesmith"),
        # Nothing that could be a name, or that is to be one.
        ("", {"preferred_username": "älice", "email": "x@example.com"}, None),
        ("", {"email": "alice@example.com"}, None),
        ("", {"preferred_username": ["alice"]}, None),
        ('localpart = "ask"\n', ALICE, None),
    ],
)
async def test_what_a_newcomer_is_named_after(
    tmp_path: Path, settings: str, claims: dict[str, Any], user: str | None
) -> None:
    async with both(tmp_path, settings) as here:
        page = await here.come(here.browser(), "subject-7", **claims)
        if user is None:
            assert urlsplit(page.url).path == CHOOSE
        else:
            assert f"@{user}:example.org" in page.words


async def test_a_newcomer_has_an_account_already(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        await here.place.client("alice")
        browser = here.browser()
        page = await here.come(browser, "1", **ALICE)
        page = await browser.send(page, "/_comity/upstream/link", user="alice", password="wrong")
        assert page.status == 403 and "wrong" in page.words
        page = await browser.send(page, "/_comity/upstream/link", user="alice", password="correct horse")
        opened = await log_in(here, await here.let_in(browser, page))
        assert opened["user_id"] == "@alice:example.org"
        # A second person of the provider cannot be put in front of the first, nor the first in another.
        page = await here.come(here.browser(), "1")
        assert "@alice:example.org" in page.words


async def test_only_those_who_have_an_account(tmp_path: Path) -> None:
    async with both(tmp_path, "register = false\n") as here:
        await here.place.client("alice")
        browser = here.browser()
        page = await here.come(browser, "1", preferred_username="bob")
        assert "Make an account" not in page.words
        link = page.form("/_comity/upstream/link").fields
        forged = await browser.post(CHOOSE, {**link, "name": "bob"})
        assert forged.status == 403
        page = await browser.send(page, "/_comity/upstream/link", user="alice", password="correct horse")
        assert urlsplit(page.url).path == ALLOW


async def test_a_ticket_is_for_one_browser(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        await here.place.client("alice")
        browser, thief = here.browser(), here.browser()
        choose = await here.come(browser, "1", **ALICE)
        assert (await thief.get(choose.url)).status == 404
        allow = await browser.send(choose, CHOOSE, name="alice2")
        assert (await thief.get(allow.url)).status == 404
        assert (await browser.get(allow.url)).status == 200
        await here.let_in(browser, allow)
        assert (await browser.get(allow.url)).status == 404
        assert (await browser.get(choose.url)).status == 404


async def test_nobody_decides_for_ever(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        page = await here.come(here.browser(), "1", **ALICE)
        browser = here.browser()
        page = await here.come(browser, "1")
        await here.place.clock.turn(16 * 60)
        assert (await browser.send(page, ALLOW)).status == 404


async def test_whoever_may_not_come_in(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        await here.come(here.browser(), "1", **ALICE)
        user_id = "@alice:example.org"

        async def stand(*, suspended: bool, locked: bool) -> None:
            await here.place.database.write(
                lambda tx: sessions.set_moderation(tx, user_id, suspended=suspended, locked=locked)
            )

        await stand(suspended=False, locked=True)
        page = await here.come(here.browser(), "1")
        assert page.status == 401 and "locked" in page.words
        await stand(suspended=True, locked=False)
        browser = here.browser()
        page = await here.come(browser, "1")
        assert page.status == 200
        # Locked between the page and the button.
        await stand(suspended=False, locked=True)
        assert (await browser.send(page, ALLOW)).status == 401
        await stand(suspended=False, locked=False)
        await here.place.database.write(lambda tx: accounts.deactivate(tx, user_id))
        page = await here.come(here.browser(), "1")
        assert page.status == 403 and "deactivated" in page.words


async def test_the_page_on_which_people_choose(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        await here.place.client("alice")
        path = "/_matrix/client/v3/login/sso/redirect?redirectUrl=https%3A%2F%2Fapp.example%2F"
        # The only provider there is, for an app that does not know of more.
        browser = here.browser()
        await browser.get(path)
        assert browser.left_for.startswith(here.provider.issuer)
        # OAuth-aware apps say what for, and passwords are asked for too.
        page = await browser.get(path + "&action=login")
        assert "app.example" in page.words and "Continue with Mock & Co" in page.words
        (sign_in,) = [link for link in page.links if "sign-in" in link]
        page = await browser.get(sign_in)
        page = await browser.send(page, "/_comity/sign-in", name="alice", password="correct horse")
        assert "Continue as @alice:example.org" in page.words
        await browser.send(page, "/_comity/sso")
        opened = await log_in(here, login_token(browser.left_for))
        assert opened["user_id"] == "@alice:example.org"
        assert (await browser.get(path + "&action=leave")).status == 400


async def test_trusted_apps_are_let_in_at_once(tmp_path: Path) -> None:
    settings = '[sso]\ntrusted_clients = ["https://app.example/matrix/"]\n'
    async with both(tmp_path, settings) as here:
        browser = here.browser()
        await here.come(browser, "1", "https://app.example/matrix/?state=1", **ALICE)
        assert browser.left_for.startswith("https://app.example/matrix/?state=1&loginToken=")
        for other in (
            "https://app.example/",
            "https://app.example/matrix/../x",
            "https://app.example.evil/matrix/",
        ):
            assert urlsplit((await here.come(here.browser(), "1", other)).url).path == ALLOW


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/relative",
        "//evil.example/",
        "javascript:alert(1)",
        " javascript:alert(1)",
        "JavaScript:alert(1)",
        "data:text/html,x",
        "https://",
        "https://app.example@evil.example/",
        "https://app.example\\@evil.example/",
        "https://app.example:0/",
        "https://app.example/\nLocation: x",
        "https://app.example/" + "a" * 5_000,
    ],
)
async def test_what_is_no_address_of_an_app(tmp_path: Path, url: str) -> None:
    async with both(tmp_path) as here:
        for path in ("redirect", "redirect/mock"):
            page = await here.browser().get(f"/_matrix/client/v3/login/sso/{path}", redirectUrl=url)
            assert page.status == 400, page.words


async def test_apps_on_a_device(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        browser = here.browser()
        page = await here.come(browser, "1", "org.example.app://in?x=1", **ALICE)
        assert "form-action 'self' org.example.app:" in page.headers["Content-Security-Policy"]
        await here.let_in(browser, page)
        assert browser.left_for.startswith("org.example.app://in?x=1&loginToken=")


async def test_an_unknown_provider(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        path = "/_matrix/client/v3/login/sso/redirect/other"
        page = await here.browser().get(path, redirectUrl="https://app.example/")
        assert page.status == 404 and "no such provider" in page.words
        assert (await here.browser().get("/_comity/upstream/other/callback", state="x")).status == 404


async def test_without_providers(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        answer = (await ask(here.app, "GET", "/_matrix/client/v3/login", None, {}, None)).ok()
        # client-server §OAuth 2.0 aware clients: they send people to this server's own pages.
        assert answer["flows"][1] == {"type": "m.login.sso", "oauth_aware_preferred": True}
        browser = Browser(here.app)
        page = await browser.get("/_comity/sign-in")
        assert "Sign in with" not in page.words
        await here.client("alice")
        path = "/_matrix/client/v3/login/sso/redirect"
        page = await browser.get(path, redirectUrl="https://app.example/", action="login")
        (sign_in,) = [link for link in page.links if "sign-in" in link]
        page = await browser.get(sign_in)
        page = await browser.send(page, "/_comity/sign-in", name="alice", password="correct horse")
        await browser.send(page, "/_comity/sso")
        body = {"type": "m.login.token", "token": login_token(browser.left_for)}
        opened = (await ask(here.app, "POST", "/_matrix/client/v3/login", body, {}, None)).ok()
        assert opened["user_id"] == "@alice:example.org"
    settings = "[oauth]\nenabled = false\n"
    (tmp_path / "2").mkdir()
    async with place(tmp_path / "2", settings=settings) as here:
        answer = (await ask(here.app, "GET", "/_matrix/client/v3/login", None, {}, None)).ok()
        assert [flow["type"] for flow in answer["flows"]] == ["m.login.password", "m.login.token"]


async def test_how_often_one_may_try(tmp_path: Path) -> None:
    limits = "upstream = { per_second = 0.1, burst = 2 }"
    async with both(tmp_path, limits=limits) as here:
        assert (await here.come(here.browser(), "1", **ALICE)).status == 200
        path = "/_matrix/client/v3/login/sso/redirect/mock"
        page = await here.browser().get(path, redirectUrl="https://app.example/")
        assert page.status == 429 and int(page.headers["Retry-After"]) >= 1


async def test_the_sign_in_page_offers_it(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        browser = here.browser()
        page = await browser.get("/_comity/sign-in", then="/_comity/account/sign-ins")
        (link,) = [link for link in page.links if "/upstream/" in link]
        before = dict(browser.cookies)
        await browser.get(link)
        page = await browser.get(here.provider.sign_in(browser.left_for, "1", **ALICE))
        assert page.url == ORIGIN + "/_comity/account/sign-ins"
        assert "@alice:example.org" in page.words and "alice@example.com" in page.words
        assert browser.cookies != before
        # Nobody is led to another site.
        await browser.get("/_comity/upstream/mock/begin?then=https%3A%2F%2Fevil.example")
        page = await browser.get(here.provider.sign_in(browser.left_for, "1"))
        assert page.url.startswith(ORIGIN + "/_comity/account")

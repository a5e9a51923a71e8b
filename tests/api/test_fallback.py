"""Stages of user-interactive authentication on pages, and logging in on one (client-server §Fallback)."""

from __future__ import annotations

from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest

from comity.store import accounts
from comity.users.interactive import Interactive
from tests.api.support_browser import Browser, Page
from tests.api.support_provider import Both, both, login_token
from tests.api.support_rooms import FOR_TOKENS, Client, ask, place
from tests.api.support_users import Answer, SeededEntropy, TurnedClock

LOGIN = "/_matrix/static/client/login/"
ALICE: dict[str, Any] = {"preferred_username": "alice"}
SSO_PATH = "/_matrix/client/v3/auth/m.login.sso/fallback/web"


def page_of(stage: str, session: str, version: str = "v3") -> str:
    return f"/_matrix/client/{version}/auth/{stage}/fallback/web?session={session}"


async def newcomer(here: Both) -> Client:
    """Somebody who has no password, and the session of an app."""
    browser = here.browser()
    token = await here.let_in(browser, await here.come(browser, "1", **ALICE))
    body = {"type": "m.login.token", "token": token}
    opened = (await ask(here.place.app, "POST", "/_matrix/client/v3/login", body, {}, None)).ok()
    return Client(here.place, opened["user_id"], opened["access_token"])


async def confirm(here: Both, browser: Browser, session: str, subject: str = "1") -> Page:
    """The user reads what it is for, and signs in at the provider."""
    page = await browser.get(page_of("m.login.sso", session))
    page = await browser.post(page.url, page.forms[0].fields)
    assert page.status == 200, page.words
    return await browser.get(here.provider.sign_in(page.links[-1], subject))


def is_done(page: Page) -> bool:
    """Whether the page tells the app that the stage is completed."""
    return page.status == 200 and "auth_done.js" in page.text


# -- m.login.sso


async def test_whoever_has_no_password_proves_it_at_the_provider(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        alice = await newcomer(here)
        body: dict[str, Any] = {"devices": ["X", "Y"]}
        asked = (await alice.ask("POST", "/delete_devices", body)).body
        assert asked["flows"] == [{"stages": ["m.login.sso"]}]
        session = {"auth": {"session": asked["session"]}}
        assert (await alice.ask("POST", "/delete_devices", body | session)).status == 401
        browser = here.browser()
        page = await browser.get(page_of("m.login.sso", asked["session"]))
        assert "sign out devices" in page.words and "@alice:example.org" in page.words
        assert is_done(await confirm(here, browser, asked["session"]))
        # What was confirmed is that request, and no other.
        other = await alice.ask("POST", "/delete_devices", {"devices": ["Z"]} | session)
        assert other.status == 401 and other.body["session"] != asked["session"]
        (await alice.ask("POST", "/delete_devices", body | session)).ok()
        # It is good once.
        assert (await alice.ask("POST", "/delete_devices", body | session)).status == 401
        assert (await browser.get(page_of("m.login.sso", asked["session"]))).status == 404


async def test_every_operation_takes_that_proof(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        alice = await newcomer(here)

        async def prove(method: str, path: str, body: dict[str, Any]) -> Answer:
            asked = (await alice.ask(method, path, body)).body
            assert is_done(await confirm(here, here.browser(), asked["session"]))
            return await alice.ask(method, path, body | {"auth": {"session": asked["session"]}})

        given = (await prove("POST", "/_matrix/client/v1/login/get_token", {})).ok()
        body = {"type": "m.login.token", "token": given["login_token"]}
        (await ask(here.place.app, "POST", "/_matrix/client/v3/login", body, {}, None)).ok()
        (await prove("POST", "/account/password", {"new_password": "correct horse"})).ok()
        # From now on there are both.
        asked = (await alice.ask("POST", "/account/deactivate", {})).body
        assert asked["flows"] == [{"stages": ["m.login.password"]}, {"stages": ["m.login.sso"]}]
        (await prove("POST", "/account/deactivate", {})).ok()
        assert (await here.come(here.browser(), "1")).status == 403


async def test_the_provider_proves_somebody_else(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        alice = await newcomer(here)
        await here.come(here.browser(), "2", preferred_username="mallory")
        asked = (await alice.ask("POST", "/account/deactivate", {})).body
        for subject in ("2", "3"):
            page = await confirm(here, here.browser(), asked["session"], subject)
            assert page.status == 403 and "not the user" in page.words
        session = {"auth": {"session": asked["session"]}}
        assert (await alice.ask("POST", "/account/deactivate", session)).status == 401
        # Nor is an account made for who is unknown.
        rows = await here.place.database.read(lambda tx: [user.user_id for user in accounts.users(tx)])
        assert rows == ["@alice:example.org", "@mallory:example.org"]


async def test_a_client_cannot_say_that_it_is_proven(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        alice = await newcomer(here)
        asked = (await alice.ask("POST", "/account/deactivate", {})).body
        auth = {"type": "m.login.sso", "session": asked["session"]}
        (await alice.ask("POST", "/account/deactivate", {"auth": auth})).failed(401, "M_FORBIDDEN")


async def test_a_password_that_is_set_meanwhile(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        alice = await newcomer(here)
        asked = (await alice.ask("POST", "/account/deactivate", {})).body
        assert is_done(await confirm(here, here.browser(), asked["session"]))
        await here.place.database.write(lambda tx: accounts.set_password_hash(tx, alice.user_id, "other"))
        answer = await alice.ask("POST", "/account/deactivate", {"auth": {"session": asked["session"]}})
        answer.failed(403, "M_FORBIDDEN")


async def test_nobody_confirms_for_others_by_a_link(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        alice = await newcomer(here)
        asked = (await alice.ask("POST", "/account/deactivate", {})).body
        browser = here.browser()
        # Without the page there is no way to the provider.
        fields = {"session": asked["session"], "provider": "mock"}
        assert (await browser.post(SSO_PATH, fields)).status == 403
        page = await browser.get(page_of("m.login.sso", asked["session"]))
        page = await browser.post(page.url, {**page.forms[0].fields, "provider": "other"})
        assert page.status == 404


@pytest.mark.parametrize("stage", ["m.login.recaptcha", "m.login.sso", "m.login.dummy", "x" * 500])
async def test_pages_that_there_are_not(tmp_path: Path, stage: str) -> None:
    async with both(tmp_path) as here:
        for session in ("", "unknown", "x" * 1_000):
            page = await here.browser().get(page_of(stage, session))
            assert page.status == 404 and "That did not work" in page.words


# -- the other stages


async def test_registering_by_pages(tmp_path: Path) -> None:
    async with place(tmp_path, changes=FOR_TOKENS) as here:
        await here.database.write(lambda tx: accounts.put_registration_token(tx, "let-me-in", 1, None))
        path, body = "/_matrix/client/v3/register", {"username": "alice", "password": "correct horse"}
        asked = (await ask(here.app, "POST", path, {}, {}, None)).body
        browser = Browser(here.app)
        for version in ("r0", "v3"):
            page = await browser.get(page_of("m.login.registration_token", asked["session"], version))
            assert "make an account" in page.words
        page = await browser.post(page.url, {**page.forms[0].fields, "token": "wrong"})
        assert page.status == 401 and "not valid" in page.words
        page = await browser.post(page.url, {**page.forms[0].fields, "token": "let-me-in"})
        assert is_done(page)
        script = await browser.get("/_comity/static/auth_done.js")
        for words in ("window.onAuthDone()", 'window.opener.postMessage("authDone", "*")'):
            assert words in script.text
        answer = await ask(here.app, "POST", path, body | {"auth": {"session": asked["session"]}}, {}, None)
        assert answer.ok()["user_id"] == "@alice:example.org"


async def test_the_dummy_and_the_password(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        path, browser = "/_matrix/client/v3/register", Browser(here.app)
        asked = (await ask(here.app, "POST", path, {"username": "bob"}, {}, None)).body
        page = await browser.get(page_of("m.login.dummy", asked["session"]))
        assert is_done(await browser.post(page.url, page.forms[0].fields))
        body = {"username": "bob", "auth": {"session": asked["session"]}}
        assert (await ask(here.app, "POST", path, body, {}, None)).ok()["user_id"] == "@bob:example.org"

        alice = await here.client("alice")
        asked = (await alice.ask("POST", "/account/deactivate", {})).body
        page = await browser.get(page_of("m.login.password", asked["session"]))
        assert "end your account for good" in page.words
        page = await browser.post(page.url, {**page.forms[0].fields, "password": "wrong"})
        assert page.status == 403 and "wrong" in page.words
        assert is_done(await browser.post(page.url, {**page.forms[0].fields, "password": "correct horse"}))
        (await alice.ask("POST", "/account/deactivate", {"auth": {"session": asked["session"]}})).ok()


async def test_guessing_on_a_page_ends(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        alice, browser = await here.client("alice"), Browser(here.app)
        asked = (await alice.ask("POST", "/account/deactivate", {})).body
        page = await browser.get(page_of("m.login.password", asked["session"]))
        tries = [await browser.post(page.url, {**page.forms[0].fields, "password": "x"}) for _ in range(11)]
        assert [tried.status for tried in tries[:9]] == [403] * 9
        assert tries[-1].status == 404


async def test_terms_are_shown_and_accepted() -> None:
    interactive = Interactive(TurnedClock(), SeededEntropy())
    policies = {"privacy": {"version": "1", "en": {"name": "Privacy", "url": "https://example.org/p"}}}
    params = {"m.login.terms": {"policies": policies}}

    async def check(stage: str, auth: Any) -> object:
        return True

    with pytest.raises(Exception) as caught:  # noqa: PT011 - its body is what counts
        await interactive.require("register", [["m.login.terms"]], {}, check, params=params)
    told = caught.value.body()  # type: ignore[attr-defined]
    assert told["params"] == params
    under_way = interactive.under_way(told["session"])
    assert under_way is not None and under_way.open_stages == ("m.login.terms",)
    await interactive.complete(told["session"], "m.login.terms", {})
    body = {"auth": {"session": told["session"]}}
    assert (await interactive.require("register", [["m.login.terms"]], body, check)).completed


# -- §Login Fallback


def handed_over(page: Page) -> Any:
    """What the page gives to the app: the answer of POST /login."""
    assert "login_done.js" in page.text and "script-src 'self'" in page.headers["Content-Security-Policy"]
    _, _, rest = page.text.partition('data-answer="')
    return orjson.loads(unescape(rest.partition('"')[0]))


async def test_logging_in_on_a_page(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        await here.place.client("alice")
        browser = here.browser()
        page = await browser.get(LOGIN + "?device_id=GHTYAJCE&refresh_token=true&password=ignored")
        page = await browser.send(page, LOGIN, name="alice", password="wrong")
        assert page.status == 403 and "wrong" in page.words
        answer = handed_over(await browser.send(page, LOGIN, name="alice", password="correct horse"))
        assert (answer["user_id"], answer["device_id"]) == ("@alice:example.org", "GHTYAJCE")
        assert answer["access_token"] and answer["refresh_token"]
        script = await browser.get("/_comity/static/login_done.js")
        assert "window.matrixLogin.onLogin(answer)" in script.text


async def test_logging_in_on_a_page_through_a_provider(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        browser = here.browser()
        page = await browser.get(LOGIN + "?device_id=GHTYAJCE")
        (link,) = [link for link in page.links if "/sso/redirect/" in link]
        await browser.get(link)
        page = await browser.get(here.provider.sign_in(browser.left_for, "1", **ALICE))
        # The page is this server's own: nobody is asked whether it may be let in.
        assert urlsplit(page.url).path == LOGIN
        assert parse_qs(urlsplit(page.url).query)["device_id"] == ["GHTYAJCE"] and login_token(page.url)
        answer = handed_over(await browser.send(page, LOGIN))
        assert (answer["user_id"], answer["device_id"]) == ("@alice:example.org", "GHTYAJCE")

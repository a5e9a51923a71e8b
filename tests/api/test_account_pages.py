"""What users do with their account on its page (client-server §OAuth 2.0 account management)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from comity.store import sessions as stored_sessions
from comity.web.account import browser_name
from tests.api.support_browser import Browser
from tests.api.support_oauth import OAuthClient, call
from tests.api.support_rooms import CLOSED, FOR_TOKENS, Client, Place, place
from tests.api.test_user_signatures import a_key

ACCOUNT = "/_comity/account"
SIGN_IN = "/_comity/sign-in"


def master_key(number: int) -> dict[str, object]:
    """An upload of a key for signing."""
    return {"master_key": a_key("@alice:example.org", "master", number)[1]}


@asynccontextmanager
async def signed_in(directory: Path, settings: str = "") -> AsyncIterator[tuple[Place, Client, Browser]]:
    """A server, alice on a device, and her browser where she is signed in."""
    async with place(directory, settings=settings) as here:
        alice, browser = await here.client("alice"), Browser(here.app)
        await browser.sign_in("alice")
        yield here, alice, browser


async def test_every_action_leads_to_its_page(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (here, alice, browser):
        device_id = (await alice.ask("GET", "/account/whoami")).ok()["device_id"]
        metadata = (await call(here.app, "GET", "/_matrix/client/v1/auth_metadata")).ok()
        pages = {
            "org.matrix.profile": ("/_comity/account", "Your profile"),
            "org.matrix.devices_list": ("/_comity/account/devices", "Your devices"),
            "org.matrix.device_view": ("/_comity/account/device", device_id),
            "org.matrix.device_delete": ("/_comity/account/device/sign-out", device_id),
            "org.matrix.account_deactivate": ("/_comity/account/deactivate", "for ever"),
            "org.matrix.cross_signing_reset": ("/_comity/account/identity", "cryptographic identity"),
        }
        assert set(metadata["account_management_actions_supported"]) == set(pages)
        for action, (path, words) in pages.items():
            page = await browser.get(metadata["account_management_uri"], action=action, device_id=device_id)
            assert (urlsplit(page.url).path, page.status) == (path, 200)
            assert words in page.words
        assert urlsplit((await browser.get("/_comity")).url).path == ACCOUNT
        # Without a device, there is the list; what is unknown leads to the account.
        for action, path in (
            ("org.matrix.device_view", "/_comity/account/devices"),
            ("org.example", "/_comity/account"),
        ):
            assert urlsplit((await browser.get(ACCOUNT, action=action)).url).path == path
        assert (await browser.get(f"{ACCOUNT}/device", device_id="NOSUCHDEVICE")).status == 404


async def test_an_action_is_kept_while_somebody_signs_in(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.client("alice")
        browser = Browser(here.app)
        page = await browser.get(ACCOUNT, action="org.matrix.devices_list")
        assert urlsplit(page.url).path == SIGN_IN
        page = await browser.send(page, SIGN_IN, name="alice", password="correct horse")
        assert urlsplit(page.url).path == f"{ACCOUNT}/devices"


async def test_changing_ones_name(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (here, alice, browser):
        page = await browser.get(ACCOUNT)
        page = await browser.send(page, ACCOUNT, displayname="<b>Alice</b>")
        assert "has been changed" in page.words and "<b>Alice" not in page.text
        name = (await alice.ask("GET", f"/profile/{alice.user_id}/displayname")).ok()["displayname"]
        assert name == "<b>Alice</b>"
        page = await browser.send(page, ACCOUNT, displayname="n" * 2_000)
        assert page.status == 413 or page.status == 400
        await here.database.write(
            lambda tx: stored_sessions.set_moderation(tx, alice.user_id, suspended=True, locked=False)
        )
        page = await browser.send(page, ACCOUNT, displayname="Other")
        assert page.status == 403 and "suspended" in page.words


async def test_signing_a_device_out(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (here, alice, browser):
        app = await OAuthClient.registered(here.app)
        tokens = await app.log_in(browser)
        page = await browser.get(f"{ACCOUNT}/devices")
        assert "An App" in page.words and "client.example" in page.words
        page = await browser.get(ACCOUNT, action="org.matrix.device_delete", device_id="ABCDEFGHIJ")
        page = await browser.send(page, f"{ACCOUNT}/device/sign-out")
        assert urlsplit(page.url).path == f"{ACCOUNT}/devices" and "signed out" in page.words
        (await app.whoami(tokens["access_token"])).failed(401, "M_UNKNOWN_TOKEN")
        assert (await app.refresh(tokens["refresh_token"])).body["error"] == "invalid_grant"
        (await alice.ask("GET", "/account/whoami")).ok()


async def test_signing_another_browser_out(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (here, _, browser):
        other = Browser(here.app)
        await other.sign_in("alice")
        page = await browser.get(f"{ACCOUNT}/devices")
        page = await browser.send(page, f"{ACCOUNT}/browser/sign-out")
        assert urlsplit((await other.get(ACCOUNT)).url).path == SIGN_IN
        assert urlsplit((await browser.get(ACCOUNT)).url).path == ACCOUNT
        # Nobody else's browser goes by its key.
        bob = Browser(here.app)
        await here.client("bob")
        await bob.sign_in("bob")
        await other.sign_in("alice")
        key = (await browser.get(f"{ACCOUNT}/devices")).form(f"{ACCOUNT}/browser/sign-out").fields["key"]
        page = await bob.get(ACCOUNT)
        csrf = page.form(ACCOUNT).fields["csrf"]
        await bob.post(f"{ACCOUNT}/browser/sign-out", {"csrf": csrf, "key": key})
        assert urlsplit((await other.get(ACCOUNT)).url).path == ACCOUNT


async def test_changing_ones_password(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (here, alice, browser):
        other, path = Browser(here.app), f"{ACCOUNT}/password"
        await other.sign_in("alice")
        page = await browser.get(path)
        wrong = {"password": "wrong", "new": "battery", "again": "battery"}
        page = await browser.send(page, path, **wrong)
        assert page.status == 403 and "wrong" in page.words
        right = {**wrong, "password": "correct horse"}
        page = await browser.send(page, path, **{**right, "again": "staple"})
        assert page.status == 400 and "not the same" in page.words
        page = await browser.send(page, path, **right)
        assert "has been changed" in page.words
        (await alice.ask("GET", "/account/whoami")).ok()
        page = await browser.send(page, path, password="battery", new="staple", again="staple", log_out="yes")
        assert page.status == 200 and "has been changed" in page.words
        (await alice.ask("GET", "/account/whoami")).failed(401, "M_UNKNOWN_TOKEN")
        assert urlsplit((await other.get(ACCOUNT)).url).path == SIGN_IN
        assert urlsplit((await other.sign_in("alice", "staple")).url).path == ACCOUNT


async def test_deactivating_ones_account(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (_, alice, browser):
        room = await alice.create()
        path = f"{ACCOUNT}/deactivate"
        page = await browser.send(await browser.get(path), path, password="wrong")
        assert page.status == 403
        page = await browser.send(page, path, password="correct horse", erase="yes")
        assert page.status == 200 and "@alice:example.org is no more" in page.words
        (await alice.ask("GET", f"/rooms/{room}/joined_members")).failed(401, "M_UNKNOWN_TOKEN")
        assert urlsplit((await browser.get(ACCOUNT)).url).path == SIGN_IN
        page = await browser.sign_in("alice")
        assert page.status == 403 and "deactivated" in page.words


async def test_replacing_the_keys_for_signing(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (here, _, browser):
        app = await OAuthClient.registered(here.app)
        token = (await app.log_in(browser))["access_token"]
        upload = "/_matrix/client/v3/keys/device_signing/upload"
        keys = master_key(1)
        (await call(here.app, "POST", upload, json=keys, token=token)).ok()
        new = master_key(2)
        answer = await call(here.app, "POST", upload, json=new, token=token)
        assert answer.status == 401 and answer.body["flows"] == [{"stages": ["m.oauth"]}]
        url, session = answer.body["params"]["m.oauth"]["url"], answer.body["session"]
        done = {**new, "auth": {"session": session}}
        assert (await call(here.app, "POST", upload, json=done, token=token)).status == 401
        # Signed in a short while ago: no password is needed. Later it is.
        await here.clock.turn(601)
        page = await browser.get(url)
        identity = f"{ACCOUNT}/identity"
        page = await browser.send(page, identity, password="wrong")
        assert page.status == 403
        assert (await call(here.app, "POST", upload, json=done, token=token)).status == 401
        page = await browser.send(page, identity, password="correct horse")
        assert "Go back to your app" in page.words
        (await call(here.app, "POST", upload, json=done, token=token)).ok()
        # Once.
        third = master_key(3)
        answer = await call(here.app, "POST", upload, json=third, token=token)
        again = {**third, "auth": {"session": answer.body["session"]}}
        assert (await call(here.app, "POST", upload, json=again, token=token)).status == 401
        # And for a while.
        page = await browser.send(await browser.get(url), identity)
        await here.clock.turn(601)
        assert (await call(here.app, "POST", upload, json=again, token=token)).status == 401


async def test_an_older_session_gives_its_password_as_ever(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (_, alice, _):
        upload = "/keys/device_signing/upload"
        (await alice.ask("POST", upload, master_key(1))).ok()
        answer = await alice.ask("POST", upload, master_key(2))
        assert answer.body["flows"] == [{"stages": ["m.login.password"]}]


async def test_making_an_account_with_a_token(tmp_path: Path) -> None:
    async with place(tmp_path, changes=FOR_TOKENS) as here:
        browser, path = Browser(here.app), "/_comity/register"
        page = await browser.get(path, token="letmein")
        fields = {"username": "carol", "password": "horse", "again": "horse"}
        assert page.form(path).fields["token"] == "letmein"
        page = await browser.send(page, path, **fields)
        assert page.status == 401 and "token is not valid" in page.words
        await here.database.write(
            lambda tx: tx.run("INSERT INTO registration_tokens (token, uses_allowed) VALUES ('letmein', 1)")
        )
        page = await browser.send(page, path, **fields)
        assert urlsplit(page.url).path == ACCOUNT and "@carol:example.org" in page.words
        page = await Browser(here.app).get(path)
        taken = await Browser(here.app).send(page, path, **fields)
        assert taken.status == 403  # a form of another browser


async def test_names_that_cannot_be(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (here, _, _):
        browser, path = Browser(here.app), "/_comity/register"
        page = await browser.get(path)
        for name, words in (("alice", "taken"), ("a b", "made of"), ("", "lacks username")):
            page = await browser.send(page, path, username=name, password="horse", again="horse")
            assert page.status == 400 and words in page.words


async def test_registration_that_is_closed(tmp_path: Path) -> None:
    async with place(tmp_path, changes=CLOSED) as here:
        browser = Browser(here.app)
        assert "/_comity/register" not in " ".join((await browser.get(SIGN_IN)).links)
        page = await browser.get("/_comity/register")
        assert page.status == 403 and "not open" in page.words
        app = await OAuthClient.registered(here.app)
        assert "prompt_values_supported" not in app.metadata
        page = await app.open(browser, prompt="create")
        assert urlsplit(page.url).path == SIGN_IN


async def test_whom_to_ask_for_a_new_password(tmp_path: Path) -> None:
    settings = '[support]\ncontacts = [{ role = "m.role.admin", email_address = "admin@example.org" }]\n'
    async with place(tmp_path, settings=settings) as here:
        page = await Browser(here.app).get("/_comity/recover")
        assert page.status == 200 and "admin@example.org" in page.words


def test_what_browsers_are_called() -> None:
    chromium = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/156.0 Safari/537.36"
    assert browser_name(chromium) == "Chrome on Linux"
    assert browser_name(chromium + " Edg/156.0") == "Edge on Linux"
    iphone = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Safari/604.1"
    assert browser_name(iphone) == "Safari on iPhone"
    assert browser_name("curl/8") == "curl/8"
    assert browser_name("") == "An unknown browser"

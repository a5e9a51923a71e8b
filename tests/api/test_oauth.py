"""Logging in by OAuth 2.0 with an authorization code (client-server §OAuth 2.0 API)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from comity.store import sessions as stored_sessions
from tests.api.support_browser import ORIGIN, Browser
from tests.api.support_oauth import DEVICE_GRANT, REDIRECT, WEB_CLIENT, OAuthClient, call, returned, scope
from tests.api.support_rooms import Client, Place, ask, place

AUTHORIZE = "/_comity/oauth2/authorize"


@asynccontextmanager
async def signed_in(
    directory: Path, settings: str = ""
) -> AsyncIterator[tuple[Place, Client, OAuthClient, Browser]]:
    """A server, alice on an older login, an app, and alice's browser where she is signed in."""
    async with place(directory, settings=settings) as here:
        alice = await here.client("alice")
        browser = Browser(here.app)
        await browser.sign_in("alice")
        yield here, alice, await OAuthClient.registered(here.app), browser


async def test_the_whole_way(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.client("alice")
        app, browser = await OAuthClient.registered(here.app), Browser(here.app)
        page = await app.open(browser)
        assert urlsplit(page.url).path == "/_comity/sign-in"
        page = await browser.send(page, "/_comity/sign-in", name="alice", password="correct horse")
        assert urlsplit(page.url).path == AUTHORIZE
        assert (
            "An App" in page.words and "client.example" in page.words and "@alice:example.org" in page.words
        )
        assert "form-action 'self' https://app.client.example" in page.headers["Content-Security-Policy"]
        await browser.send(page, AUTHORIZE, decision="allow")
        assert browser.left_for.startswith(f"{REDIRECT}#")
        told = returned(browser.left_for)
        assert (told["state"], told["iss"]) == ("a state & more", app.metadata["issuer"])
        answer = await app.take(told["code"])
        tokens = answer.ok()
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert (tokens["token_type"], tokens["scope"], tokens["expires_in"]) == ("Bearer", scope(), 3600)
        who = (await app.whoami(tokens["access_token"])).ok()
        assert (who["user_id"], who["device_id"]) == ("@alice:example.org", "ABCDEFGHIJ")


async def test_the_metadata(tmp_path: Path) -> None:
    settings = '[public]\nclient_base_url = "https://matrix.example.org/base/"\n'
    async with place(tmp_path, settings=settings) as here:
        told = (await call(here.app, "GET", "/_matrix/client/v1/auth_metadata")).ok()
        assert told["issuer"] == "https://matrix.example.org/base/"
        assert told["token_endpoint"] == "https://matrix.example.org/base/_comity/oauth2/token"
        assert {"query", "fragment"} == set(told["response_modes_supported"])
        assert {"authorization_code", "refresh_token", DEVICE_GRANT} == set(told["grant_types_supported"])
        assert told["prompt_values_supported"] == ["create"]
        assert told["account_management_uri"] == "https://matrix.example.org/base/_comity/account"
        old = "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata"
        assert (await call(here.app, "GET", old)).ok() == told


async def test_without_oauth_there_is_the_older_login_alone(tmp_path: Path) -> None:
    async with place(tmp_path, settings="[oauth]\nenabled = false\n") as here:
        answer = await call(here.app, "GET", "/_matrix/client/v1/auth_metadata")
        answer.failed(404, "M_UNRECOGNIZED")
        answer = await call(here.app, "POST", "/_comity/oauth2/token", form={})
        answer.failed(404, "M_UNRECOGNIZED")


async def test_the_answer_may_come_in_the_query(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (_, _, app, browser):
        await app.consent(browser, response_mode="query", state="")
        assert browser.left_for.startswith(f"{REDIRECT}?code=")
        assert "state" not in returned(browser.left_for)


async def test_the_user_refuses(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (_, _, app, browser):
        page = await app.open(browser)
        await browser.send(page, AUTHORIZE, decision="deny")
        assert returned(browser.left_for)["error"] == "access_denied"


BAD_REQUESTS: list[tuple[dict[str, str], str]] = [
    ({"response_type": "token"}, "unsupported_response_type"),
    ({"response_mode": "form_post"}, "invalid_request"),
    ({"code_challenge": ""}, "invalid_request"),
    ({"code_challenge": "short"}, "invalid_request"),
    ({"code_challenge_method": "plain"}, "invalid_request"),
    ({"code_challenge_method": ""}, "invalid_request"),
    ({"scope": "urn:matrix:client:api:*"}, "invalid_scope"),
    ({"scope": "urn:matrix:client:device:ABCDEFGHIJ"}, "invalid_scope"),
    ({"scope": scope() + " urn:matrix:client:device:OTHERDEVICE"}, "invalid_scope"),
    ({"scope": scope() + " urn:matrix:client:device:ABCDEFGHIJ"}, "invalid_scope"),
    ({"scope": scope("")}, "invalid_scope"),
    ({"scope": scope('A"B')}, "invalid_scope"),
    ({"prompt": "none"}, "interaction_required"),
]


async def test_a_bad_request_is_told_to_the_client(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (_, _, app, browser):
        for changed, error in BAD_REQUESTS:
            await app.open(browser, **changed)
            told = returned(browser.left_for)
            assert (told["error"], told["state"]) == (error, "a state & more"), changed
            assert "code" not in told


REQUESTS_TO_NOWHERE: list[dict[str, str]] = [
    {"client_id": "unknown"},
    {"client_id": ""},
    {"redirect_uri": ""},
    {"redirect_uri": "https://evil.example/callback"},
    {"redirect_uri": REDIRECT + "/more"},
    {"redirect_uri": REDIRECT + "?more=1"},
    {"redirect_uri": "https://app.client.example:443/callback"},
    {"redirect_uri": REDIRECT + "#fragment"},
    {"state": "s" * 1_001},
]


async def test_a_request_that_leads_nowhere_is_told_to_the_user(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (_, _, app, browser):
        for changed in REQUESTS_TO_NOWHERE:
            page = await app.open(browser, **changed)
            assert (page.status, browser.left_for) == (400, ""), changed
            assert AUTHORIZE not in [form.action for form in page.forms]


async def test_what_is_sent_with_the_consent_is_checked_again(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (_, _, app, browser):
        page = await app.open(browser)
        request = page.form(AUTHORIZE).fields["request"].replace("app.client.example", "evil.example")
        page = await browser.send(page, AUTHORIZE, request=request, decision="allow")
        assert (page.status, browser.left_for) == (400, "")


async def test_a_code_is_good_once_and_a_replay_ends_what_it_gave(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (_, alice, app, browser):
        code = (await app.consent(browser))["code"]
        tokens = (await app.take(code)).ok()
        (await app.whoami(tokens["access_token"])).ok()
        assert (await app.take(code)).body["error"] == "invalid_grant"
        (await app.whoami(tokens["access_token"])).failed(401, "M_UNKNOWN_TOKEN")
        assert (await app.refresh(tokens["refresh_token"])).body["error"] == "invalid_grant"
        # Nobody else's session.
        (await alice.ask("GET", "/account/whoami")).ok()


async def test_a_replay_does_not_end_a_later_login_of_the_device(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (_, _, app, browser):
        code = (await app.consent(browser))["code"]
        (await app.take(code)).ok()
        tokens = await app.log_in(browser)
        assert (await app.take(code)).body["error"] == "invalid_grant"
        (await app.whoami(tokens["access_token"])).ok()


async def test_a_code_ends_soon(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (here, _, app, browser):
        code = (await app.consent(browser))["code"]
        await here.clock.turn(61)
        assert (await app.take(code)).body["error"] == "invalid_grant"


STOLEN: list[dict[str, str]] = [
    {"code_verifier": "x" * 50},
    {"code_verifier": "short"},
    {"code_verifier": "ü" * 50},
    {"redirect_uri": "https://app.client.example/other"},
    {"redirect_uri": ""},
    {"code": "unknown"},
    {"code": "u" * 1_000},
]


async def test_a_code_alone_is_no_use(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (_, _, app, browser):
        for changed in STOLEN:
            code = (await app.consent(browser))["code"]
            answer = await app.take(**{"code": code, **changed})
            assert (answer.status, answer.body["error"]) == (400, "invalid_grant"), changed
            if "code_verifier" in changed:
                # It was stolen, then: it is no use to anybody any more.
                assert (await app.take(code)).body["error"] == "invalid_grant"


async def test_a_code_is_for_the_client_that_asked(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (here, _, app, browser):
        other = await OAuthClient.registered(here.app, {**WEB_CLIENT, "client_name": "Another"})
        assert other.client_id != app.client_id
        code = (await app.consent(browser))["code"]
        assert (await other.take(code)).body["error"] == "invalid_grant"
        (await app.take(code)).ok()


BAD_TOKEN_REQUESTS: list[tuple[dict[str, str], int, str]] = [
    ({}, 400, "invalid_request"),
    ({"grant_type": "password"}, 400, "unsupported_grant_type"),
    ({"grant_type": "authorization_code"}, 400, "invalid_request"),
    ({"grant_type": "refresh_token"}, 400, "invalid_request"),
    ({"grant_type": "refresh_token", "refresh_token": "r" * 1_000}, 400, "invalid_grant"),
    ({"grant_type": DEVICE_GRANT}, 400, "invalid_request"),
    ({"grant_type": DEVICE_GRANT, "device_code": "unknown"}, 400, "invalid_grant"),
    ({"grant_type": "refresh_token", "refresh_token": "r", "client_id": "no"}, 401, "invalid_client"),
]


async def test_bad_token_requests(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        app = await OAuthClient.registered(here.app)
        for form, status, error in BAD_TOKEN_REQUESTS:
            answer = await app.token(**form)
            assert (answer.status, answer.body["error"]) == (status, error), form
            assert answer.body["error_description"]


async def test_a_body_that_is_no_form(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        url = "/_comity/oauth2/token"
        kind = "application/x-www-form-urlencoded"
        for raw, sent, status in (
            (b"{}", "application/json", 415),
            (b"a=1&a=2", kind, 400),
            (b"a=%ff", kind, 400),
            (b"a=" + b"b" * 70_000, kind, 413),
        ):
            answer = await call(here.app, "POST", url, raw=raw, kind=sent)
            assert (answer.status, answer.body["error"]) == (status, "invalid_request")


async def test_refreshing(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (here, _, app, browser):
        first = await app.log_in(browser)
        await here.clock.turn(3601)
        assert (await app.whoami(first["access_token"])).failed(401, "M_UNKNOWN_TOKEN")["soft_logout"]
        # An answer that was lost: the client asks again.
        (await app.refresh(first["refresh_token"])).ok()
        second = (await app.refresh(first["refresh_token"])).ok()
        assert second["scope"] == scope() and second["refresh_token"] != first["refresh_token"]
        (await app.whoami(second["access_token"])).ok()
        # What was stolen before is shown: the session is over.
        assert (await app.refresh(first["refresh_token"])).body["error"] == "invalid_grant"
        (await app.whoami(second["access_token"])).failed(401, "M_UNKNOWN_TOKEN")
        assert (await app.refresh(second["refresh_token"])).body["error"] == "invalid_grant"


async def test_a_refresh_token_is_for_its_client(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (here, _, app, browser):
        other = await OAuthClient.registered(here.app, {**WEB_CLIENT, "client_name": "Another"})
        tokens = await app.log_in(browser)
        assert (await other.refresh(tokens["refresh_token"])).body["error"] == "invalid_grant"
        # Nor for whoever has it and names no client, which older apps do not.
        path, body = "/_matrix/client/v3/refresh", {"refresh_token": tokens["refresh_token"]}
        (await ask(here.app, "POST", path, body, {}, None)).failed(401, "M_UNKNOWN_TOKEN")
        (await app.refresh(tokens["refresh_token"])).ok()


async def test_revoking(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (_, alice, app, browser):
        for kind in ("access_token", "refresh_token"):
            tokens = await app.log_in(browser)
            (await app.revoke(tokens[kind], token_type_hint=kind)).ok()
            (await app.whoami(tokens["access_token"])).failed(401, "M_UNKNOWN_TOKEN")
            assert (await app.refresh(tokens["refresh_token"])).body["error"] == "invalid_grant"
            devices = (await alice.ask("GET", "/devices")).ok()["devices"]
            assert [device["device_id"] for device in devices if device["device_id"] == "ABCDEFGHIJ"] == []
            # Again, and by anybody.
            (await app.revoke(tokens[kind])).ok()
            (await app.revoke(tokens[kind], client_id="another")).ok()
        assert (await app.revoke("")).body["error"] == "invalid_request"
        assert (await app.revoke("x", token_type_hint="id_token")).body["error"] == "unsupported_token_type"


async def test_the_older_form_of_the_scope(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (_, _, app, browser):
        prefix = "urn:matrix:org.matrix.msc2967.client:"
        old = f"{prefix}api:* {prefix}device:OLDDEVICEID"
        code = (await app.consent(browser, scope=f"openid {old} something:else"))["code"]
        tokens = (await app.take(code)).ok()
        assert tokens["scope"] == old
        assert (await app.whoami(tokens["access_token"])).ok()["device_id"] == "OLDDEVICEID"
        both = f"{scope('BOTHFORMSID')} {prefix}device:BOTHFORMSID"
        assert "code" in await app.consent(browser, scope=both)


async def test_a_device_goes_on_under_another_client(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (_, alice, app, browser):
        tokens = await app.log_in(browser)
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": "alice"},
            "password": "correct horse",
            "device_id": "ABCDEFGHIJ",
        }
        (await alice.ask("POST", "/login", body)).ok()
        (await app.whoami(tokens["access_token"])).failed(401, "M_UNKNOWN_TOKEN")
        assert (await app.refresh(tokens["refresh_token"])).body["error"] == "invalid_grant"


@pytest.mark.parametrize("how", ["locked", "deactivated"])
async def test_who_is_locked_or_gone_takes_no_code(tmp_path: Path, how: str) -> None:
    async with signed_in(tmp_path) as (here, alice, app, browser):
        code = (await app.consent(browser))["code"]
        tokens = await app.log_in(browser, "OTHERDEVICE")
        if how == "locked":
            await here.database.write(
                lambda tx: stored_sessions.set_moderation(tx, alice.user_id, suspended=False, locked=True)
            )
        else:
            auth = {"type": "m.login.password", "password": "correct horse"}
            (await alice.ask("POST", "/account/deactivate", {"auth": auth})).ok()
        assert (await app.take(code)).body["error"] == "invalid_grant"
        assert (await app.refresh(tokens["refresh_token"])).body["error"] == "invalid_grant"
        assert urlsplit((await app.open(browser)).url).path == "/_comity/sign-in"


async def test_a_new_password_ends_what_was_granted_with_the_old(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (_, alice, app, browser):
        code = (await app.consent(browser))["code"]
        auth = {"type": "m.login.password", "password": "correct horse"}
        (await alice.ask("POST", "/account/password", {"new_password": "battery", "auth": auth})).ok()
        assert (await app.take(code)).body["error"] == "invalid_grant"


async def test_sessions_of_oauth_do_not_use_what_asks_for_a_password(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (_, _, app, browser):
        token = (await app.log_in(browser))["access_token"]
        for method, path in (
            ("POST", "/_matrix/client/v3/account/password"),
            ("POST", "/_matrix/client/v3/account/deactivate"),
            ("POST", "/_matrix/client/v3/delete_devices"),
            ("DELETE", "/_matrix/client/v3/devices/ABCDEFGHIJ"),
            ("POST", "/_matrix/client/v1/login/get_token"),
        ):
            answer = await call(app.app, method, path, json={}, token=token)
            assert "account page" in answer.failed(403, "M_FORBIDDEN")["error"]
        answer = await call(app.app, "GET", "/_matrix/client/v3/capabilities", token=token)
        told = answer.ok()["capabilities"]
        assert not any(told[name]["enabled"] for name in ("m.change_password", "m.get_login_token"))
        answer = await call(app.app, "POST", "/_matrix/client/v3/logout", json={}, token=token)
        answer.ok()


async def test_a_new_user_makes_an_account_on_the_way(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        app, browser = await OAuthClient.registered(here.app), Browser(here.app)
        page = await app.open(browser, prompt="create")
        assert urlsplit(page.url).path == "/_comity/register"
        page = await browser.send(page, "/_comity/register", username="Bob", password="a", again="b")
        assert page.status == 400 and "not the same" in page.words
        page = await browser.send(page, "/_comity/register", username="Bob", password="horse", again="horse")
        assert urlsplit(page.url).path == AUTHORIZE and "@bob:example.org" in page.words
        await browser.send(page, AUTHORIZE, decision="allow")
        tokens = (await app.take(returned(browser.left_for)["code"])).ok()
        assert (await app.whoami(tokens["access_token"])).ok()["user_id"] == "@bob:example.org"


async def test_somebody_else_signs_in(tmp_path: Path) -> None:
    async with signed_in(tmp_path) as (here, _, app, browser):
        await here.client("bob")
        page = await app.open(browser)
        page = await browser.send(page, "/_comity/sign-out")
        assert urlsplit(page.url).path == "/_comity/sign-in"
        page = await browser.send(page, "/_comity/sign-in", name="bob", password="correct horse")
        assert page.url.startswith(ORIGIN + AUTHORIZE) and "@bob:example.org" in page.words

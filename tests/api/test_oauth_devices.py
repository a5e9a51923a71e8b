"""Apps on devices without a browser (RFC 8628; client-server §Device authorisation flow)."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.api.support_browser import Browser
from tests.api.support_oauth import DEVICE_GRANT, WEB_CLIENT, OAuthClient, call, scope
from tests.api.support_rooms import LIMITED, place
from tests.api.support_users import Answer

LINK = "/_comity/link"


async def begin(app: OAuthClient, text: str = "") -> Any:
    """Ask for a code."""
    form = {"client_id": app.client_id, "scope": text or scope()}
    return (await call(app.app, "POST", app.metadata["device_authorization_endpoint"], form=form)).ok()


async def poll(app: OAuthClient, begun: Any) -> Answer:
    """Ask what became of it."""
    return await app.token(grant_type=DEVICE_GRANT, device_code=begun["device_code"])


async def test_the_whole_way(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.client("alice")
        app, browser = await OAuthClient.registered(here.app), Browser(here.app)
        begun = await begin(app)
        assert (begun["expires_in"], begun["interval"]) == (900, 5)
        assert begun["verification_uri"] == "https://example.org/_comity/link"
        assert (await poll(app, begun)).body["error"] == "authorization_pending"
        page = await browser.get(begun["verification_uri_complete"])
        page = await browser.send(page, "/_comity/sign-in", name="alice", password="correct horse")
        assert urlsplit(page.url).path == LINK
        assert page.form(LINK).fields["user_code"] == begun["user_code"]
        page = await browser.send(page, LINK)
        assert all(text in page.words for text in ("An App", "client.example", begun["user_code"]))
        # The app asks from elsewhere: its user is warned.
        assert "192.0.2.9" in page.words
        page = await browser.send(page, LINK, decision="allow")
        assert "Done" in page.words
        await here.clock.turn(5)
        tokens = (await poll(app, begun)).ok()
        who = (await app.whoami(tokens["access_token"])).ok()
        assert (who["user_id"], who["device_id"]) == ("@alice:example.org", "ABCDEFGHIJ")
        assert tokens["scope"] == scope()
        (await app.refresh(tokens["refresh_token"])).ok()
        # Good once.
        assert (await poll(app, begun)).body["error"] == "invalid_grant"


async def test_the_user_refuses(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.client("alice")
        app, browser = await OAuthClient.registered(here.app), Browser(here.app)
        await browser.sign_in("alice")
        begun = await begin(app)
        # However it is written.
        entered = begun["user_code"].lower().replace("-", " ")
        page = await browser.send(await browser.get(LINK), LINK, user_code=entered)
        page = await browser.send(page, LINK, decision="deny")
        assert "Refused" in page.words
        assert (await poll(app, begun)).body["error"] == "access_denied"
        assert (await poll(app, begun)).body["error"] == "invalid_grant"


async def test_a_code_ends(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.client("alice")
        app, browser = await OAuthClient.registered(here.app), Browser(here.app)
        await browser.sign_in("alice")
        begun = await begin(app)
        await here.clock.turn(901)
        assert (await poll(app, begun)).body["error"] == "expired_token"
        page = await browser.send(await browser.get(LINK), LINK, user_code=begun["user_code"])
        assert page.status == 404 and "over" in page.words


async def test_who_asks_too_often_is_told_to_slow_down(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        app = await OAuthClient.registered(here.app)
        begun = await begin(app)
        assert (await poll(app, begun)).body["error"] == "authorization_pending"
        await here.clock.turn(5)
        assert (await poll(app, begun)).body["error"] == "authorization_pending"
        await here.clock.turn(1)
        assert (await poll(app, begun)).body["error"] == "slow_down"
        # From now on it must wait for ten seconds.
        await here.clock.turn(6)
        assert (await poll(app, begun)).body["error"] == "slow_down"
        await here.clock.turn(15)
        assert (await poll(app, begun)).body["error"] == "authorization_pending"


async def test_a_device_code_is_for_its_client(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        app = await OAuthClient.registered(here.app)
        other = await OAuthClient.registered(here.app, {**WEB_CLIENT, "client_name": "Another"})
        assert (await poll(other, await begin(app))).body["error"] == "invalid_grant"


async def test_bad_requests(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        app = await OAuthClient.registered(here.app)
        url = app.metadata["device_authorization_endpoint"]
        for form, status, error in (
            ({"client_id": "unknown", "scope": scope()}, 401, "invalid_client"),
            ({"client_id": app.client_id, "scope": "urn:matrix:client:api:*"}, 400, "invalid_scope"),
            ({"client_id": app.client_id}, 400, "invalid_scope"),
            ({"client_id": app.client_id, "scope": "x" * 2_001}, 400, "invalid_scope"),
        ):
            answer = await call(here.app, "POST", url, form=form)
            assert (answer.status, answer.body["error"]) == (status, error)


async def test_guessing_is_slow(tmp_path: Path) -> None:
    async with place(tmp_path, changes=LIMITED) as here:
        await here.client("alice")
        app, browser = await OAuthClient.registered(here.app), Browser(here.app)
        begun = await begin(app)
        await browser.sign_in("alice")
        page = await browser.get(LINK)
        answers = [await browser.send(page, LINK, user_code="BBBB-BBBB") for _ in range(7)]
        assert [answer.status for answer in answers][-1] == 429
        # Nor is there a way around the page that shows what is let in.
        answer = await browser.send(page, LINK, user_code=begun["user_code"], decision="allow")
        assert answer.status == 429
        assert (await poll(app, begun)).body["error"] == "authorization_pending"


async def test_device_codes_are_limited(tmp_path: Path) -> None:
    settings = "[rate_limits.device_codes]\nper_second = 0.1\nburst = 2\n"
    async with place(tmp_path, settings=settings, changes=LIMITED) as here:
        app = await OAuthClient.registered(here.app)
        form = {"client_id": app.client_id, "scope": scope()}
        url = app.metadata["device_authorization_endpoint"]
        answers = [await call(here.app, "POST", url, form=form) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert len({answer.body["user_code"] for answer in answers[:2]}) == 2


async def test_a_code_is_entered_by_who_is_signed_in(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.client("alice")
        app, browser = await OAuthClient.registered(here.app), Browser(here.app)
        begun = await begin(app)
        page = await browser.get(LINK)
        csrf = page.form("/_comity/sign-in").fields["csrf"]
        fields = {"csrf": csrf, "user_code": begun["user_code"], "decision": "allow"}
        page = await browser.post(LINK, fields)
        assert urlsplit(page.url).path == "/_comity/sign-in"
        assert (await poll(app, begun)).body["error"] == "authorization_pending"

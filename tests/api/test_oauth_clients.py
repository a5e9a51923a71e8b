"""Clients register themselves (client-server §Client registration, §Redirect URI validation)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comity.users.oauth.client_metadata import form_target, read
from comity.users.oauth.clients import KEEP_UNUSED_MS
from comity.users.oauth.errors import OAuthError
from tests.api.support_browser import Browser
from tests.api.support_oauth import DEVICE_GRANT, WEB_CLIENT, OAuthClient, call
from tests.api.support_rooms import LIMITED, place

REGISTER = "/_comity/oauth2/register"
#: The example of the specification.
CLIENT = {
    "client_name": "My App",
    "client_name#fr": "Mon application",
    "client_uri": "https://example.com/",
    "logo_uri": "https://example.com/logo.png",
    "tos_uri": "https://example.com/tos.html",
    "tos_uri#fr": "https://example.com/fr/tos.html",
    "policy_uri": "https://example.com/policy.html",
    "redirect_uris": ["https://app.example.com/callback"],
    "token_endpoint_auth_method": "none",
    "response_types": ["code"],
    "grant_types": [
        "authorization_code",
        "refresh_token",
        "urn:ietf:params:oauth:grant-type:token-exchange",
    ],
    "application_type": "web",
}


def error_of(**changed: object) -> str:
    """The error code of a registration with other members; None leaves one out."""
    given = {name: value for name, value in {**CLIENT, **changed}.items() if value is not None}
    with pytest.raises(OAuthError) as error:
        read(given)
    return error.value.code


async def test_the_example_of_the_specification(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        answer = await call(here.app, "POST", REGISTER, json=CLIENT)
        assert answer.status == 201
        assert answer.body.pop("client_id")
        assert answer.body == {
            "client_name": "My App",
            "client_uri": "https://example.com/",
            "logo_uri": "https://example.com/logo.png",
            "tos_uri": "https://example.com/tos.html",
            "policy_uri": "https://example.com/policy.html",
            "redirect_uris": ["https://app.example.com/callback"],
            "token_endpoint_auth_method": "none",
            "response_types": ["code"],
            "grant_types": ["authorization_code", "refresh_token"],
            "application_type": "web",
        }


async def test_the_same_metadata_is_the_same_client(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        first, again = [await call(here.app, "POST", REGISTER, json=CLIENT) for _ in range(2)]
        assert first.body["client_id"] == again.body["client_id"]
        other = await call(here.app, "POST", REGISTER, json={**CLIENT, "client_name": "Other"})
        assert other.body["client_id"] != first.body["client_id"]


async def test_what_is_no_registration(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        for raw, status in ((b"", 400), (b"[]", 400), (b"{", 400), (b"{}", 400), (b" " * 70_000, 413)):
            answer = await call(here.app, "POST", REGISTER, raw=raw)
            assert (answer.status, answer.body["error"]) == (status, "invalid_client_metadata")


async def test_a_client_that_nobody_uses_goes_and_one_in_use_stays(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        await here.client("alice")
        browser = Browser(here.app)
        await browser.sign_in("alice")
        used = await OAuthClient.registered(here.app)
        unused = await OAuthClient.registered(here.app, CLIENT)
        await used.log_in(browser)
        await here.clock.turn(KEEP_UNUSED_MS / 1000 + 1)
        await OAuthClient.registered(here.app, {**CLIENT, "client_name": "A third"})
        assert await here.app._users.oauth.clients.find(used.client_id) is not None
        assert await here.app._users.oauth.clients.find(unused.client_id) is None


async def test_registrations_are_limited(tmp_path: Path) -> None:
    settings = "[rate_limits.oauth_clients]\nper_second = 0.1\nburst = 2\n"
    async with place(tmp_path, settings=settings, changes=LIMITED) as here:
        answers = [await call(here.app, "POST", REGISTER, json=CLIENT) for _ in range(3)]
        assert [answer.status for answer in answers] == [201, 201, 429]
        assert answers[2].body["error"] == "temporarily_unavailable"
        assert answers[2].headers["Retry-After"] == "10"


@pytest.mark.parametrize(
    "changed",
    [
        {"client_uri": None},
        {"client_uri": 5},
        {"client_uri": "http://example.com/"},
        {"client_uri": "https://user@example.com/"},
        {"client_uri": "https://user:secret@example.com/"},
        {"client_uri": "https:///path"},
        {"client_uri": "https://example.com\\@evil.example/"},
        {"client_uri": "https://exa mple.com/"},
        {"client_uri": "https://-example.com/"},
        {"client_uri": "https://example.com:port/"},
        {"client_uri": "https://[::1/"},
        {"client_uri": "https://example.com/" + "a" * 2_000},
        {"logo_uri": "http://example.com/logo.png"},
        {"logo_uri": "https://example.org/logo.png"},
        {"tos_uri": "https://notexample.com/"},
        {"policy_uri": "https://user@example.com/"},
        {"client_name": 5},
        {"client_name": "n" * 201},
        {"client_name": "two\nlines"},
        {"application_type": "toaster"},
        {"token_endpoint_auth_method": "client_secret_basic"},
        {"grant_types": []},
        {"grant_types": ["refresh_token"]},
        {"grant_types": "authorization_code"},
        {"grant_types": ["a"] * 51},
        {"response_types": ["token"]},
        {"redirect_uris": "https://example.com/"},
        {"redirect_uris": [5]},
    ],
)
def test_metadata_that_is_refused(changed: dict[str, Any]) -> None:
    assert error_of(**changed) == "invalid_client_metadata"


@pytest.mark.parametrize(
    "uri",
    [
        "https://example.com/callback",
        "https://app.example.com/callback",
        "https://example.com:5173/?query=value",
    ],
)
def test_redirect_uris_of_web_clients(uri: str) -> None:
    assert read({**CLIENT, "redirect_uris": [uri]}).has_redirect_uri(uri)


WRONG_FOR_ALL = [
    "https://example.com/callback#fragment",
    "https://example.com/callback#",
    "https://user@example.com/callback",
    "https://localhost/",
    "https://example.com.evil.example/",
    "https://evilexample.com/",
    "https://evil.example/example.com",
    "https://evil.example\\.example.com/",
    "https://example.com:99999/",
    "javascript:alert(1)",
    "data:text/html,x",
    "/callback",
    "",
    "https://example.com/" + "a" * 2_000,
    "https://example.com/ä",
]


@pytest.mark.parametrize(
    "uri",
    [*WRONG_FOR_ALL, "http://example.com/callback", "http://localhost/", "com.example.app:/callback"],
)
def test_redirect_uris_that_web_clients_may_not_have(uri: str) -> None:
    assert error_of(redirect_uris=[uri]) == "invalid_redirect_uri"


NATIVE = [
    "com.example.app:/callback",
    "com.example:/",
    "com.example:callback",
    "http://localhost/callback",
    "http://127.0.0.1/callback",
    "http://[::1]/callback",
    "https://app.example.com/callback",
]


@pytest.mark.parametrize("uri", NATIVE)
def test_redirect_uris_of_native_clients(uri: str) -> None:
    given = {**CLIENT, "application_type": "native", "redirect_uris": [uri]}
    assert read(given).has_redirect_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        *WRONG_FOR_ALL,
        "example:/callback",
        "com.example.app://callback",
        "com.example",
        "com.example/callback",
        "com.examples:/callback",
        "com:/callback",
        "https://localhost/callback",
        "http://localhost:1234/callback",
        "http://user@localhost/callback",
        "http://localhost.example.com/callback",
        "http://127.0.0.2/callback",
        "http://example.com/callback",
    ],
)
def test_redirect_uris_that_native_clients_may_not_have(uri: str) -> None:
    assert error_of(application_type="native", redirect_uris=[uri]) == "invalid_redirect_uri"


@pytest.mark.parametrize(
    ("client_uri", "redirect_uri"),
    [("https://javascript/", "javascript:alert(1)"), ("https://client.1/", "1.client:/callback")],
)
def test_what_is_no_scheme_of_ones_own(client_uri: str, redirect_uri: str) -> None:
    assert error_of(
        client_uri=client_uri,
        logo_uri=None,
        tos_uri=None,
        policy_uri=None,
        application_type="native",
        redirect_uris=[redirect_uri],
    ) == ("invalid_redirect_uri")


def test_the_loopback_interface_has_any_port_and_nothing_else_is_loose() -> None:
    client = read({**CLIENT, "application_type": "native", "redirect_uris": NATIVE})
    for good in (
        "http://localhost:1/callback",
        "http://127.0.0.1:65535/callback",
        "http://[::1]:80/callback",
    ):
        assert client.has_redirect_uri(good)
    for wrong in (
        "http://localhost:70000/callback",
        "http://localhost:1234/other",
        "http://localhost:1234/callback?more",
        "http://localhost:1234@evil.example/callback",
        "http://localhost:/callback",
        "https://localhost:1234/callback",
        "https://app.example.com:1234/callback",
        "com.example.app:/callback/more",
        "COM.example.app:/callback",
    ):
        assert not client.has_redirect_uri(wrong)
    web = read({**CLIENT, "redirect_uris": ["https://example.com/callback"]})
    assert not web.has_redirect_uri("http://localhost/callback")


def test_a_client_without_redirects_takes_codes_for_devices_alone() -> None:
    client = read({"client_uri": "https://example.com", "grant_types": [DEVICE_GRANT, "refresh_token"]})
    assert client.told()["response_types"] == []
    assert client.name == "example.com"
    assert error_of(redirect_uris=None) == "invalid_redirect_uri"
    assert error_of(redirect_uris=[f"https://example.com/{number}" for number in range(21)]) == (
        "invalid_redirect_uri"
    )


def test_defaults() -> None:
    client = read({"client_uri": "https://example.com", "redirect_uris": ["https://example.com/"]})
    assert client.grant_types == ("authorization_code", "refresh_token")
    assert client.application_type == "web"


def test_where_a_form_may_lead() -> None:
    assert form_target("https://App.example.com:8443/callback?x") == "https://app.example.com:8443"
    assert form_target("http://127.0.0.1:5/callback") == "http://127.0.0.1:5"
    assert form_target("com.example.app:/callback") == "com.example.app:"
    assert form_target("http://[::1]:5/callback") == "http:"


async def test_a_grant_that_is_not_registered_is_not_given(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        only_codes = await OAuthClient.registered(here.app, CLIENT)
        answer = await only_codes.token(grant_type=DEVICE_GRANT, device_code="x")
        assert answer.body["error"] == "unauthorized_client"
        form = {"client_id": only_codes.client_id, "scope": "x"}
        answer = await call(here.app, "POST", "/_comity/oauth2/device", form=form)
        assert answer.body["error"] == "unauthorized_client"
        only_devices = await OAuthClient.registered(
            here.app, {"client_uri": "https://example.com", "grant_types": [DEVICE_GRANT]}
        )
        answer = await only_devices.refresh("x")
        assert answer.body["error"] == "unauthorized_client"
        assert WEB_CLIENT["client_uri"] != CLIENT["client_uri"]

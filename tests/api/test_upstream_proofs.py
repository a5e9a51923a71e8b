"""What proves nothing: answers of a provider that are forged, stale, replayed or meant for somebody else."""

from __future__ import annotations

import logging
import warnings
from base64 import urlsafe_b64encode
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from joserfc import jwk, jwt

from comity.ports import Response
from comity.users.upstream.provider import MAX_DOCUMENT_BYTES
from tests.api.support_browser import Page
from tests.api.support_provider import CLIENT_ID, KEY, Both, both, part, signed_with_public_key, unsigned

ALICE: dict[str, Any] = {"preferred_username": "alice"}
OTHER_RSA = jwk.generate_key("RSA", 2048, {"kid": "first", "alg": "RS256"})
EC = jwk.generate_key("EC", "P-256", {"kid": "elliptic"})
ED = jwk.generate_key("OKP", "Ed25519", {"kid": "edwards"})
PATH = "/_comity/upstream/mock/callback"


async def refused(here: Both, page: Page, status: int, *words: str) -> None:
    """The page says that it did not work, and nobody has an account by it."""
    assert page.status == status, page.words
    for word in words:
        assert word in page.words
    rows = await here.place.database.read(lambda tx: tx.all("SELECT user_id FROM users"))
    assert rows == []


#: Claims that the ID token has besides, or instead; None takes one away.
WRONG_CLAIMS: list[tuple[dict[str, Any], str]] = [
    ({"nonce": "another"}, "nonce"),
    ({"nonce": None}, "nonce"),
    ({"nonce": 5}, "nonce"),
    ({"iss": "https://evil.example"}, "issuer"),
    ({"iss": None}, "issuer"),
    ({"aud": "another client"}, "is for"),
    ({"aud": []}, "is for"),
    ({"aud": None}, "is for"),
    ({"aud": [CLIENT_ID, "another client"]}, "given to"),
    ({"aud": [CLIENT_ID, "another client"], "azp": "another client"}, "given to"),
    ({"azp": "another client"}, "given to"),
    ({"exp": 1_700_000_000 - 61}, "expired"),
    ({"exp": None}, "lacks exp"),
    ({"exp": "soon"}, "lacks exp"),
    ({"exp": True}, "lacks exp"),
    ({"iat": 1_700_000_000 - 700}, "too long ago"),
    ({"iat": 1_700_000_000 + 100}, "future"),
    ({"iat": None}, "lacks iat"),
    ({"nbf": 1_700_000_000 + 100}, "not good yet"),
    ({"sub": None}, "who"),
    ({"sub": ""}, "who"),
    ({"sub": "x" * 256}, "who"),
    ({"sub": 7}, "who"),
]


@pytest.mark.parametrize(("claims", "why"), WRONG_CLAIMS, ids=str)
async def test_claims_that_are_not_right(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, claims: dict[str, Any], why: str
) -> None:
    async with both(tmp_path) as here:
        here.provider.claims = claims
        with caplog.at_level(logging.WARNING):
            page = await here.come(here.browser(), "1", **ALICE)
        await refused(here, page, 502, "Mock & Co")
        # What happened is for the operator, and not for the page.
        assert why in caplog.text and why not in page.words


async def test_claims_that_are_right_in_other_ways(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        for claims in (
            {"aud": [CLIENT_ID]},
            {"aud": [CLIENT_ID, "another client"], "azp": CLIENT_ID},
            {"exp": 1_700_000_000 - 59},
            {"iat": 1_700_000_000 + 59, "nbf": 1_700_000_000 + 59},
        ):
            here.provider.claims = claims
            assert (await here.come(here.browser(), "1", **ALICE)).status == 200, claims


async def test_signatures_that_are_none(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        for sign in (
            unsigned,
            signed_with_public_key,
            lambda claims: jwt.encode({"alg": "RS256", "kid": "first"}, claims, OTHER_RSA),
            lambda claims: jwt.encode({"alg": "ES256", "kid": "first"}, claims, EC),
            lambda claims: jwt.encode({"alg": "RS256"}, claims, KEY)[:-4] + "AAAA",
            lambda claims: jwt.encode({"alg": "RS256"}, claims, KEY).rpartition(".")[0] + ".",
            lambda claims: jwt.encode({"alg": "RS256"}, claims, KEY).rpartition(".")[0],
            lambda claims: jwt.encode({"alg": "RS256"}, {**claims, "x": "y" * 200_000}, KEY),
            lambda claims: jwt.encode({"alg": "RS256", "kid": "second"}, claims, KEY),
            lambda claims: "",
            lambda claims: "...",
            lambda claims: "é.é.é",
        ):
            here.provider.sign = sign
            await refused(here, await here.come(here.browser(), "1", **ALICE), 502)


def _by_hand(claims: dict[str, Any], header: dict[str, Any]) -> str:
    """A token of that very header, well signed."""
    signed = f"{part(header)}.{part(claims)}"
    key = KEY.private_key
    assert key is not None
    signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{signed}.{urlsafe_b64encode(signature).rstrip(b'=').decode()}"


async def test_a_part_of_the_header_that_must_be_understood(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        for more in (
            {"crit": ["exp"], "exp": 1},
            {"crit": ["other"], "other": 1},
            {"kid": 5},
            {"alg": ["RS256"]},
        ):
            header = {"alg": "RS256", "kid": "first", **more}
            here.provider.sign = partial(_by_hand, header=header)
            await refused(here, await here.come(here.browser(), "1", **ALICE), 502)
        here.provider.sign = partial(_by_hand, header={"alg": "RS256", "other": "thing"})
        assert (await here.come(here.browser(), "1", **ALICE)).status == 200


@pytest.mark.parametrize(
    ("key", "algorithm"), [(EC, "ES256"), (ED, "EdDSA"), (ED, "Ed25519"), (KEY, "PS256"), (KEY, "RS512")]
)
async def test_other_signatures_that_are_good(tmp_path: Path, key: Any, algorithm: str) -> None:
    async with both(tmp_path) as here:
        published = {name: value for name, value in key.as_dict(private=False).items() if name != "alg"}
        here.provider.instead["/keys"] = Response(200, orjson.dumps({"keys": [published]}))
        here.provider.sign = lambda claims: _signed(claims, key, algorithm)
        assert (await here.come(here.browser(), "1", **ALICE)).status == 200


def _signed(claims: dict[str, Any], key: Any, algorithm: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = type(key).import_key(
            {name: value for name, value in key.as_dict(private=True).items() if name not in ("alg", "use")}
        )
        return jwt.encode({"alg": algorithm, "kid": key.kid}, claims, plain, algorithms=[algorithm])


async def test_keys_that_are_not_used(tmp_path: Path) -> None:
    public = KEY.as_dict(private=False)
    short = {**public, "n": "AQAB" * 20}
    async with both(tmp_path) as here:
        for keys in (
            [],
            [{**public, "use": "enc"}],
            [{**public, "alg": "RS512"}],
            [{"kty": "oct", "k": "c2VjcmV0", "kid": "first"}],
            [short],
            [{"kty": "RSA", "kid": "first"}],
            ["no key", 7, None, {"kty": []}, {"kty": "RSA", "n": 5, "e": 6}, {**public, "kid": ["first"]}],
            [{**public, "n": "A" * 100_000}],
        ):
            here.provider.instead["/keys"] = Response(200, orjson.dumps({"keys": keys}))
            await here.place.clock.turn(31)
            await refused(here, await here.come(here.browser(), "1", **ALICE), 502)


async def test_a_new_key_is_fetched_when_it_is_needed(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        assert (await here.come(here.browser(), "1", **ALICE)).status == 200
        new = jwk.generate_key("RSA", 2048, {"kid": "second"})
        here.provider.keys = [new, KEY]
        # Not at once: whoever sends tokens of unknown keys could have the provider asked again and again.
        assert (await here.come(here.browser(), "1", **ALICE)).status == 502
        await here.place.clock.turn(31)
        assert (await here.come(here.browser(), "1", **ALICE)).status == 200
        asked = [path for _, path in here.provider.asked]
        assert asked.count("/keys") == 2
        assert asked.count("/.well-known/openid-configuration") == 1


# -- what a browser brings


async def test_a_sign_in_that_was_not_begun_here(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        browser, other = here.browser(), here.browser()
        url = here.provider.sign_in(await here.to_provider(browser), "1", **ALICE)
        # An attacker has somebody else's browser bring what was begun in theirs.
        await refused(here, await other.get(url), 400, "not begun in this browser")
        # It was used up by that.
        await refused(here, await browser.get(url), 400)
        await refused(here, await browser.get(PATH, state="made up", code="x"), 400)
        await refused(here, await browser.get(PATH, code="x"), 400)
        await refused(here, await browser.get(PATH), 400)


async def test_a_code_is_used_once(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        browser = here.browser()
        url = here.provider.sign_in(await here.to_provider(browser), "1", **ALICE)
        assert (await browser.get(url)).status == 200
        page = await browser.get(url)
        assert page.status == 400
        # A stolen code, in an attempt of the thief's own: the provider knows that it was used, and the
        # nonce and verifier would differ.
        thief = here.browser()
        query = parse_qs(urlsplit(url).query)
        own = parse_qs(urlsplit(here.provider.sign_in(await here.to_provider(thief), "2")).query)
        page = await thief.get(PATH, state=own["state"][0], code=query["code"][0], iss=here.provider.issuer)
        assert page.status == 502


async def test_a_sign_in_that_took_too_long(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        browser = here.browser()
        url = here.provider.sign_in(await here.to_provider(browser), "1", **ALICE)
        await here.place.clock.turn(21 * 60)
        await refused(here, await browser.get(url), 400, "took too long")


async def test_the_answer_of_another_issuer(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        for wrong in ({"iss": "https://evil.example"}, {"iss": None}):
            url = await here.to_provider(browser := here.browser())
            page = await browser.get(here.provider.sign_in(url, "1", wrong=wrong, **ALICE))
            await refused(here, page, 502)
        assert ("POST", "/token") not in here.provider.asked


async def test_one_provider_does_not_speak_for_another(tmp_path: Path) -> None:
    async with both(tmp_path) as first:
        settings = f'[oidc.second]\nissuer = "{first.provider.issuer}"\nclient_id = "other"\n'
        (tmp_path / "2").mkdir()
        async with both(tmp_path / "2", settings) as here:
            browser = here.browser()
            url = here.provider.sign_in(await here.to_provider(browser), "1", **ALICE)
            await refused(here, await browser.get(url.replace("/mock/", "/second/")), 400)


@pytest.mark.parametrize(
    ("error", "words"), [("access_denied", "did not let"), ("server_error", "did not let you sign in")]
)
async def test_who_does_not_sign_in(tmp_path: Path, error: str, words: str) -> None:
    async with both(tmp_path) as here:
        url = await here.to_provider(browser := here.browser())
        url = here.provider.sign_in(url, "1", wrong={"code": None, "error": error})
        await refused(here, await browser.get(url), 403, words)


# -- what the provider publishes


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://evil.example"},
        {"issuer": None},
        {"authorization_endpoint": None},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "http://127.0.0.1/authorize"},
        {"authorization_endpoint": "https://x.example/a b"},
        {"token_endpoint": "http://127.0.0.1:1/token"},
        {"token_endpoint": "https://[::1"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": ["https://x.example"]},
    ],
    ids=str,
)
async def test_documents_that_are_not_right(tmp_path: Path, document: dict[str, Any]) -> None:
    async with both(tmp_path) as here:
        here.provider.document = document
        path = "/_matrix/client/v3/login/sso/redirect/mock"
        page = await here.browser().get(path, redirectUrl="https://app.example/")
        await refused(here, page, 502)
        # It is asked again as soon as it may be right.
        here.provider.document = {}
        await here.to_provider(here.browser())


@pytest.mark.parametrize("place", ["/.well-known/openid-configuration", "/keys", "/token"])
@pytest.mark.parametrize(
    "answer",
    [
        Response(500, b"{}"),
        Response(200, b"[]"),
        Response(200, b"not json"),
        Response(200, b'{"x": "' + b"y" * MAX_DOCUMENT_BYTES + b'"}'),
        Response(302, b"", {"location": "http://127.0.0.1:1/"}),
        Response(302, b"", {"location": "https://10.0.0.1/"}),
    ],
    ids=lambda answer: f"{answer.status} {len(answer.body)}",
)
async def test_answers_that_are_none(tmp_path: Path, place: str, answer: Response) -> None:
    async with both(tmp_path) as here:
        here.provider.instead[place] = answer
        path = "/_matrix/client/v3/login/sso/redirect/mock"
        browser = here.browser()
        page = await browser.get(path, redirectUrl="https://app.example/")
        if browser.left_for:
            page = await browser.get(here.provider.sign_in(browser.left_for, "1", **ALICE))
        await refused(here, page, 502, "does not work at the moment")


async def test_a_private_network_that_the_operator_did_not_name(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        here.provider.document = {"token_endpoint": "https://127.0.0.2:1/token"}
        page = await here.come(here.browser(), "1", **ALICE)
        await refused(here, page, 502)


async def test_the_secret_is_sent_as_the_provider_wants(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        here.provider.document = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
        assert (await here.come(here.browser(), "1", **ALICE)).status == 200


async def test_an_issuer_with_a_path(tmp_path: Path) -> None:
    async with both(tmp_path, path="/realms/one/") as here:
        here.provider.document = {
            "authorization_endpoint": here.provider.issuer + "authorize",
            "token_endpoint": here.provider.issuer.replace("/realms/one/", "/token"),
            "jwks_uri": here.provider.issuer.replace("/realms/one/", "/keys"),
        }
        assert (await here.come(here.browser(), "1", **ALICE)).status == 200
        assert here.provider.asked[0] == ("GET", "/realms/one/.well-known/openid-configuration")


async def test_the_user_info(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        here.provider.userinfo = {"sub": "1", "preferred_username": "alice", "nonce": "x", "iss": "y"}
        page = await here.come(here.browser(), "1")
        assert "@alice:example.org" in page.words
        # It could be about somebody else.
        here.provider.userinfo = {"sub": "1", "preferred_username": "mallory"}
        assert (await here.come(here.browser(), "2")).status == 502
        here.provider.tokens = {"access_token": "a b"}
        assert (await here.come(here.browser(), "1")).status == 502

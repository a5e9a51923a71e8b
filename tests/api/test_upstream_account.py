"""Links of an account to a provider: made and ended on the account page, and who is held against them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from comity.store import accounts, third_party
from comity.store import upstream as stored
from comity.store.database import Database
from comity.store.upstream import Link
from comity.users.administration import Administration
from comity.users.upstream.links import MAX_LINKS
from tests.api.support_browser import Browser, Page
from tests.api.support_provider import Both, both
from tests.api.support_users import InlineOffload, SeededEntropy
from tests.engines import a_driver_of

SIGN_INS = "/_comity/account/sign-ins"
UNLINK = f"{SIGN_INS}/unlink"
ALICE: dict[str, Any] = {"preferred_username": "alice", "email": "alice@example.com"}


async def signed_in(here: Both, name: str) -> Browser:
    """A browser in which somebody with a password is signed in."""
    browser = here.browser()
    await browser.sign_in(name)
    return browser


async def link(here: Both, browser: Browser, subject: str, **fields: str) -> Page:
    """Link that person of the provider to who is signed in."""
    page = await browser.send(await browser.get(SIGN_INS), SIGN_INS, provider="mock", **fields)
    assert page.status == 200, page.words
    assert 'http-equiv="refresh"' in page.text
    return await browser.get(here.provider.sign_in(page.links[-1], subject, **ALICE))


async def links_of(here: Both, user_id: str) -> list[Link]:
    return await here.place.database.read(lambda tx: stored.of_user(tx, user_id))


async def test_linking_and_unlinking(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        alice = await here.place.client("alice")
        browser = await signed_in(here, "alice")
        assert "No other sign-in" in (await browser.get(SIGN_INS)).words
        page = await link(here, browser, "1")
        assert urlsplit(page.url).path == SIGN_INS
        assert "Mock & Co" in page.words and "alice@example.com" in page.words
        assert "@alice:example.org" in (await here.come(here.browser(), "1")).words
        # Again is nothing new.
        await link(here, browser, "1")
        assert len(await links_of(here, alice.user_id)) == 1
        page = await browser.send(await browser.get(SIGN_INS), UNLINK)
        assert "unlinked" in page.words
        assert await links_of(here, alice.user_id) == []
        assert (
            urlsplit((await here.come(here.browser(), "1", **ALICE)).url).path == "/_comity/upstream/choose"
        )


async def test_one_person_has_one_account(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        await here.place.clients("alice", "bob")
        await link(here, await signed_in(here, "alice"), "1")
        page = await link(here, await signed_in(here, "bob"), "1")
        assert page.status == 403 and "another account" in page.words
        assert await links_of(here, "@bob:example.org") == []


async def test_the_last_way_in_stays(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        browser = here.browser()
        await browser.get("/_comity/upstream/mock/begin?then=" + SIGN_INS)
        page = await browser.get(here.provider.sign_in(browser.left_for, "1", **ALICE))
        page = await browser.send(page, UNLINK)
        assert page.status == 403 and "only way" in page.words
        await link(here, browser, "2")
        fields = {"issuer": here.provider.issuer, "subject": "1"}
        csrf = (await browser.get(SIGN_INS)).forms[0].fields["csrf"]
        assert "unlinked" in (await browser.post(UNLINK, {**fields, "csrf": csrf})).words
        assert (await browser.post(UNLINK, {**fields, "csrf": csrf})).status == 404


async def test_a_stranger_at_an_open_browser_links_nothing(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        await here.place.client("alice")
        browser = await signed_in(here, "alice")
        await link(here, browser, "1")
        await here.place.clock.turn(11 * 60)
        page = await browser.get(SIGN_INS)
        assert "Confirm that it is you" in page.words
        for path in (SIGN_INS, UNLINK):
            fields = {**page.forms[0].fields, "provider": "mock"}
            assert (await browser.post(path, fields)).status == 403
            assert (await browser.post(path, {**fields, "password": "wrong"})).status == 403
        await link(here, browser, "2", password="correct horse")
        # Or by signing in again.
        await here.place.clock.turn(11 * 60)
        (again,) = [link for link in (await browser.get(SIGN_INS)).links if "/begin" in link]
        await browser.get(again)
        page = await browser.get(here.provider.sign_in(browser.left_for, "1"))
        assert urlsplit(page.url).path == SIGN_INS and "Confirm that" not in page.words


async def test_nobody_else_links_or_unlinks(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        await here.place.clients("alice", "bob")
        alice, bob = await signed_in(here, "alice"), await signed_in(here, "bob")
        await link(here, alice, "1")
        csrf = (await bob.get(SIGN_INS)).forms[0].fields["csrf"]
        fields = {"issuer": here.provider.issuer, "subject": "1", "csrf": csrf}
        assert (await bob.post(UNLINK, fields)).status == 404
        assert urlsplit((await here.browser().get(SIGN_INS)).url).path == "/_comity/sign-in"
        # What was begun by one does not link the other, who signed in to the browser meanwhile.
        page = await bob.send(await bob.get(SIGN_INS), SIGN_INS, provider="mock")
        url = here.provider.sign_in(page.links[-1], "3")
        bob.cookies = dict(alice.cookies)
        assert (await bob.get(url)).status == 400


async def test_there_are_not_too_many(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        await here.place.client("alice")
        many = [Link("https://x.example", str(n), "@alice:example.org", "", n) for n in range(MAX_LINKS)]
        await here.place.database.write(lambda tx: [stored.insert(tx, one) for one in many])
        page = await link(here, await signed_in(here, "alice"), "1")
        assert page.status == 403 and str(MAX_LINKS) in page.words


async def test_a_newcomer_uses_the_account_that_is_signed_in(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        await here.place.client("alice")
        browser = await signed_in(here, "alice")
        page = await here.come(browser, "1", **ALICE)
        form = next(form for form in page.forms if form.fields.get("signed_in"))
        page = await browser.post(form.action, form.fields)
        assert urlsplit(page.url).path == "/_comity/sso/allow" and "@alice:example.org" in page.words
        # Whoever is not signed in is not believed.
        other = here.browser()
        page = await here.come(other, "2", **ALICE)
        link_form = page.form("/_comity/upstream/link").fields
        assert (await other.post(form.action, {**link_form, "signed_in": "yes"})).status == 403


async def test_the_operator_sees_links_and_ends_them(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        await here.come(here.browser(), "1", **ALICE)
        database = Database(a_driver_of(tmp_path, exclusive=False), 0)
        administration = Administration(
            database, InlineOffload(), here.place.clock, SeededEntropy(2), "example.org"
        )
        try:
            (only,) = (await administration.links())["@alice:example.org"]
            assert (only.issuer, only.subject, only.shown) == (here.provider.issuer, "1", "alice@example.com")
            assert await administration.unlink("alice", here.provider.issuer) == ("@alice:example.org", 1)
            assert await administration.unlink("alice", here.provider.issuer) == ("@alice:example.org", 0)
        finally:
            await database.close()
        assert await links_of(here, "@alice:example.org") == []
        user = await here.place.database.read(lambda tx: accounts.user(tx, "@alice:example.org"))
        assert user is not None


async def test_the_account_page_of_who_has_no_password(tmp_path: Path) -> None:
    async with both(tmp_path) as here:
        browser, begin = here.browser(), "/_comity/upstream/mock/begin?then=/_comity/account/deactivate"
        await browser.get(begin)
        page = await browser.get(here.provider.sign_in(browser.left_for, "1", **ALICE))
        assert "password" not in page.form("/_comity/account/deactivate").fields
        # Later, whoever comes by may not.
        await here.place.clock.turn(11 * 60)
        for path in ("/_comity/account/deactivate", "/_comity/account/identity", "/_comity/account/password"):
            page = await browser.get(path)
            assert [link for link in page.links if "/upstream/mock/begin" in link], path
            fields = {**page.form(path).fields, "new": "correct horse", "again": "correct horse"}
            page = await browser.post(path, {**fields, "password": ""})
            assert page.status == 403 and "sign in again" in page.words, path
        assert await here.place.database.read(lambda tx: accounts.user(tx, "@alice:example.org"))
        # They sign in again, set a password, and end the account with it.
        await browser.get(begin)
        page = await browser.get(here.provider.sign_in(browser.left_for, "1"))
        page = await browser.get("/_comity/account/password")
        assert "Set a password" in page.words
        path = "/_comity/account/password"
        page = await browser.send(page, path, new="correct horse", again="correct horse")
        assert "has been changed" in page.words
        page = await browser.get("/_comity/account/deactivate")
        assert "password" in page.form("/_comity/account/deactivate").fields
        await browser.send(page, "/_comity/account/deactivate", password="correct horse")
        user = await here.place.database.read(lambda tx: accounts.user(tx, "@alice:example.org"))
        assert user is not None and user.deactivated


async def test_newcomers_accept_the_terms(tmp_path: Path) -> None:
    terms = """
[[terms.policies]]
id = "privacy"
version = "1.2"
en = { name = "Privacy", url = "https://example.org/privacy" }
"""
    async with both(tmp_path, terms) as here:
        browser, choose = here.browser(), "/_comity/upstream/choose"
        page = await here.come(browser, "1", **ALICE)
        assert urlsplit(page.url).path == choose
        assert "https://example.org/privacy" in page.links and "Privacy" in page.words
        refused = await browser.send(page, choose)
        assert refused.status == 400 and "accepts the terms" in refused.words
        page = await browser.send(page, choose, terms="yes")
        assert urlsplit(page.url).path == "/_comity/sso/allow"
        accepted = await here.place.database.read(
            lambda tx: third_party.accepted_terms(tx, "@alice:example.org")
        )
        assert accepted == [("privacy", "1.2")]


async def test_a_verified_address_lets_in_where_it_may(tmp_path: Path) -> None:
    async def known(here: Both) -> None:
        await here.place.client("carol")
        new = third_party.ThirdPartyId("email", "alice@example.com", "alice@example.com", 1, 1)
        await here.place.database.write(lambda tx: third_party.add(tx, "@carol:example.org", new))

    claims = ALICE | {"email": "Alice@Example.com", "email_verified": True}
    async with both(tmp_path, 'link_existing = "verified_email"\n') as here:
        await known(here)
        for unsure in (False, None, "true", 1):
            page = await here.come(here.browser(), f"x{unsure}", **claims | {"email_verified": unsure})
            assert "@carol:example.org" not in page.words
        assert "@carol:example.org" in (await here.come(here.browser(), "1", **claims)).words
        # From then on by the link, whatever the address.
        assert "@carol:example.org" in (await here.come(here.browser(), "1")).words
    (tmp_path / "2").mkdir()
    async with both(tmp_path / "2") as here:
        await known(here)
        assert "@alice:example.org" in (await here.come(here.browser(), "1", **claims)).words

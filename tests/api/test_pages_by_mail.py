"""Pages for which a letter is sent: an account with an e-mail address, and the addresses of one."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from comity.store import sessions as stored_sessions
from tests.api.support_browser import Browser
from tests.api.support_email import mail_place

REGISTER, CONFIRMED = "/_comity/register", "/_comity/register/confirmed"
ADDRESSES, ADDED = "/_comity/account/addresses", "/_comity/account/addresses/confirmed"
ALICE = "alice@mail.example"


async def test_an_account_with_an_address(tmp_path: Path) -> None:
    registration = '[registration]\nenabled = true\nrequires = "token"\nrequires_email = true\n'
    async with mail_place(tmp_path, registration=registration) as here:
        await here.database.write(
            lambda tx: tx.run("INSERT INTO registration_tokens (token, uses_allowed) VALUES ('letmein', 1)")
        )
        browser = Browser(here.app)
        page = await browser.get(REGISTER)
        assert "password" not in page.form(REGISTER).fields
        wrong = await browser.send(page, REGISTER, username="bob", email="bob@mail.example", token="wrong")
        assert wrong.status == 401 and here.box.came == []
        page = await browser.send(page, REGISTER, username="bob", email="bob@mail.example", token="letmein")
        assert "on its way" in page.words
        fields = {"password": "battery", "again": "battery"}
        page = await browser.send(page, CONFIRMED, **fields)
        assert page.status == 401 and urlsplit(page.url).path == CONFIRMED
        await here.confirm("bob@mail.example", Browser(here.app))
        page = await browser.send(page, CONFIRMED, password="battery", again="staple")
        assert page.status == 400 and "not the same" in page.words
        page = await browser.send(page, CONFIRMED, **fields)
        assert urlsplit(page.url).path == "/_comity/account" and "@bob:example.org" in page.words
        assert urlsplit((await Browser(here.app).sign_in("bob", "battery")).url).path == "/_comity/account"


async def test_the_pages_of_others_accounts_are_not_made_by_a_name_that_is_taken(tmp_path: Path) -> None:
    registration = '[registration]\nenabled = true\nrequires = "nothing"\nrequires_email = true\n'
    async with mail_place(tmp_path, registration=registration) as here:
        browser = Browser(here.app)
        page = await browser.get(REGISTER)
        page = await browser.send(page, REGISTER, username="a b", email="bob@mail.example")
        assert page.status == 400 and here.box.came == []
        page = await browser.send(page, REGISTER, username="bob", email="")
        assert page.status == 400 and "lacks email" in page.words


async def test_terms_are_accepted_first(tmp_path: Path) -> None:
    terms = (
        '[[terms.policies]]\nid = "privacy"\nversion = "1"\n'
        'en = { name = "Privacy", url = "https://example.org/privacy" }\n'
    )
    registration = '[registration]\nenabled = true\nrequires = "nothing"\n' + terms
    async with mail_place(tmp_path, registration=registration) as here:
        browser = Browser(here.app)
        page = await browser.get(REGISTER)
        assert "Privacy" in page.words and "https://example.org/privacy" in page.links
        fields = {"username": "carol", "password": "battery", "again": "battery"}
        page = await browser.send(page, REGISTER, **fields)
        assert page.status == 400 and "accepts the terms" in page.words
        page = await browser.send(page, REGISTER, **fields, terms="yes")
        assert urlsplit(page.url).path == "/_comity/account"


async def test_addresses_of_ones_account(tmp_path: Path) -> None:
    async with mail_place(tmp_path) as here:
        alice, browser = await here.client("alice"), Browser(here.app)
        await browser.sign_in("alice")
        page = await browser.get(ADDRESSES)
        assert "There are none" in page.words
        page = await browser.send(page, ADDRESSES, email=ALICE)
        assert "on its way" in page.words
        page = await browser.send(page, ADDED, password="correct horse")
        assert page.status == 400 and await here.addresses(alice) == []
        await here.confirm(ALICE, Browser(here.app))
        page = await browser.send(page, ADDED, password="wrong")
        assert page.status == 401 and "wrong" in page.words
        page = await browser.send(page, ADDED, password="correct horse")
        assert "has been added" in page.words and await here.addresses(alice) == [ALICE]
        page = await browser.send(page, f"{ADDRESSES}/remove")
        assert "has been removed" in page.words and await here.addresses(alice) == []
        page = await browser.send(page, ADDRESSES, email="no address")
        assert page.status == 400


async def test_who_is_suspended_changes_no_address(tmp_path: Path) -> None:
    async with mail_place(tmp_path) as here:
        alice, browser = await here.client("alice"), Browser(here.app)
        await here.add(alice, ALICE)
        await browser.sign_in("alice")
        await here.database.write(
            lambda tx: stored_sessions.set_moderation(tx, alice.user_id, suspended=True, locked=False)
        )
        page = await browser.get(ADDRESSES)
        for path, fields in ((ADDRESSES, {"email": "other@mail.example"}), (f"{ADDRESSES}/remove", {})):
            answer = await browser.send(page, path, **fields)
            assert answer.status == 403 and "suspended" in answer.words

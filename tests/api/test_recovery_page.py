"""A new password on the pages, by a letter; and signing in to them by an address."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.api.support_browser import ORIGIN, Browser
from tests.api.support_email import MailPlace, mail_place
from tests.api.support_rooms import Client

ADDRESS = "alice@mail.example"
RECOVER, SET, SIGN_IN = "/_comity/recover", "/_comity/recover/password", "/_comity/sign-in"


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[MailPlace]:
    async with mail_place(tmp_path) as opened:
        yield opened


@pytest.fixture
async def alice(here: MailPlace) -> Client:
    client = await here.client("alice")
    await here.add(client, ADDRESS)
    return client


async def test_a_new_password_by_a_letter(here: MailPlace, alice: Client) -> None:
    browser, other = Browser(here.app), Browser(here.app)
    page = await browser.send(await browser.get(RECOVER), RECOVER, email=" Alice@Mail.example ")
    assert page.status == 200 and "Alice@Mail.example" in page.words
    early = await browser.send(page, SET, new="better horse", again="better horse")
    assert early.status == 401 and "not confirmed yet" in early.words
    # The letter may be read on another machine.
    assert (await here.confirm(ADDRESS, other)).status == 200
    unlike = await browser.send(early, SET, new="better horse", again="bitter horse")
    assert unlike.status == 400 and "not the same" in unlike.words
    done = await browser.send(unlike, SET, new="better horse", again="better horse")
    assert done.status == 200 and alice.user_id in done.words
    (await alice.ask("GET", "/account/whoami")).failed(401, "M_UNKNOWN_TOKEN")
    assert (await browser.sign_in("alice", "correct horse")).status == 403
    assert (await browser.sign_in("alice", "better horse")).url != ORIGIN + SIGN_IN


async def test_another_browser_sets_nothing(here: MailPlace, alice: Client) -> None:
    browser, thief = Browser(here.app), Browser(here.app)
    page = await browser.send(await browser.get(RECOVER), RECOVER, email=ADDRESS)
    await here.confirm(ADDRESS)
    theirs = await thief.get(RECOVER)
    fields = {**page.form(SET).fields, **theirs.form(RECOVER).fields, "new": "b", "again": "b"}
    taken = await thief.post(SET, fields)
    assert taken.status == 400 and "not been confirmed" in taken.words
    (await alice.ask("GET", "/account/whoami")).ok()


async def test_who_has_no_account_is_told_by_letter_alone(here: MailPlace, alice: Client) -> None:
    browser = Browser(here.app)
    pages = [
        await browser.send(await browser.get(RECOVER), RECOVER, email=email)
        for email in (ADDRESS, "bobby@mail.example")
    ]
    told = [page.words.replace(ADDRESS, "").replace("bobby@mail.example", "") for page in pages]
    assert told[0] == told[1] and {page.status for page in pages} == {200}
    assert "no account" in here.box.newest("bobby@mail.example")
    wrong = await browser.send(await browser.get(RECOVER), RECOVER, email="no address")
    assert wrong.status == 400 and "looks like user@example.org" in wrong.words


async def test_each_time_another_letter(here: MailPlace, alice: Client) -> None:
    browser = Browser(here.app)
    here.box.came.clear()
    for _ in range(2):
        await here.clock.turn(60)
        await browser.send(await browser.get(RECOVER), RECOVER, email=ADDRESS)
    assert [to for to, _ in here.box.came] == [ADDRESS, ADDRESS]


async def test_signing_in_by_an_address(here: MailPlace, alice: Client) -> None:
    browser = Browser(here.app)
    assert (await browser.sign_in("nobody@mail.example")).status == 403
    assert (await browser.sign_in("Alice@Mail.example")).url != ORIGIN + SIGN_IN

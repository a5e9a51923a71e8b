"""Proving an e-mail address: letters, links, codes (client-server …/email/requestToken)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comity.store import validation
from comity.users.rate_limits import FREE_FAILURES_OF_ADDRESS
from comity.users.validation import LIFETIME_MS, MAX_FAILURES
from tests.api.support_browser import Browser
from tests.api.support_email import CONFIRM, SUBMIT, MailPlace, mail_place
from tests.api.support_rooms import place
from tests.mailbox import text_of

ADDRESS = "alice@mail.example"
KINDS = ("register", "account/3pid", "account/password")


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[MailPlace]:
    async with mail_place(tmp_path) as opened:
        yield opened


async def is_proven(here: MailPlace, sid: str) -> bool:
    found = await here.database.look_up(lambda tx: validation.find(tx, sid))
    assert found is not None
    return found.validated_at is not None


# -- letters


async def test_a_letter_brings_a_link_and_a_code(here: MailPlace) -> None:
    answer = (await here.request("register", ADDRESS)).ok()
    assert answer["submit_url"] == f"https://example.org{SUBMIT}"
    ((to, letter),) = here.box.came
    assert (to, letter["To"], letter["From"]) == (ADDRESS, ADDRESS, "Example <noreply@example.org>")
    assert here.box.senders == ["noreply@example.org"]
    text = text_of(letter)
    assert "to make an account at example.org" in text and here.code(ADDRESS) in text
    html = letter.get_body(("html",))
    assert html is not None
    assert (
        here.code(ADDRESS) in html.get_content()
        and f'href="https://example.org{CONFIRM}' in html.get_content()
    )
    # Whoever reads the letter learns nothing that the client holds.
    assert "monkeys" not in text


async def test_opening_the_link_proves_nothing_and_the_button_does(here: MailPlace) -> None:
    sid = (await here.request("register", ADDRESS)).ok()["sid"]
    for _ in range(3):
        page = await Browser(here.app).get(here.link(ADDRESS))
        assert page.status == 200 and ADDRESS in page.words and "An account is being made" in page.words
    assert not await is_proven(here, sid)
    page = await here.confirm(ADDRESS)
    assert "is confirmed" in page.words and page.status == 200
    assert await is_proven(here, sid)
    assert (await here.confirm(ADDRESS)).status == 200  # people press twice


async def test_a_form_of_another_site_proves_nothing(here: MailPlace) -> None:
    sid = (await here.request("register", ADDRESS)).ok()["sid"]
    page = await Browser(here.app).post(CONFIRM, {"sid": sid, "code": here.code(ADDRESS)})
    assert page.status == 403
    assert not await is_proven(here, sid)


async def test_a_client_hands_the_code_in(here: MailPlace) -> None:
    sid = (await here.request("register", ADDRESS)).ok()["sid"]
    body = {"sid": sid, "client_secret": "monkeys", "token": here.code(ADDRESS)}
    (await here.ask("POST", SUBMIT, {**body, "token": "wrong"})).failed(400, "M_TOKEN_INCORRECT")
    (await here.ask("POST", SUBMIT, {**body, "client_secret": "other"})).failed(404, "M_NO_VALID_SESSION")
    (await here.ask("POST", SUBMIT, {**body, "sid": "other"})).failed(404, "M_NO_VALID_SESSION")
    (await here.ask("POST", SUBMIT, {**body, "sid": "a b"})).failed(400, "M_INVALID_PARAM")
    (await here.ask("POST", SUBMIT, {**body, "token": "a" * 300})).failed(400, "M_INVALID_PARAM")
    (await here.ask("POST", SUBMIT, {"sid": sid, "token": "a"})).failed(400, "M_MISSING_PARAM")
    assert not await is_proven(here, sid)
    assert (await here.ask("POST", SUBMIT, body)).ok() == {"success": True}
    assert await is_proven(here, sid)


async def test_a_letter_is_sent_once_for_each_attempt(here: MailPlace) -> None:
    sid = (await here.request("register", ADDRESS, attempt=2)).ok()["sid"]
    first = here.code(ADDRESS)
    for attempt in (1, 2):
        assert (await here.request("register", ADDRESS, attempt=attempt)).ok()["sid"] == sid
    assert len(here.box.came) == 1
    assert (await here.request("register", ADDRESS, attempt=3)).ok()["sid"] == sid
    assert len(here.box.came) == 2
    # The newest letter counts.
    body = {"sid": sid, "client_secret": "monkeys"}
    (await here.ask("POST", SUBMIT, {**body, "token": first})).failed(400, "M_TOKEN_INCORRECT")
    (await here.ask("POST", SUBMIT, {**body, "token": here.code(ADDRESS)})).ok()
    # Another secret, another session; and so is what it is for.
    others = [
        (await here.request("register", ADDRESS, "gorillas")).ok()["sid"],
        (await here.request("account/3pid", ADDRESS)).ok()["sid"],
    ]
    assert len({sid, *others}) == 3 and len(here.box.came) == 4


async def test_a_letter_that_is_not_sent_may_be_asked_for_again(here: MailPlace) -> None:
    here.box.answer_to_letter = "451 not now"
    (await here.request("register", ADDRESS)).failed(400, "M_EMAIL_SEND_ERROR")
    here.box.answer_to_letter = ""
    sid = (await here.request("register", ADDRESS)).ok()["sid"]
    here.box.answer_to_letter = "451 not now"
    (await here.request("register", ADDRESS, attempt=2)).failed(400, "M_EMAIL_SEND_ERROR")
    here.box.answer_to_letter = ""
    assert (await here.request("register", ADDRESS, attempt=2)).ok()["sid"] == sid
    assert len(here.box.came) == 2
    await here.confirm(ADDRESS)
    assert await is_proven(here, sid)


# -- guessing, and time


async def test_a_code_is_not_guessed(here: MailPlace) -> None:
    sid = (await here.request("register", ADDRESS)).ok()["sid"]
    body = {"sid": sid, "client_secret": "monkeys"}
    for number in range(MAX_FAILURES):
        guess = {**body, "token": f"guess{number}"}
        (await here.ask("POST", SUBMIT, guess)).failed(400, "M_TOKEN_INCORRECT")
    right = {**body, "token": here.code(ADDRESS)}
    (await here.ask("POST", SUBMIT, right)).failed(400, "M_SESSION_EXPIRED")
    assert (await Browser(here.app).get(here.link(ADDRESS))).status == 400
    # A new letter, a new chance.
    (await here.request("register", ADDRESS, attempt=2)).ok()
    (await here.ask("POST", SUBMIT, {**body, "token": here.code(ADDRESS)})).ok()


async def test_who_guesses_waits(tmp_path: Path) -> None:
    async with mail_place(tmp_path, limits="") as here:
        body = {"client_secret": "monkeys", "sid": "s1", "token": "wrong"}
        for _ in range(FREE_FAILURES_OF_ADDRESS):
            (await here.ask("POST", SUBMIT, body)).failed(404, "M_NO_VALID_SESSION")
        (await here.ask("POST", SUBMIT, body)).failed(429, "M_LIMIT_EXCEEDED")
        assert (await Browser(here.app).get(CONFIRM, sid="s1", token="wrong")).status == 429


async def test_sessions_end(here: MailPlace) -> None:
    sid = (await here.request("register", ADDRESS)).ok()["sid"]
    link = here.link(ADDRESS)
    await here.clock.turn(LIFETIME_MS / 1000)
    page = await Browser(here.app).get(link)
    assert page.status == 400 and "ask for a new letter" in page.words
    body = {"sid": sid, "client_secret": "monkeys", "token": here.code(ADDRESS)}
    (await here.ask("POST", SUBMIT, body)).failed(400, "M_SESSION_EXPIRED")
    # The same attempt begins anew, and what is over is forgotten.
    assert (await here.request("register", ADDRESS)).ok()["sid"] != sid
    assert len(here.box.came) == 2
    (await here.ask("POST", SUBMIT, body)).failed(404, "M_NO_VALID_SESSION")


async def test_sessions_are_bounded(here: MailPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comity.users.validation.MAX_SESSIONS", 2)
    sids = []
    for number in range(3):
        await here.clock.turn(1)
        sids.append((await here.request("register", f"a{number}@mail.example")).ok()["sid"])
    found = [await here.database.look_up(lambda tx, sid=sid: validation.find(tx, sid)) for sid in sids]  # type: ignore[misc]
    assert [each is not None for each in found] == [False, True, True]


# -- what is asked for


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"client_secret": None}, "M_MISSING_PARAM"),
        ({"email": None}, "M_MISSING_PARAM"),
        ({"send_attempt": None}, "M_MISSING_PARAM"),
        ({"client_secret": 5}, "M_BAD_JSON"),
        ({"send_attempt": "1"}, "M_BAD_JSON"),
        ({"send_attempt": True}, "M_BAD_JSON"),
        ({"send_attempt": -1}, "M_INVALID_PARAM"),
        ({"client_secret": "a b"}, "M_INVALID_PARAM"),
        ({"client_secret": ""}, "M_INVALID_PARAM"),
        ({"client_secret": "a" * 256}, "M_INVALID_PARAM"),
        ({"email": "alice"}, "M_INVALID_PARAM"),
        ({"email": "Alice <alice@mail.example>"}, "M_INVALID_PARAM"),
        ({"email": "alice@mail.example\r\nBcc: eve@mail.example"}, "M_INVALID_PARAM"),
        ({"email": "alice@mail.example, eve@mail.example"}, "M_INVALID_PARAM"),
        ({"email": "alice@-mail.example"}, "M_INVALID_PARAM"),
        ({"email": f"{'a' * 65}@mail.example"}, "M_INVALID_PARAM"),
        ({"next_link": 5}, "M_BAD_JSON"),
        ({"next_link": "javascript:alert(1)"}, "M_INVALID_PARAM"),
        ({"next_link": "//mail.example/"}, "M_INVALID_PARAM"),
        ({"next_link": "https://user@mail.example/"}, "M_INVALID_PARAM"),
        ({"next_link": "https://mail.example\\@eve.example/"}, "M_INVALID_PARAM"),
        ({"next_link": 'https://mail.example/"><script>'}, "M_INVALID_PARAM"),
        ({"next_link": "https://[mail.example/"}, "M_INVALID_PARAM"),
        ({"next_link": "https://mail.example/" + "a" * 2000}, "M_INVALID_PARAM"),
    ],
)
async def test_requests_that_make_no_sense(
    here: MailPlace, kind: str, changed: dict[str, Any], code: str
) -> None:
    body = {"client_secret": "monkeys", "email": ADDRESS, "send_attempt": 1, **changed}
    body = {name: value for name, value in body.items() if value is not None}
    (await here.ask("POST", f"/{kind}/email/requestToken", body)).failed(400, code)
    assert here.box.came == []


async def test_the_next_page_is_named_and_then_opened(here: MailPlace) -> None:
    there = "https://app.mail.example:8443/done?a=b&c=d"
    (await here.request("register", ADDRESS, next_link=there)).ok()
    browser = Browser(here.app)
    page = await browser.get(here.link(ADDRESS))
    assert "You will then be taken to app.mail.example:8443" in page.words
    page = await browser.send(page, CONFIRM)
    assert there in page.links
    assert (
        '<meta http-equiv="refresh" content="2; url=https://app.mail.example:8443/done?a=b&amp;c=d">'
        in page.text
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_no_text_messages(here: MailPlace, kind: str) -> None:
    body = {"client_secret": "monkeys", "country": "GB", "phone_number": "07700900001", "send_attempt": 1}
    answer = await here.ask("POST", f"/{kind}/msisdn/requestToken", body)
    answer.failed(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")


async def test_no_letters_without_a_mail_server(tmp_path: Path) -> None:
    async with place(tmp_path) as alone:
        alice = await alone.client("alice")
        body = {"client_secret": "monkeys", "email": ADDRESS, "send_attempt": 1}
        for kind in KINDS:
            answer = await alice.ask("POST", f"/{kind}/email/requestToken", body)
            answer.failed(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")
        capabilities = (await alice.ask("GET", "/capabilities")).ok()["capabilities"]
        assert capabilities["m.3pid_changes"] == {"enabled": False}


async def test_only_addresses_that_the_operator_takes(tmp_path: Path) -> None:
    async with mail_place(tmp_path, settings='allow_addresses = ["*@Mail.example"]') as here:
        (await here.request("register", "ALICE@MAIL.example")).ok()
        (await here.request("register", "alice@other.example")).failed(403, "M_THREEPID_DENIED")
        assert [to for to, _ in here.box.came] == ["ALICE@MAIL.example"]


# -- who is known here is told to nobody else


async def test_whether_an_address_is_known_is_told_to_its_owner_alone(here: MailPlace) -> None:
    alice, bob = await here.client("alice"), await here.client("bob")
    await here.add(alice, "Alice@mail.example")
    here.box.came.clear()
    known = (await here.request("register", "alice@MAIL.example")).ok()
    strange = (await here.request("register", "nobody@mail.example")).ok()
    assert known.keys() == strange.keys()
    # As its owner wrote it, and without a link.
    text = here.box.newest("Alice@mail.example")
    assert alice.user_id in text and "https://" not in text
    added = (await here.request("account/3pid", ADDRESS, token=bob.token)).ok()
    assert added.keys() == known.keys()
    assert "https://" not in here.box.newest("Alice@mail.example")
    # Her own she may be told of.
    answer = await here.request("account/3pid", ADDRESS, "gorillas", token=alice.token)
    answer.failed(400, "M_THREEPID_IN_USE")
    reset = (await here.request("account/password", "nobody@mail.example")).ok()
    assert reset.keys() == known.keys()
    text = here.box.newest("nobody@mail.example")
    assert "no account" in text and "https://" not in text


async def test_letters_are_limited(tmp_path: Path) -> None:
    async with mail_place(tmp_path, limits="") as here:
        for attempt in range(4):
            (await here.request("register", ADDRESS, attempt=attempt + 1)).ok()
        (await here.request("account/3pid", ADDRESS.upper(), attempt=5)).failed(429, "M_LIMIT_EXCEEDED")
        for number in range(4):
            (await here.request("register", f"a{number}@mail.example")).ok()
        # What sends no letter is not counted; then the network address has asked for enough.
        (await here.request("register", "a0@mail.example")).ok()
        (await here.request("register", "a8@mail.example")).ok()
        (await here.request("register", "a9@mail.example")).failed(429, "M_LIMIT_EXCEEDED")

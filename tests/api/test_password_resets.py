"""A new password for who has forgotten theirs (client-server §POST /account/password, without a token)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.support_browser import Browser
from tests.api.support_email import MailPlace, mail_place
from tests.api.support_rooms import Client, place
from tests.api.support_users import Answer

ADDRESS = "alice@mail.example"
EMAIL = "m.login.email.identity"
NEW = "better horse"


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[MailPlace]:
    async with mail_place(tmp_path) as opened:
        yield opened


@pytest.fixture
async def alice(here: MailPlace) -> Client:
    client = await here.client("alice")
    await here.add(client, ADDRESS)
    return client


async def reset(here: MailPlace, credentials: object, token: str | None = None, **more: Any) -> Answer:
    body = {"new_password": NEW, "auth": {"type": EMAIL, "threepid_creds": credentials}, **more}
    return await here.ask("POST", "/account/password", body, token)


async def log_in(here: MailPlace, password: str, user: str = "alice") -> Answer:
    identifier = {"type": "m.id.user", "user": user}
    body = {"type": "m.login.password", "identifier": identifier, "password": password}
    return await here.ask("POST", "/login", body)


async def test_a_new_password_by_a_letter(here: MailPlace, alice: Client) -> None:
    challenge = await here.ask("POST", "/account/password", {"new_password": NEW})
    assert challenge.status == 401 and challenge.body["flows"] == [{"stages": [EMAIL]}]
    session = challenge.body["session"]
    asked = (await here.request("account/password", ADDRESS.upper())).ok()
    credentials = {"sid": asked["sid"], "client_secret": "monkeys"}
    auth = {"type": EMAIL, "threepid_creds": credentials, "session": session}
    for _ in range(12):
        (await reset(here, None, auth=auth)).failed(401, "M_UNAUTHORIZED")
    assert f"to set a new password for the account {alice.user_id}" in here.box.newest(ADDRESS)
    assert "only if that was you" in here.box.newest(ADDRESS)
    assert "only if that is you" in (await Browser(here.app).get(here.link(ADDRESS))).words
    page = await here.confirm(ADDRESS)
    assert "is confirmed" in page.words
    (await reset(here, None, auth=auth)).ok()
    (await log_in(here, "correct horse")).failed(403, "M_FORBIDDEN")
    (await log_in(here, NEW)).ok()
    # Every device is logged out, and the proof used up.
    (await alice.ask("GET", "/account/whoami")).failed(401, "M_UNKNOWN_TOKEN")
    (await reset(here, credentials)).failed(401, "M_THREEPID_AUTH_FAILED")


async def test_devices_stay_if_they_are_to(here: MailPlace, alice: Client) -> None:
    credentials = await here.proven("account/password", ADDRESS)
    (await reset(here, credentials, logout_devices=False)).ok()
    (await alice.ask("GET", "/account/whoami")).ok()
    (await log_in(here, NEW)).ok()


async def test_who_is_logged_in_has_both_ways(here: MailPlace, alice: Client) -> None:
    bob = await here.client("bob")
    challenge = await alice.ask("POST", "/account/password", {"new_password": NEW})
    assert challenge.body["flows"] == [{"stages": ["m.login.password"]}]
    credentials = await here.proven("account/password", ADDRESS)
    # Another's address changes nothing of one's own account, nor of the other's.
    (await reset(here, credentials, bob.token)).failed(401, "M_THREEPID_AUTH_FAILED")
    (await reset(here, credentials, alice.token)).ok()
    (await alice.ask("GET", "/account/whoami")).ok()
    (await log_in(here, NEW)).ok()
    (await log_in(here, "correct horse", "bob")).ok()


async def test_what_proves_nothing(here: MailPlace, alice: Client) -> None:
    credentials = await here.proven("account/password", ADDRESS)
    for wrong in (
        {**credentials, "client_secret": "other"},
        {**credentials, "sid": "other"},
        await here.proven("account/3pid", "other@mail.example"),
        await here.proven("register", "other@mail.example"),
    ):
        (await reset(here, wrong)).failed(401, "M_THREEPID_AUTH_FAILED")
    (await reset(here, None)).failed(401, "M_MISSING_PARAM")
    (await log_in(here, "correct horse")).ok()


async def test_an_address_that_was_taken_away_proves_nothing(here: MailPlace, alice: Client) -> None:
    credentials = await here.proven("account/password", ADDRESS)
    (await alice.ask("POST", "/account/3pid/delete", {"medium": "email", "address": ADDRESS})).ok()
    (await reset(here, credentials)).failed(401, "M_THREEPID_AUTH_FAILED")
    (await log_in(here, "correct horse")).ok()


async def test_the_letter_goes_where_it_was_proven(here: MailPlace) -> None:
    client = await here.client("alice")
    await here.add(client, "Strauß@Mail.example")
    (await here.request("account/password", "strauss@mail.example")).ok()
    assert here.box.came[-1][0] == "Strauß@Mail.example"


async def test_a_password_that_cannot_be(here: MailPlace, alice: Client) -> None:
    credentials = await here.proven("account/password", ADDRESS)
    (await reset(here, credentials, new_password=5)).failed(400, "M_BAD_JSON")
    (await reset(here, credentials, new_password="")).failed(400, "M_INVALID_PARAM")
    (await reset(here, credentials)).ok()


async def test_without_letters_a_token_is_needed(tmp_path: Path) -> None:
    async with place(tmp_path) as alone:
        alice = await alone.client("alice")
        alice.token = ""
        answer = await alice.ask("POST", "/account/password", {"new_password": NEW})
        answer.failed(401, "M_MISSING_TOKEN")

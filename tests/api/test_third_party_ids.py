"""Addresses of accounts: added, taken away, known to identity servers, good for logging in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comity.config import signing_key
from comity.protocol.event import decode_base64
from comity.store import third_party
from comity.users.administration import Administration
from comity.users.errands import LOOK_SECONDS
from tests.api.identity_server import NAME, TOKEN, IdentityServer
from tests.api.support_browser import Browser
from tests.api.support_email import MailPlace, mail_place
from tests.api.support_rooms import Client, until_waiting
from tests.api.support_users import Answer, InlineOffload, SeededEntropy

ADDRESS = "alice@mail.example"
PASSWORD = {"type": "m.login.password", "password": "correct horse"}
EMAIL = {"medium": "email", "address": ADDRESS}


@pytest.fixture
def identity() -> IdentityServer:
    return IdentityServer(proven={("s1", "secret"): ADDRESS, ("s2", "secret"): "second@mail.example"})


@pytest.fixture
async def here(tmp_path: Path, identity: IdentityServer) -> AsyncIterator[MailPlace]:
    async with mail_place(tmp_path, outbound=identity) as opened:
        key = signing_key.read(tmp_path / "signing.key")
        identity.homeserver = ("example.org", decode_base64(key.public))
        yield opened


@pytest.fixture
async def alice(here: MailPlace) -> Client:
    return await here.client("alice")


async def bind(client: Client, sid: str = "s1", **changed: Any) -> Answer:
    body = {"sid": sid, "client_secret": "secret", "id_server": NAME, "id_access_token": TOKEN, **changed}
    body = {name: value for name, value in body.items() if value is not None}
    return await client.ask("POST", "/account/3pid/bind", body)


# -- one's own


async def test_adding_an_address_takes_proof_and_password(here: MailPlace, alice: Client) -> None:
    assert await here.addresses(alice) == []
    sid = (await here.request("account/3pid", "Alice@Mail.example", token=alice.token)).ok()["sid"]
    assert f"to the account {alice.user_id} at" in here.box.newest("Alice@Mail.example")
    body = {"sid": sid, "client_secret": "monkeys"}
    # Not yet confirmed: said before a password is asked for.
    (await alice.ask("POST", "/account/3pid/add", body)).failed(400, "M_THREEPID_AUTH_FAILED")
    assert alice.user_id in (await Browser(here.app).get(here.link("Alice@Mail.example"))).words
    await here.confirm("Alice@Mail.example")
    challenge = await alice.ask("POST", "/account/3pid/add", body)
    assert challenge.status == 401 and challenge.body["flows"] == [{"stages": ["m.login.password"]}]
    wrong = {**body, "auth": {**PASSWORD, "password": "wrong"}}
    (await alice.ask("POST", "/account/3pid/add", wrong)).failed(401, "M_FORBIDDEN")
    assert await here.addresses(alice) == []
    assert (await alice.ask("POST", "/account/3pid/add", {**body, "auth": PASSWORD})).ok() == {}
    assert await here.addresses(alice) == [ADDRESS]
    # A proof is good once.
    again = await alice.ask("POST", "/account/3pid/add", {**body, "auth": PASSWORD})
    again.failed(400, "M_THREEPID_AUTH_FAILED")


async def test_a_proof_is_of_who_asked_for_it(here: MailPlace, alice: Client) -> None:
    bob = await here.client("bob")
    credentials = await here.proven("account/3pid", ADDRESS, token=alice.token)
    taken = await bob.ask("POST", "/account/3pid/add", {**credentials, "auth": PASSWORD})
    taken.failed(400, "M_THREEPID_AUTH_FAILED")
    # What was proven to make an account, or for a new password, adds nothing.
    to_register = await here.proven("register", "other@mail.example")
    answer = await alice.ask("POST", "/account/3pid/add", {**to_register, "auth": PASSWORD})
    answer.failed(400, "M_THREEPID_AUTH_FAILED")
    await here.add(alice, ADDRESS)
    to_reset = await here.proven("account/password", ADDRESS)
    answer = await alice.ask("POST", "/account/3pid/add", {**to_reset, "auth": PASSWORD})
    answer.failed(400, "M_THREEPID_AUTH_FAILED")
    for wrong in ({"sid": "a"}, {"client_secret": "a"}, {}):
        answer = await alice.ask("POST", "/account/3pid/add", {**wrong, "auth": PASSWORD})
        answer.failed(400, "M_MISSING_PARAM")


async def test_an_address_is_one_account_s(here: MailPlace, alice: Client) -> None:
    bob = await here.client("bob")
    theirs = await here.proven("account/3pid", ADDRESS, "of-bob", token=bob.token)
    await here.add(alice, ADDRESS.upper())
    answer = await bob.ask("POST", "/account/3pid/add", {**theirs, "auth": PASSWORD})
    answer.failed(400, "M_THREEPID_IN_USE")
    assert await here.addresses(bob) == []


async def test_addresses_are_bounded(here: MailPlace, alice: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comity.users.third_party_ids.MAX_ADDRESSES", 1)
    await here.add(alice, ADDRESS)
    credentials = await here.proven("account/3pid", "second@mail.example")
    answer = await alice.ask("POST", "/account/3pid/add", {**credentials, "auth": PASSWORD})
    answer.failed(400, "M_LIMIT_EXCEEDED")


async def test_the_older_way_needs_the_password_too(here: MailPlace, alice: Client) -> None:
    credentials = await here.proven("account/3pid", ADDRESS, token=alice.token)
    body = {"three_pid_creds": credentials}
    assert (await alice.ask("POST", "/account/3pid", body)).status == 401
    (await alice.ask("POST", "/account/3pid", {**body, "auth": PASSWORD})).ok()
    assert await here.addresses(alice) == [ADDRESS]
    (await alice.ask("POST", "/account/3pid", {})).failed(400, "M_MISSING_PARAM")
    answer = await alice.ask("POST", "/account/3pid", {**body, "auth": PASSWORD})
    answer.failed(403, "M_THREEPID_AUTH_FAILED")


async def test_the_older_way_binds_what_an_identity_server_has_seen(
    here: MailPlace, alice: Client, identity: IdentityServer
) -> None:
    credentials = {"sid": "s1", "client_secret": "secret", "id_server": NAME, "id_access_token": TOKEN}
    (await alice.ask("POST", "/account/3pid", {"three_pid_creds": credentials})).ok()
    assert identity.bound == {ADDRESS: alice.user_id}
    assert await here.addresses(alice) == []


async def test_taking_an_address_away(here: MailPlace, alice: Client) -> None:
    bob = await here.client("bob")
    await here.add(alice, ADDRESS)
    (await bob.ask("POST", "/account/3pid/delete", EMAIL)).ok()
    assert await here.addresses(alice) == [ADDRESS]
    answer = await alice.ask("POST", "/account/3pid/delete", {**EMAIL, "address": ADDRESS.upper()})
    # No identity server knows it.
    assert answer.ok() == {"id_server_unbind_result": "no-support"}
    assert await here.addresses(alice) == []
    await here.add(bob, ADDRESS)
    for wrong, code in (
        ({"medium": "email"}, "M_MISSING_PARAM"), ({"address": ADDRESS}, "M_MISSING_PARAM"),
        ({"medium": "fax", "address": "1"}, "M_INVALID_PARAM"), ({**EMAIL, "address": 5}, "M_BAD_JSON"),
        ({**EMAIL, "id_server": 5}, "M_BAD_JSON"), ({**EMAIL, "id_server": ""}, "M_INVALID_PARAM"),
    ):  # fmt: skip
        for path in ("delete", "unbind"):
            (await alice.ask("POST", f"/account/3pid/{path}", wrong)).failed(400, code)


async def test_logging_in_by_an_address(here: MailPlace, alice: Client) -> None:
    await here.add(alice, ADDRESS)
    for named in (
        {"identifier": {"type": "m.id.thirdparty", "medium": "email", "address": "Alice@MAIL.example"}},
        {"medium": "email", "address": ADDRESS},
    ):
        body = {"type": "m.login.password", "password": "correct horse", **named}
        answer = await here.ask("POST", "/login", body)
        assert answer.ok()["user_id"] == alice.user_id
        wrong = {**body, "password": "wrong"}
        (await here.ask("POST", "/login", wrong)).failed(403, "M_FORBIDDEN")
    for address in ("nobody@mail.example", "no address"):
        identifier = {"type": "m.id.thirdparty", "medium": "email", "address": address}
        body = {"type": "m.login.password", "password": "correct horse", "identifier": identifier}
        (await here.ask("POST", "/login", body)).failed(403, "M_FORBIDDEN")
    phone = {"type": "m.id.phone", "country": "GB", "phone": "07700900001"}
    body = {"type": "m.login.password", "password": "correct horse", "identifier": phone}
    (await here.ask("POST", "/login", body)).failed(403, "M_FORBIDDEN")


async def test_proving_by_an_address_who_one_is(here: MailPlace, alice: Client) -> None:
    bob = await here.client("bob")
    await here.add(alice, ADDRESS)
    for client, status in ((alice, 200), (bob, 403)):
        identifier = {"type": "m.id.thirdparty", "medium": "email", "address": ADDRESS}
        auth = {"type": "m.login.password", "password": "correct horse", "identifier": identifier}
        answer = await client.ask("POST", "/delete_devices", {"devices": [], "auth": auth})
        assert answer.status == status


async def test_letters_make_addresses_a_capability(alice: Client) -> None:
    capabilities = (await alice.ask("GET", "/capabilities")).ok()["capabilities"]
    assert capabilities["m.3pid_changes"] == {"enabled": True}


# -- identity servers


async def test_binding_and_unbinding(alice: Client, identity: IdentityServer) -> None:
    assert (await bind(alice)).ok() == {}
    asked = {"sid": "s1", "client_secret": "secret", "mxid": alice.user_id}
    assert identity.asked == [("/3pid/bind", asked)]
    assert identity.bound == {ADDRESS: alice.user_id}
    # By the server that it was bound at, whose name the client need not know.
    answer = await alice.ask("POST", "/account/3pid/unbind", EMAIL)
    assert answer.ok() == {"id_server_unbind_result": "success"}
    assert identity.bound == {}
    answer = await alice.ask("POST", "/account/3pid/unbind", EMAIL)
    assert answer.ok() == {"id_server_unbind_result": "no-support"}


async def test_unbinding_at_a_server_that_the_client_names(alice: Client, identity: IdentityServer) -> None:
    identity.bound[ADDRESS] = alice.user_id
    answer = await alice.ask("POST", "/account/3pid/unbind", {**EMAIL, "id_server": NAME})
    assert answer.ok() == {"id_server_unbind_result": "success"}
    # Its own errors are told; without one, it cannot.
    answer = await alice.ask("POST", "/account/3pid/unbind", {**EMAIL, "id_server": NAME})
    answer.failed(404, "M_NOT_FOUND")
    identity.instead["/3pid/unbind"] = (501, b"<html>")
    answer = await alice.ask("POST", "/account/3pid/unbind", {**EMAIL, "id_server": NAME})
    assert answer.ok() == {"id_server_unbind_result": "no-support"}
    identity.down = True
    answer = await alice.ask("POST", "/account/3pid/unbind", {**EMAIL, "id_server": NAME})
    answer.failed(502, "M_UNKNOWN")


async def test_an_address_that_is_taken_away_is_unbound(
    here: MailPlace, alice: Client, identity: IdentityServer
) -> None:
    await here.add(alice, ADDRESS)
    (await bind(alice)).ok()
    identity.down = True
    answer = await alice.ask("POST", "/account/3pid/delete", EMAIL)
    # It is gone here whatever the identity server says, which can be asked again.
    assert answer.ok() == {"id_server_unbind_result": "no-support"}
    assert await here.addresses(alice) == []
    identity.down = False
    answer = await alice.ask("POST", "/account/3pid/delete", EMAIL)
    assert answer.ok() == {"id_server_unbind_result": "success"}
    assert identity.bound == {}


async def test_an_identity_server_s_errors_are_told(alice: Client, identity: IdentityServer) -> None:
    (await bind(alice, "other")).failed(404, "M_NO_VALID_SESSION")
    identity.instead["/3pid/bind"] = (403, b'{"errcode":"M_TERMS_NOT_SIGNED","error":"Accept our terms"}')
    answer = await bind(alice)
    answer.failed(403, "M_TERMS_NOT_SIGNED")
    assert "Accept our terms" in answer.body["error"]
    elsewhere = b'{"errcode":"M_UNKNOWN","error":"It is elsewhere"}'
    for status, body in (
        (500, b"{}"),
        (500, elsewhere),
        (200, b"[]"),
        (200, b"{}"),
        (302, b""),
        (302, elsewhere),
        (404, b"<html>"),
    ):
        identity.instead["/3pid/bind"] = (status, body)
        (await bind(alice)).failed(502, "M_UNKNOWN")
    identity.down = True
    (await bind(alice)).failed(502, "M_UNKNOWN")


@pytest.mark.parametrize("code", ["M_UNKNOWN_TOKEN", "M_UNAUTHORIZED", "M_MISSING_TOKEN"])
async def test_its_refusal_of_a_token_ends_no_session_here(
    alice: Client, identity: IdentityServer, code: str
) -> None:
    identity.instead["/3pid/bind"] = (401, b'{"errcode":"%s","error":"No"}' % code.encode())
    (await bind(alice)).failed(403, "M_UNAUTHORIZED")


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"id_server": None}, "M_MISSING_PARAM"),
        ({"id_access_token": None}, "M_MISSING_PARAM"),
        ({"client_secret": None}, "M_MISSING_PARAM"),
        ({"sid": None}, "M_MISSING_PARAM"),
        ({"sid": 5}, "M_BAD_JSON"),
        ({"client_secret": "a b"}, "M_INVALID_PARAM"),
        ({"id_server": "id.example/path?"}, "M_INVALID_PARAM"),
        ({"id_server": "https://id.example"}, "M_INVALID_PARAM"),
        ({"id_server": "user@id.example"}, "M_INVALID_PARAM"),
    ],
)
async def test_bindings_that_make_no_sense(
    alice: Client, identity: IdentityServer, changed: dict[str, Any], code: str
) -> None:
    (await bind(alice, **changed)).failed(400, code)
    assert identity.asked == []


async def test_a_token_that_no_header_holds_is_not_sent(alice: Client, identity: IdentityServer) -> None:
    for token in ("a\r\nX-Other: b", "ä", "a" * 3_000):
        (await bind(alice, id_access_token=token)).failed(403, "M_UNAUTHORIZED")
    assert identity.asked == []


async def test_asking_identity_servers_is_limited(tmp_path: Path) -> None:
    identity = IdentityServer()
    limits = "[rate_limits]\nidentity_servers = { per_second = 0.001, burst = 2 }\n"
    async with mail_place(tmp_path, outbound=identity, limits=limits) as here:
        alice = await here.client("alice")
        for _ in range(2):
            (await bind(alice)).failed(404, "M_NO_VALID_SESSION")
        (await bind(alice)).failed(429, "M_LIMIT_EXCEEDED")
        answer = await alice.ask("POST", "/account/3pid/delete", {**EMAIL, "id_server": NAME})
        answer.failed(429, "M_LIMIT_EXCEEDED")


# -- the end of an account


async def test_an_account_that_ends_leaves_nothing(
    here: MailPlace, alice: Client, identity: IdentityServer
) -> None:
    await here.add(alice, ADDRESS)
    for sid in ("s1", "s2"):
        (await bind(alice, sid)).ok()
    answer = await alice.ask("POST", "/account/deactivate", {"auth": PASSWORD})
    assert answer.ok() == {"id_server_unbind_result": "success"}
    assert identity.bound == {}
    bob = await here.client("bob")
    await here.add(bob, ADDRESS)
    found = await here.database.look_up(lambda tx: third_party.bindings(tx, alice.user_id))
    assert found == []


async def test_an_account_ends_though_nothing_is_unbound(
    here: MailPlace, alice: Client, identity: IdentityServer
) -> None:
    await here.add(alice, ADDRESS)
    (await bind(alice)).ok()
    identity.down = True
    answer = await alice.ask("POST", "/account/deactivate", {"auth": PASSWORD, "id_server": NAME})
    assert answer.ok() == {"id_server_unbind_result": "no-support"}
    (await alice.ask("GET", "/account/whoami")).failed(401, "M_UNKNOWN_TOKEN")


async def test_an_account_without_addresses_has_nothing_to_unbind(alice: Client) -> None:
    (await alice.ask("POST", "/account/deactivate", {"auth": PASSWORD, "id_server": 5})).failed(
        400, "M_BAD_JSON"
    )
    answer = await alice.ask("POST", "/account/deactivate", {"auth": PASSWORD})
    assert answer.ok() == {"id_server_unbind_result": "success"}


async def test_an_account_that_a_command_ends_leaves_nothing_either(
    here: MailPlace, alice: Client, identity: IdentityServer
) -> None:
    await here.add(alice, ADDRESS)
    (await bind(alice)).ok()
    entropy = SeededEntropy(9)
    administration = Administration(here.database, InlineOffload(), here.clock, entropy, "example.org")
    await administration.deactivate("alice", erase=False)
    await here.clock.turn(LOOK_SECONDS + 1)
    await until_waiting()
    assert identity.bound == {}
    assert await here.database.look_up(lambda tx: third_party.of_user(tx, alice.user_id)) == []

"""What new users do first: tokens, terms, e-mail addresses (client-server §Account registration)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comity.store import third_party
from tests.api.support_email import MailPlace, mail_place
from tests.api.support_rooms import Client
from tests.api.support_users import Answer

ADDRESS = "alice@mail.example"
DUMMY, EMAIL, TERMS = "m.login.dummy", "m.login.email.identity", "m.login.terms"
TOKEN = "m.login.registration_token"
REQUIRED = '[registration]\nenabled = true\nrequires = "nothing"\nrequires_email = true\n'
WITH_TOKEN = '[registration]\nenabled = true\nrequires = "token"\n'
POLICIES = """
[[terms.policies]]
id = "terms_of_service"
version = "1.2"
en = { name = "Terms of Service", url = "https://example.org/terms-en.html" }
fr = { name = "Conditions d'utilisation", url = "https://example.org/terms-fr.html" }
[[terms.policies]]
id = "privacy_policy"
version = "3"
en = { name = "Privacy Policy", url = "https://example.org/privacy-en.html" }
"""
ALICE = {"username": "alice", "password": "correct horse"}


async def register(here: MailPlace, **body: Any) -> Answer:
    return await here.ask("POST", "/register", {**ALICE, **body})


async def flows(here: MailPlace) -> list[list[str]]:
    return [flow["stages"] for flow in (await register(here)).body["flows"]]


async def test_which_flows_there_are(tmp_path: Path) -> None:
    cases = [
        ("", "", [[DUMMY], [EMAIL]]),
        ("requires_email = true\n", "", [[EMAIL]]),
        ("", POLICIES, [[TERMS, DUMMY], [TERMS, EMAIL]]),
        ("requires_email = true\n", POLICIES, [[TERMS, EMAIL]]),
    ]
    for number, (email, policies, expected) in enumerate(cases):
        text = f'[registration]\nenabled = true\nrequires = "nothing"\n{email}'
        async with mail_place(tmp_path / str(number), registration=text + policies) as here:
            assert await flows(here) == expected
    async with mail_place(tmp_path / "token", registration=WITH_TOKEN + POLICIES) as here:
        assert await flows(here) == [[TOKEN, TERMS, DUMMY], [TOKEN, TERMS, EMAIL]]


async def test_registering_with_an_address(tmp_path: Path) -> None:
    async with mail_place(tmp_path, registration=REQUIRED) as here:
        challenge = (await register(here)).body
        asked = (await here.request("register", "Alice@mail.example")).ok()
        credentials = {"sid": asked["sid"], "client_secret": "monkeys"}
        auth = {"type": EMAIL, "threepid_creds": credentials, "session": challenge["session"]}
        # Clients ask again and again; that is no guessing.
        for _ in range(15):
            answer = await register(here, auth=auth)
            answer.failed(401, "M_UNAUTHORIZED")
            assert answer.body["session"] == challenge["session"]
        await here.confirm("Alice@mail.example")
        answer = await register(here, auth=auth)
        client = Client(here, answer.ok()["user_id"], answer.body["access_token"])
        (found,) = (await client.ask("GET", "/account/3pid")).ok()["threepids"]
        assert (found["medium"], found["address"]) == ("email", ADDRESS)
        assert found["added_at"] >= found["validated_at"] > 0
        # The proof is used up, and the address taken.
        answer = await register(here, username="bob", auth={"type": EMAIL, "threepid_creds": credentials})
        answer.failed(401, "M_THREEPID_AUTH_FAILED")


async def test_asking_again_is_within_the_limits(tmp_path: Path) -> None:
    async with mail_place(tmp_path, registration=REQUIRED, limits="") as here:
        challenge = (await register(here)).body
        asked = (await here.request("register", ADDRESS)).ok()
        auth = {
            "type": EMAIL,
            "threepidCreds": {"sid": asked["sid"], "client_secret": "monkeys"},
            "session": challenge["session"],
        }
        for _ in range(30):
            await here.clock.turn(2)
            (await register(here, auth=auth)).failed(401, "M_UNAUTHORIZED")
        await here.confirm(ADDRESS)
        (await register(here, auth=auth)).ok()


async def test_who_proves_nothing_gets_no_account(tmp_path: Path) -> None:
    async with mail_place(tmp_path, registration=REQUIRED) as here:
        (await register(here, auth={"type": DUMMY})).failed(401, "M_UNRECOGNIZED")
        (await register(here, auth={"type": EMAIL})).failed(401, "M_MISSING_PARAM")
        for wrong in ({"sid": "a"}, {"client_secret": "a"}):
            answer = await register(here, auth={"type": EMAIL, "threepid_creds": wrong})
            answer.failed(401, "M_MISSING_PARAM")
        proven = await here.proven("register", ADDRESS)
        for wrong in (
            {**proven, "sid": "other"},
            {**proven, "client_secret": "other"},
            {**proven, "sid": "a b"},
            await here.proven("account/3pid", ADDRESS),
        ):
            answer = await register(here, auth={"type": EMAIL, "threepid_creds": wrong})
            answer.failed(401, "M_THREEPID_AUTH_FAILED")
        answer = await register(here, auth={"type": EMAIL, "threepid_creds": {**proven, "sid": 5}})
        answer.failed(401, "M_BAD_JSON")
        await here.clock.turn(24 * 3600)
        answer = await register(here, auth={"type": EMAIL, "threepid_creds": proven})
        answer.failed(401, "M_THREEPID_AUTH_FAILED")


async def test_an_address_becomes_one_account_s(tmp_path: Path) -> None:
    async with mail_place(tmp_path) as here:
        first = await here.proven("register", ADDRESS, "first")
        second = await here.proven("register", ADDRESS.upper(), "second")
        (await register(here, auth={"type": EMAIL, "threepid_creds": first})).ok()
        answer = await register(here, username="bob", auth={"type": EMAIL, "threepid_creds": second})
        answer.failed(401, "M_THREEPID_IN_USE")
        assert (await here.ask("GET", "/register/available", username="bob")).ok()["available"]


async def test_terms_are_shown_accepted_and_remembered(tmp_path: Path) -> None:
    async with mail_place(tmp_path, registration=WITH_TOKEN + POLICIES) as here:
        challenge = (await register(here)).body
        assert challenge["params"] == {
            TERMS: {
                "policies": {
                    "terms_of_service": {
                        "version": "1.2",
                        "en": {"name": "Terms of Service", "url": "https://example.org/terms-en.html"},
                        "fr": {
                            "name": "Conditions d'utilisation",
                            "url": "https://example.org/terms-fr.html",
                        },
                    },
                    "privacy_policy": {
                        "version": "3",
                        "en": {"name": "Privacy Policy", "url": "https://example.org/privacy-en.html"},
                    },
                }
            }
        }
        await here.database.write(
            lambda tx: tx.run("INSERT INTO registration_tokens (token, uses_allowed) VALUES ('key', 1)")
        )
        session = {"session": challenge["session"]}
        # In order: what is accepted before the token is shown counts for nothing.
        early = await register(here, auth={"type": TERMS, **session})
        early.failed(401, "M_UNAUTHORIZED")
        assert "completed" not in early.body
        answer = await register(here, auth={"type": TOKEN, "token": "key", **session})
        assert (answer.status, answer.body["completed"]) == (401, [TOKEN])
        answer = await register(here, auth={"type": TERMS, **session})
        assert (answer.status, answer.body["completed"]) == (401, [TOKEN, TERMS])
        assert answer.body["params"] == challenge["params"]
        user_id = (await register(here, auth={"type": DUMMY, **session})).ok()["user_id"]
        accepted = await here.database.look_up(lambda tx: third_party.accepted_terms(tx, user_id))
        assert accepted == [("privacy_policy", "3"), ("terms_of_service", "1.2")]


async def test_no_letters_where_registration_is_closed(tmp_path: Path) -> None:
    async with mail_place(tmp_path, registration="") as here:
        (await here.request("register", ADDRESS)).failed(403, "M_FORBIDDEN")
        assert here.box.came == []


async def test_a_guest_who_registers_proves_the_same(tmp_path: Path) -> None:
    async with mail_place(tmp_path, registration=REQUIRED + "guests = true\n") as here:
        guest = await here.guest()
        name = guest.user_id[1:].partition(":")[0]
        body = {"username": name, "guest_access_token": guest.token}
        assert (await register(here, **body)).status == 401
        credentials = await here.proven("register", ADDRESS)
        answer = await register(here, **body, auth={"type": EMAIL, "threepid_creds": credentials})
        assert answer.ok()["user_id"] == guest.user_id
        client = Client(here, guest.user_id, answer.body["access_token"])
        assert await here.addresses(client) == [ADDRESS]

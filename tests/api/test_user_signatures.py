"""Signatures of other users' keys (client-server §Cross-signing): for the eyes of whoever made them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comity.protocol.signing import SigningKey, sign_json
from comity.users import cross_signing
from tests.api.support_users import PASSWORD, SERVER, UserServer, user_server

ALICE, BOB = f"@alice:{SERVER}", f"@bob:{SERVER}"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[UserServer]:
    async with user_server(tmp_path) as built:
        yield built


def a_key(user_id: str, usage: str, number: int) -> tuple[SigningKey, dict[str, Any]]:
    """A key, named by its public half, and the object in which it is published."""
    seeds = (bytes([number, index]) * 16 for index in range(256))
    publics = ((SigningKey("x", seed).public, seed) for seed in seeds)
    # Servers' keys have names of letters and digits alone.
    public, seed = next(pair for pair in publics if pair[0].isalnum())
    key = SigningKey(public, seed)
    return key, {"user_id": user_id, "usage": [usage], "keys": {f"ed25519:{public}": public}}


class Person:
    """A user who signs."""

    def __init__(self, server: UserServer, user_id: str, token: str, number: int) -> None:
        self._server = server
        self.user_id, self.token = user_id, token
        self.master, self.master_key = a_key(user_id, "master", number)
        self.signer, signer_key = a_key(user_id, "user_signing", number + 1)
        self.signer_key = sign_json(signer_key, user_id, self.master)

    async def publish(self, **auth: object) -> Any:
        body = {"master_key": self.master_key, "user_signing_key": self.signer_key, **auth}
        return await self._server.ask("POST", "/keys/device_signing/upload", body, token=self.token)

    async def upload(self, user_id: str, name: str, signed: object) -> Any:
        """The failure of one object, or None."""
        body = {user_id: {name: signed}}
        answer = await self._server.ask("POST", "/keys/signatures/upload", body, token=self.token)
        return answer.ok()["failures"].get(user_id, {}).get(name)

    async def master_of(self, user_id: str) -> Any:
        body: dict[str, dict[str, list[str]]] = {"device_keys": {user_id: []}}
        answer = await self._server.ask("POST", "/keys/query", body, token=self.token)
        return answer.ok()["master_keys"].get(user_id)

    async def changes(self, after: int) -> Any:
        path = f"/keys/changes?from={after}&to={self._server.bus.position}"
        return (await self._server.ask("GET", path, token=self.token)).ok()


@pytest.fixture
async def people(server: UserServer) -> tuple[Person, Person]:
    alice = Person(server, ALICE, await server.user("alice"), 10)
    bob = Person(server, BOB, await server.user("bob"), 20)
    for person in (alice, bob):
        (await person.publish()).ok()
    return alice, bob


async def test_the_signer_alone_sees_a_signature(server: UserServer, people: tuple[Person, Person]) -> None:
    alice, bob = people
    before = server.bus.position
    signed = sign_json(bob.master_key, ALICE, alice.signer)
    assert await alice.upload(BOB, bob.master.public, signed) is None
    assert await alice.master_of(BOB) == signed
    assert await bob.master_of(BOB) == bob.master_key
    carol = Person(server, f"@carol:{SERVER}", await server.user("carol"), 30)
    assert await carol.master_of(BOB) == bob.master_key
    # The signer's other devices are told to look.
    assert server.bus.changed([ALICE], before)
    assert await alice.changes(before) == {"changed": [BOB], "left": []}
    assert await bob.changes(before) == {"changed": [], "left": []}
    position = server.bus.position
    assert await alice.upload(BOB, bob.master.public, signed) is None
    assert server.bus.position == position


async def test_a_signature_is_of_the_key_that_is_held(people: tuple[Person, Person]) -> None:
    alice, bob = people
    name, good = bob.master.public, sign_json(bob.master_key, ALICE, alice.signer)
    forged = {**good, "signatures": {ALICE: {alice.signer.key_id: "A" * 86}}}
    by_master = sign_json(bob.master_key, ALICE, alice.master)
    other, other_key = a_key(BOB, "master", 40)
    for key_name, signed, code in (
        (name, forged, "M_INVALID_SIGNATURE"),
        (name, by_master, "M_INVALID_SIGNATURE"),
        (name, bob.master_key, "M_INVALID_SIGNATURE"),
        (name, sign_json({**bob.master_key, "more": 1}, ALICE, alice.signer), "M_INVALID_PARAM"),
        (other.public, sign_json(other_key, ALICE, alice.signer), "M_INVALID_PARAM"),
        (other.public, good, "M_INVALID_PARAM"),
        (bob.signer.public, sign_json(bob.signer_key, ALICE, alice.signer), "M_INVALID_PARAM"),
        (name, [], "M_BAD_JSON"),
    ):
        failure = await alice.upload(BOB, key_name, signed)
        assert failure["errcode"] == code, failure
    nobody, nobodys_key = a_key(f"@nobody:{SERVER}", "master", 41)
    failure = await alice.upload(
        f"@nobody:{SERVER}", nobody.public, sign_json(nobodys_key, ALICE, alice.signer)
    )
    assert failure["errcode"] == "M_NOT_FOUND"
    assert await alice.master_of(BOB) == bob.master_key


async def test_signatures_go_with_the_key_that_made_them(
    people: tuple[Person, Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = people
    signed = sign_json(bob.master_key, ALICE, alice.signer)
    monkeypatch.setattr(cross_signing, "MAX_SIGNED_USERS", 0)
    assert (await alice.upload(BOB, bob.master.public, signed))["errcode"] == "M_INVALID_PARAM"
    monkeypatch.setattr(cross_signing, "MAX_SIGNED_USERS", 1)
    assert await alice.upload(BOB, bob.master.public, signed) is None
    # Another master key is not signed, whoever signed the one before.
    renewed = Person(bob._server, BOB, bob.token, 50)
    flows = (await renewed.publish()).body
    auth = {
        "type": "m.login.password", "session": flows["session"], "password": PASSWORD,
        "identifier": {"type": "m.id.user", "user": "bob"},
    }  # fmt: skip
    (await renewed.publish(auth=auth)).ok()
    assert await alice.master_of(BOB) == renewed.master_key
    again = sign_json(renewed.master_key, ALICE, alice.signer)
    assert await alice.upload(BOB, renewed.master.public, again) is None
    assert await alice.master_of(BOB) == again
    # And with another key for signing, all that the old one signed is forgotten.
    other = Person(alice._server, ALICE, alice.token, 60)
    flows = (await other.publish()).body
    auth = {**auth, "session": flows["session"], "identifier": {"type": "m.id.user", "user": "alice"}}
    (await other.publish(auth=auth)).ok()
    assert await other.master_of(BOB) == renewed.master_key


async def test_only_the_first_keys_need_no_password(server: UserServer) -> None:
    alice = Person(server, ALICE, await server.user("alice"), 10)
    lone = {"user_signing_key": alice.signer_key}
    path = "/keys/device_signing/upload"
    (await server.ask("POST", path, lone, token=alice.token)).failed(400, "M_MISSING_PARAM")
    (await alice.publish()).ok()
    (await alice.publish()).ok()
    _, own_key = a_key(ALICE, "self_signing", 70)
    added = {"master_key": alice.master_key, "self_signing_key": sign_json(own_key, ALICE, alice.master)}
    assert (await server.ask("POST", path, added, token=alice.token)).status == 401
    assert (await Person(server, ALICE, alice.token, 80).publish()).status == 401

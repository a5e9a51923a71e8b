"""Server-side key backups (client-server §Server-side key backups)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from comity.users import key_backup
from tests.api.support_users import Answer, UserServer, at, user_server

ROOM, OTHER_ROOM = "!one:example.org", "!two:example.org"
ALGORITHM = "m.megolm_backup.v1.curve25519-aes-sha2"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[UserServer]:
    async with user_server(tmp_path) as built:
        yield built


def key(text: str = "a", *, index: int = 5, forwarded: int = 2, verified: bool = False) -> dict[str, Any]:
    return {
        "first_message_index": index,
        "forwarded_count": forwarded,
        "is_verified": verified,
        "session_data": {"ephemeral": "e", "ciphertext": text, "mac": "m"},
    }


class Backups:
    """One user's requests about backups."""

    def __init__(self, server: UserServer, token: str) -> None:
        self._server = server
        self._token = token

    async def ask(self, method: str, path: str, body: object = None) -> Answer:
        return await self._server.ask(method, "/room_keys" + path, body, token=self._token)

    async def create(self, public_key: str = "abc") -> str:
        body = {"algorithm": ALGORITHM, "auth_data": {"public_key": public_key}}
        version: str = (await self.ask("POST", "/version", body)).ok()["version"]
        return version

    async def put(self, version: str, body: object, *where: str) -> Answer:
        return await self.ask("PUT", f"/keys{at(*where) if where else ''}?version={version}", body)

    async def get(self, version: str, *where: str) -> Answer:
        return await self.ask("GET", f"/keys{at(*where) if where else ''}?version={version}")

    async def delete(self, version: str, *where: str) -> Answer:
        return await self.ask("DELETE", f"/keys{at(*where) if where else ''}?version={version}")


@pytest.fixture
async def alice(server: UserServer) -> Backups:
    return Backups(server, await server.user("alice"))


async def test_versions_come_and_go(alice: Backups) -> None:
    (await alice.ask("GET", "/version")).failed(404, "M_NOT_FOUND")
    first, second = await alice.create("first"), await alice.create("second")
    assert first != second
    current = (await alice.ask("GET", "/version")).ok()
    assert current == {
        "algorithm": ALGORITHM, "auth_data": {"public_key": "second"}, "version": second,
        "etag": current["etag"], "count": 0,
    }  # fmt: skip
    assert (await alice.ask("GET", f"/version/{first}")).ok()["auth_data"] == {"public_key": "first"}
    signed = {"algorithm": ALGORITHM, "auth_data": {"public_key": "second", "signatures": {}}}
    (await alice.ask("PUT", f"/version/{second}", {**signed, "version": second})).ok()
    assert (await alice.ask("GET", "/version")).ok()["auth_data"] == signed["auth_data"]
    (await alice.ask("DELETE", f"/version/{second}")).ok()
    assert (await alice.ask("GET", "/version")).ok()["version"] == first
    (await alice.ask("GET", f"/version/{second}")).failed(404, "M_NOT_FOUND")
    (await alice.ask("PUT", f"/version/{second}", signed)).failed(404, "M_NOT_FOUND")
    # What was deleted may be deleted again; what never was, not.
    (await alice.ask("DELETE", f"/version/{second}")).ok()
    third = await alice.create()
    assert third not in (first, second)
    (await alice.ask("DELETE", f"/version/{second}")).ok()
    (await alice.ask("DELETE", f"/version/{first}")).ok()
    (await alice.ask("DELETE", f"/version/{first}")).ok()
    for unknown in ("99", "x", "0", "1" * 30, f"0{third}"):
        (await alice.ask("DELETE", f"/version/{unknown}")).failed(404, "M_NOT_FOUND")
        (await alice.ask("GET", f"/version/{unknown}")).failed(404, "M_NOT_FOUND")
    assert (await alice.ask("GET", "/version")).ok()["version"] == third


async def test_what_is_no_version(alice: Backups) -> None:
    good = {"algorithm": ALGORITHM, "auth_data": {}}
    for change, code in (
        ({"algorithm": None}, "M_MISSING_PARAM"),
        ({"auth_data": None}, "M_MISSING_PARAM"),
        ({"algorithm": 5}, "M_BAD_JSON"),
        ({"algorithm": ""}, "M_INVALID_PARAM"),
        ({"auth_data": []}, "M_BAD_JSON"),
        ({"auth_data": {"x": "x" * key_backup.MAX_AUTH_DATA_BYTES}}, "M_INVALID_PARAM"),
    ):
        (await alice.ask("POST", "/version", {**good, **change})).failed(400, code)
    (await alice.ask("GET", "/version")).failed(404, "M_NOT_FOUND")
    version = await alice.create()
    for change in ({"algorithm": "other"}, {"version": "99"}, {"version": 1}):
        (await alice.ask("PUT", f"/version/{version}", {**good, **change})).failed(400, "M_INVALID_PARAM")
    assert (await alice.ask("GET", "/version")).ok()["auth_data"] == {"public_key": "abc"}


async def test_keys_are_stored_and_told_in_three_ways(alice: Backups) -> None:
    version = await alice.create()
    assert (await alice.get(version)).ok() == {"rooms": {}}
    assert (await alice.get(version, ROOM)).ok() == {"sessions": {}}
    (await alice.get(version, ROOM, "s1")).failed(404, "M_NOT_FOUND")
    rooms = {ROOM: {"sessions": {"s1": key("1"), "a/b+c": key("2")}}, OTHER_ROOM: {"sessions": {}}}
    first = (await alice.put(version, {"rooms": rooms})).ok()
    assert first["count"] == 2
    second = (await alice.put(version, {"sessions": {"s1": key("3")}}, OTHER_ROOM)).ok()
    third = (await alice.put(version, key("4"), OTHER_ROOM, "s2")).ok()
    assert third["count"] == 4
    assert len({first["etag"], second["etag"], third["etag"]}) == 3
    info = (await alice.ask("GET", "/version")).ok()
    assert (info["etag"], info["count"]) == (third["etag"], 4)
    in_other = {"sessions": {"s1": key("3"), "s2": key("4")}}
    assert (await alice.get(version)).ok() == {"rooms": {ROOM: rooms[ROOM], OTHER_ROOM: in_other}}
    assert (await alice.get(version, OTHER_ROOM)).ok() == in_other
    assert (await alice.get(version, ROOM, "a/b+c")).ok() == key("2")


async def test_keys_are_deleted_in_three_ways(alice: Backups) -> None:
    version = await alice.create()
    sessions = {"sessions": {name: key(name) for name in "abc"}}
    before = (await alice.put(version, {"rooms": {ROOM: sessions, OTHER_ROOM: sessions}})).ok()
    one = (await alice.delete(version, ROOM, "a")).ok()
    assert one["count"] == 5
    assert one["etag"] != before["etag"]
    # What is not there is deleted without a change.
    assert (await alice.delete(version, ROOM, "a")).ok() == one
    assert (await alice.delete(version, ROOM)).ok()["count"] == 3
    assert (await alice.get(version)).ok() == {"rooms": {OTHER_ROOM: sessions}}
    assert (await alice.delete(version)).ok()["count"] == 0
    assert (await alice.get(version)).ok() == {"rooms": {}}
    (await alice.delete("9")).failed(404, "M_NOT_FOUND")
    (await alice.ask("DELETE", "/keys")).failed(400, "M_MISSING_PARAM")


@pytest.mark.parametrize(
    ("old", "new", "replaced"),
    [
        (key("o"), key("n", verified=True, index=9, forwarded=9), True),
        (key("o", verified=True, index=9, forwarded=9), key("n", index=0, forwarded=0), False),
        (key("o", index=5), key("n", index=4, forwarded=9), True),
        (key("o", index=4, forwarded=9), key("n", index=5, forwarded=0), False),
        (key("o", forwarded=2), key("n", forwarded=1), True),
        (key("o", forwarded=1), key("n", forwarded=2), False),
        (key("o"), key("n"), False),
    ],
)
async def test_the_better_key_of_a_session_is_kept(
    alice: Backups, old: dict[str, Any], new: dict[str, Any], replaced: bool
) -> None:
    version = await alice.create()
    before = (await alice.put(version, old, ROOM, "s")).ok()
    after = (await alice.put(version, new, ROOM, "s")).ok()
    assert after["count"] == 1
    assert (await alice.get(version, ROOM, "s")).ok() == (new if replaced else old)
    # The etag tells clients that somebody changed something: only if so.
    assert (after["etag"] != before["etag"]) is replaced


async def test_keys_go_into_the_current_version_alone(alice: Backups) -> None:
    (await alice.put("1", key(), ROOM, "s")).failed(404, "M_NOT_FOUND")
    old, current = await alice.create(), await alice.create()
    for version in (old, "99", "x"):
        for answer in (
            await alice.put(version, key(), ROOM, "s"),
            await alice.put(version, {"sessions": {"s": key()}}, ROOM),
            await alice.put(version, {"rooms": {ROOM: {"sessions": {"s": key()}}}}),
        ):
            assert answer.failed(403, "M_WRONG_ROOM_KEYS_VERSION")["current_version"] == current
    (await alice.ask("PUT", "/keys", {"rooms": {}})).failed(400, "M_MISSING_PARAM")
    for get in (await alice.get("99"), await alice.get("99", ROOM), await alice.get("99", ROOM, "s")):
        get.failed(404, "M_NOT_FOUND")
    assert (await alice.get(old)).ok() == (await alice.get(current)).ok() == {"rooms": {}}


@pytest.mark.parametrize(
    ("rooms", "status", "code"),
    [
        ([], 400, "M_BAD_JSON"),
        (None, 400, "M_MISSING_PARAM"),
        ({ROOM: []}, 400, "M_BAD_JSON"),
        ({ROOM: {"sessions": []}}, 400, "M_BAD_JSON"),
        ({"no room": {"sessions": {"s": key()}}}, 400, "M_INVALID_PARAM"),
        ({ROOM: {"sessions": {"s": []}}}, 400, "M_BAD_JSON"),
        ({ROOM: {"sessions": {"x" * 300: key()}}}, 400, "M_INVALID_PARAM"),
        ({ROOM: {"sessions": {"s": {**key(), "is_verified": 1}}}}, 400, "M_BAD_JSON"),
        ({ROOM: {"sessions": {"s": {**key(), "first_message_index": -1}}}}, 400, "M_BAD_JSON"),
        ({ROOM: {"sessions": {"s": {**key(), "forwarded_count": True}}}}, 400, "M_BAD_JSON"),
        ({ROOM: {"sessions": {"s": {**key(), "forwarded_count": 2**60}}}}, 400, "M_BAD_JSON"),
        ({ROOM: {"sessions": {"s": {**key(), "session_data": "text"}}}}, 400, "M_BAD_JSON"),
        ({ROOM: {"sessions": {"s": key("x" * key_backup.MAX_KEY_BYTES)}}}, 413, "M_TOO_LARGE"),
    ],
)
async def test_of_an_upload_all_is_stored_or_nothing(
    alice: Backups, rooms: object, status: int, code: str
) -> None:
    version = await alice.create()
    good = {OTHER_ROOM: {"sessions": {"s": key()}}}
    body = {"rooms": {**good, **rooms} if isinstance(rooms, dict) else rooms}
    (await alice.put(version, body)).failed(status, code)
    assert (await alice.get(version)).ok() == {"rooms": {}}


async def test_a_user_has_so_much_and_no_more(alice: Backups, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_backup, "MAX_KEYS", 3)
    version = await alice.create()
    sessions = {"sessions": {name: key(name) for name in "abc"}}
    (await alice.put(version, {"rooms": {ROOM: sessions}})).ok()
    refused = (await alice.put(version, key(), ROOM, "d")).failed(403, "M_USER_LIMIT_EXCEEDED")
    assert refused["info_uri"].startswith("https://")
    # A better key for a session that has one takes no more room; and what is deleted makes room.
    (await alice.put(version, key("A", index=1), ROOM, "a")).ok()
    (await alice.delete(version, ROOM, "b")).ok()
    (await alice.put(version, key(), ROOM, "d")).ok()
    monkeypatch.setattr(key_backup, "MAX_BYTES", 1_000)
    (await alice.put(version, key("x" * 700, index=0), ROOM, "a")).failed(403, "M_USER_LIMIT_EXCEEDED")
    monkeypatch.setattr(key_backup, "MAX_AT_ONCE", 2)
    (await alice.put(version, {"rooms": {ROOM: sessions}})).failed(413, "M_TOO_LARGE")
    monkeypatch.setattr(key_backup, "MAX_VERSIONS", 2)
    await alice.create()
    body = {"algorithm": ALGORITHM, "auth_data": {}}
    (await alice.ask("POST", "/version", body)).failed(403, "M_USER_LIMIT_EXCEEDED")
    (await alice.ask("DELETE", f"/version/{version}")).ok()
    (await alice.ask("POST", "/version", body)).ok()


async def test_many_keys_are_told_whole(alice: Backups, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_backup, "PAGE", 3)
    version = await alice.create()
    rooms = {room: {"sessions": {f"s{n}": key(str(n)) for n in range(5)}} for room in (ROOM, OTHER_ROOM)}
    (await alice.put(version, {"rooms": rooms})).ok()
    assert (await alice.get(version)).ok() == {"rooms": rooms}
    assert (await alice.get(version, OTHER_ROOM)).ok() == rooms[OTHER_ROOM]


async def test_backups_are_their_owners(server: UserServer, alice: Backups) -> None:
    bob = Backups(server, await server.user("bob"))
    version = await alice.create()
    (await alice.put(version, key(), ROOM, "s")).ok()
    (await bob.ask("GET", f"/version/{version}")).failed(404, "M_NOT_FOUND")
    (await bob.get(version)).failed(404, "M_NOT_FOUND")
    await bob.create()
    (await bob.delete(version)).ok()
    (await bob.ask("DELETE", f"/version/{version}")).ok()
    assert (await alice.get(version, ROOM, "s")).ok() == key()

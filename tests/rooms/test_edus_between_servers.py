"""Two whole servers on one network: what is told beside events, in both directions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from comity.federation.errors import FederationError
from comity.ports import Request
from comity.protocol.signing import SigningKey, sign_json
from comity.store import device_lists, to_device
from comity.store.database import Tx
from tests import specification
from tests.rooms.support import Place, places, settle

ONE, TWO = "one.test:1001", "two.test:1002"
ALICE, BOB = f"@alice:{ONE}", f"@bob:{TWO}"
KINDS = "signed_curve25519"


class Person:
    """A user with one device, and what their client asks."""

    def __init__(self, place: Place, user_id: str, device_id: str, token: str) -> None:
        self.place, self.user_id, self.device_id, self.token = place, user_id, device_id, token

    async def ask(self, method: str, path: str, body: object = None, *, status: int = 200) -> dict[str, Any]:
        """One request of the client-server API."""
        whole = path if path.startswith("/_matrix") else f"/_matrix/client/v3{path}"
        target, _, query = whole.partition("?")
        headers = {"authorization": f"Bearer {self.token}"}
        data = b"" if body is None else orjson.dumps(body)
        asked = Request(method, target, query, headers, data, "192.0.2.1", frozenset({"client"}))
        answer = await self.place.app.handle(asked)
        assert isinstance(answer.body, bytes)
        specification.note_faults(self.place.app.router, asked, answer)
        assert answer.status == status, answer.body
        value: dict[str, Any] = orjson.loads(answer.body)
        return value

    async def upload_keys(self, key: str = "abc") -> dict[str, Any]:
        """Identity keys of the device."""
        keys = {
            "user_id": self.user_id,
            "device_id": self.device_id,
            "algorithms": ["m.megolm.v1.aes-sha2"],
            "keys": {f"ed25519:{self.device_id}": key},
            "signatures": {self.user_id: {f"ed25519:{self.device_id}": "signature"}},
        }
        await self.ask("POST", "/keys/upload", {"device_keys": keys})
        return keys

    async def keys_of(self, other: Person) -> dict[str, Any]:
        """The keys of somebody's devices, as this person is shown them."""
        answer = await self.ask("POST", "/keys/query", {"device_keys": {other.user_id: []}})
        assert answer["failures"] == {}
        found: dict[str, Any] = answer["device_keys"].get(other.user_id, {})
        return found


class Pair:
    """Alice and Bob, each on a server of their own, in one room."""

    def __init__(self, alice: Person, bob: Person, room_id: str) -> None:
        self.alice, self.bob, self.room_id = alice, bob, room_id

    async def settle(self) -> None:
        """Let what is to be sent arrive."""
        for _ in range(3):
            await settle(self.alice.place.clock, self.bob.place.clock, seconds=2)


async def person(place: Place, user_id: str, device_id: str) -> Person:
    await place.app._users.accounts.create(user_id, "correct horse battery")
    opened = await place.app._users.sessions.open(user_id, device_id)
    return Person(place, user_id, device_id, opened.access_token)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with places(tmp_path, ONE, TWO) as (one, two):
        alice, bob = await person(one, ALICE, "PHONE"), await person(two, BOB, "LAPTOP")
        room_id = await one.create(ALICE)
        await two.rooms.memberships.join(BOB, room_id, [ONE])
        built = Pair(alice, bob, room_id)
        await built.settle()
        yield built


def typing(place: Place, room_id: str) -> list[str]:
    return place.app._users.ephemeral.typing(room_id)[1]


def receive(place: Place, origin: str, *edus: Mapping[str, Any], is_replay: bool = False) -> Any:
    return place.app._users.edus.receive(origin, list(edus), is_replay=is_replay)


def receipt(room_id: str, user_id: str, event_id: str, **data: object) -> dict[str, Any]:
    """An EDU with one receipt."""
    told = {user_id: {"event_ids": [event_id], "data": {"ts": 1, **data}}}
    return {"edu_type": "m.receipt", "content": {room_id: {"m.read": told}}}


async def test_typing(pair: Pair) -> None:
    one, two, room_id = pair.alice.place, pair.bob.place, pair.room_id
    path = f"/rooms/{room_id}/typing/"
    await pair.alice.ask("PUT", path + ALICE, {"typing": True, "timeout": 30_000})
    await pair.settle()
    assert typing(two, room_id) == [ALICE]
    await pair.alice.ask("PUT", path + ALICE, {"typing": False})
    await pair.bob.ask("PUT", path + BOB, {"typing": True, "timeout": 10_000})
    await pair.settle()
    assert (typing(two, room_id), typing(one, room_id)) == ([BOB], [BOB])
    # What times out here is told there.
    await settle(two.clock, seconds=30)
    await pair.settle()
    assert (typing(two, room_id), typing(one, room_id)) == ([], [])


async def test_presence(pair: Pair) -> None:
    body = {"presence": "online", "status_msg": "here"}
    await pair.alice.ask("PUT", f"/presence/{ALICE}/status", body)
    await pair.settle()
    seen = await pair.bob.ask("GET", f"/presence/{ALICE}/status")
    assert (seen["presence"], seen["status_msg"]) == ("online", "here")


async def test_receipts(pair: Pair) -> None:
    event_id = await pair.alice.place.say(pair.room_id, "hello", ALICE)
    await pair.settle()
    since = (await pair.alice.ask("GET", "/sync"))["next_batch"]
    await pair.bob.ask("POST", f"/rooms/{pair.room_id}/receipt/m.read/{event_id}", {})
    await pair.settle()
    news = await pair.alice.ask("GET", f"/sync?since={since}")
    (shown,) = news["rooms"]["join"][pair.room_id]["ephemeral"]["events"]
    assert list(shown["content"][event_id]["m.read"]) == [BOB]
    # A private one stays.
    await pair.alice.ask("POST", f"/rooms/{pair.room_id}/receipt/m.read.private/{event_id}", {})
    await pair.settle()
    rows = pair.bob.place.database.read_now(lambda tx: tx.all("SELECT user_id FROM receipts"))
    assert [row[0] for row in rows] == [BOB]


async def test_receipts_in_threads(pair: Pair) -> None:
    """Each thread has a receipt of its own, on the other side too; one never goes back."""
    root = await pair.alice.place.say(pair.room_id, "root", ALICE)
    relation = {"rel_type": "m.thread", "event_id": root}
    content = {"msgtype": "m.text", "body": "reply", "m.relates_to": relation}
    reply = await pair.alice.place.send(pair.room_id, ALICE, "m.room.message", content)
    await pair.settle()
    path = f"/rooms/{pair.room_id}/receipt/m.read/"
    await pair.bob.ask("POST", path + reply, {"thread_id": root})
    await pair.bob.ask("POST", path + root, {"thread_id": "main"})
    await pair.settle()
    one = pair.alice.place

    def held() -> set[tuple[str, str]]:
        rows = one.database.read_now(lambda tx: tx.all("SELECT thread_id, event_id FROM receipts"))
        return {(row[0], row[1]) for row in rows}

    assert held() == {(root, reply), ("main", root)}
    await receive(one, TWO, receipt(pair.room_id, BOB, root, thread_id=root))
    assert held() == {(root, reply), ("main", root)}
    await receive(one, TWO, receipt(pair.room_id, BOB, reply, thread_id="main"))
    assert held() == {(root, reply), ("main", reply)}


async def test_receipts_that_are_not_taken(pair: Pair) -> None:
    """Of other servers' users, of users who are not in the room, of events that are not known."""
    one, room_id = pair.alice.place, pair.room_id
    event_id = await one.say(room_id, "hello", ALICE)
    await receive(one, TWO, receipt(room_id, ALICE, event_id))
    await receive(one, TWO, receipt(room_id, f"@not_there:{TWO}", event_id))
    await receive(one, TWO, receipt("!no:one.test", BOB, event_id))
    await receive(one, TWO, receipt(room_id, BOB, "$unknown"))
    await receive(one, TWO, receipt(room_id, BOB, event_id, ts=-1))
    await receive(one, TWO, receipt(room_id, BOB, event_id, thread_id="side"))
    assert one.count("receipts") == 0
    # The same again, of one that is taken, is no news.
    for is_replay in (False, True, True):
        await receive(one, TWO, receipt(room_id, BOB, event_id), is_replay=is_replay)
    assert one.count("receipts") == 1


async def test_presence_and_typing_of_users_who_share_no_room(pair: Pair) -> None:
    """They are of the server that speaks, but nobody here is with them."""
    one, unknown = pair.alice.place, f"@not_there:{TWO}"
    push = {"push": [{"user_id": unknown, "presence": "online", "last_active_ago": 7}]}
    content = {"room_id": pair.room_id, "user_id": unknown, "typing": True}
    await receive(
        one, TWO, {"edu_type": "m.presence", "content": push}, {"edu_type": "m.typing", "content": content}
    )
    assert not one.app._users.ephemeral.presences.is_known(unknown)
    assert typing(one, pair.room_id) == []
    await pair.alice.ask("GET", f"/presence/{unknown}/status", status=404)


async def test_messages_to_devices_come_once(pair: Pair) -> None:
    body = {"messages": {BOB: {"*": {"n": 1}}, ALICE: {"PHONE": {"n": 2}}}}
    for _ in range(2):
        await pair.alice.ask("PUT", "/sendToDevice/org.test/t1", body)
        await pair.settle()
    sent = {"type": "org.test", "sender": ALICE}
    assert (await pair.bob.ask("GET", "/sync"))["to_device"]["events"] == [{**sent, "content": {"n": 1}}]
    assert (await pair.alice.ask("GET", "/sync"))["to_device"]["events"] == [{**sent, "content": {"n": 2}}]
    content = {"sender": ALICE, "type": "x", "message_id": "m1", "messages": {BOB: {"LAPTOP": {}}}}
    edu = {"edu_type": "m.direct_to_device", "content": content}
    two = pair.bob.place
    await receive(two, ONE, edu)
    await receive(two, ONE, edu, is_replay=True)
    await receive(two, "other.test", edu)

    def waiting(tx: Tx) -> int:
        return sum(item.type == "x" for item in to_device.since(tx, BOB, "LAPTOP", 0, 2**62, 100))

    assert two.database.read_now(waiting) == 1
    await settle(two.clock, seconds=31 * 24 * 3600)
    # Whoever forgets them looks every hour.
    await settle(two.clock, seconds=4_000)
    assert two.count("received_to_device") == 0


async def test_changes_of_devices_are_seen_elsewhere(pair: Pair) -> None:
    assert await pair.bob.keys_of(pair.alice) == {}
    since = (await pair.bob.ask("GET", "/sync"))["next_batch"]
    keys = await pair.alice.upload_keys()
    await pair.settle()
    news = await pair.bob.ask("GET", f"/sync?since={since}")
    assert news["device_lists"]["changed"] == [ALICE]
    asked = len(pair.bob.place.app._federation.users._client._transport.requests)  # type: ignore[attr-defined]
    assert await pair.bob.keys_of(pair.alice) == {"PHONE": keys}
    await pair.alice.ask("PUT", "/devices/PHONE", {"display_name": "My phone"})
    await pair.settle()
    named = {**keys, "unsigned": {"device_display_name": "My phone"}}
    assert await pair.bob.keys_of(pair.alice) == {"PHONE": named}
    requests = pair.bob.place.app._federation.users._client._transport.requests[asked:]  # type: ignore[attr-defined]
    assert all("/user/" not in path for _, path in requests)
    await pair.alice.ask("POST", "/logout", {})
    await pair.settle()
    assert await pair.bob.keys_of(pair.alice) == {}


async def test_a_missed_change_has_the_list_asked_for_anew(pair: Pair) -> None:
    keys = await pair.alice.upload_keys()
    await pair.settle()
    assert await pair.bob.keys_of(pair.alice) == {"PHONE": keys}
    two = pair.bob.place
    content = {"user_id": ALICE, "device_id": "LATER", "stream_id": 2**40, "prev_id": [2**39]}
    await receive(two, ONE, {"edu_type": "m.device_list_update", "content": content})
    await settle()
    known = two.database.read_now(lambda tx: device_lists.remote_list(tx, ALICE))
    assert known is not None
    assert known.stream_id < 2**39
    assert await pair.bob.keys_of(pair.alice) == {"PHONE": keys}


async def test_each_key_is_claimed_once(pair: Pair) -> None:
    keys = {f"{KINDS}:a": {"key": "k", "signatures": {}}}
    await pair.alice.ask("POST", "/keys/upload", {"one_time_keys": keys})
    body = {"one_time_keys": {ALICE: {"PHONE": KINDS}}}
    answer = await pair.bob.ask("POST", "/keys/claim", body)
    assert answer == {"one_time_keys": {ALICE: {"PHONE": keys}}, "failures": {}}
    assert (await pair.bob.ask("POST", "/keys/claim", body))["one_time_keys"] == {}


async def test_a_server_that_is_away_is_named(pair: Pair) -> None:
    away = "@x:away.test:1"
    answer = await pair.bob.ask("POST", "/keys/query", {"device_keys": {away: [], BOB: []}})
    assert list(answer["failures"]) == ["away.test:1"]
    assert answer["device_keys"] == {BOB: {}}
    claim = await pair.bob.ask("POST", "/keys/claim", {"one_time_keys": {away: {"D": KINDS}}})
    assert list(claim["failures"]) == ["away.test:1"]


def signing_key(user_id: str, usage: str, number: int) -> tuple[SigningKey, dict[str, Any]]:
    """A key, named by its public half, and the object in which it is published."""
    seeds = (bytes([number, index]) * 16 for index in range(256))
    publics = ((SigningKey("x", seed).public, seed) for seed in seeds)
    # Servers' keys have names of letters and digits alone.
    public, seed = next(pair for pair in publics if pair[0].isalnum())
    key = SigningKey(public, seed)
    return key, {"user_id": user_id, "usage": [usage], "keys": {f"ed25519:{public}": public}}


async def test_keys_for_signing_are_seen_elsewhere(pair: Pair) -> None:
    devices = await pair.alice.upload_keys()
    assert await pair.bob.keys_of(pair.alice) == {"PHONE": devices}
    master, master_key = signing_key(ALICE, "master", 1)
    own, own_key = signing_key(ALICE, "self_signing", 2)
    own_key = sign_json(own_key, ALICE, master)
    forged = sign_json({**own_key, "signatures": {}}, ALICE, own)
    path = "/keys/device_signing/upload"
    await pair.alice.ask("POST", path, {"self_signing_key": own_key}, status=400)
    await pair.alice.ask("POST", path, {"master_key": master_key, "self_signing_key": forged}, status=400)
    both = {"master_key": master_key, "self_signing_key": own_key}
    await pair.alice.ask("POST", path, both)
    # The same again needs no password, another one does.
    await pair.alice.ask("POST", path, both)
    _, other = signing_key(ALICE, "master", 3)
    flows = await pair.alice.ask("POST", path, {"master_key": other}, status=401)
    assert flows["flows"]
    signed = sign_json(devices, ALICE, own)
    answer = await pair.alice.ask(
        "POST", "/keys/signatures/upload", {ALICE: {"PHONE": signed}, BOB: {"x": {}}}
    )
    assert list(answer["failures"]) == [BOB]
    await pair.settle()
    # A signature of the key of somebody elsewhere is shown to who made it, and to nobody else.
    bobs_master, bobs_master_key = signing_key(BOB, "master", 4)
    bobs_signer, bobs_signer_key = signing_key(BOB, "user_signing", 5)
    bobs = {"master_key": bobs_master_key, "user_signing_key": sign_json(bobs_signer_key, BOB, bobs_master)}
    await pair.bob.ask("POST", path, bobs)
    by_bob = sign_json(master_key, BOB, bobs_signer)
    [(name, _)] = master_key["keys"].items()
    body = {ALICE: {name.removeprefix("ed25519:"): by_bob}}
    assert await pair.bob.ask("POST", "/keys/signatures/upload", body) == {"failures": {}}
    answer = await pair.bob.ask("POST", "/keys/query", {"device_keys": {ALICE: []}})
    assert answer["master_keys"] == {ALICE: by_bob}
    own_view = await pair.alice.ask("POST", "/keys/query", {"device_keys": {ALICE: []}})
    assert own_view["master_keys"] == {ALICE: master_key}
    assert answer["self_signing_keys"] == {ALICE: own_key}
    assert answer["device_keys"] == {ALICE: {"PHONE": signed}}


async def test_who_somebody_is(pair: Pair) -> None:
    given = await pair.alice.ask("POST", f"/user/{ALICE}/openid/request_token", {})
    assert given["matrix_server_name"] == ONE
    calls = pair.bob.place.app._federation.users
    assert await calls.openid_userinfo(ONE, given["access_token"]) == ALICE
    await settle(pair.alice.place.clock, seconds=4_000)
    with pytest.raises(FederationError, match="expired"):
        await calls.openid_userinfo(ONE, given["access_token"])


async def test_what_servers_are_told_when_they_ask(pair: Pair) -> None:
    """The whole list of devices; and that there is no media."""
    keys = await pair.alice.upload_keys()
    client = pair.bob.place.app._federation.users._client
    v1 = "/_matrix/federation/v1"
    listed = orjson.loads(await client.request(ONE, "GET", f"{v1}/user/devices/{ALICE}"))
    assert listed["user_id"] == ALICE
    assert listed["stream_id"] > 0
    assert listed["devices"] == [{"device_id": "PHONE", "keys": keys}]
    for path, code in (
        (f"user/devices/@no:{ONE}", "M_NOT_FOUND"),
        (f"user/devices/{BOB}", "M_NOT_FOUND"),
        ("media/download/abc", "M_NOT_FOUND"),
        ("media/download/a.b", "M_INVALID_PARAM"),
        ("media/thumbnail/abc", "M_MISSING_PARAM"),
    ):
        with pytest.raises(FederationError) as refused:
            await client.request(ONE, "GET", f"{v1}/{path}")
        assert refused.value.code == code


async def test_a_transaction_that_comes_again(pair: Pair) -> None:
    """What lasts may have been lost between two commits: it is taken again, what passes is not."""
    one, client = pair.alice.place, pair.bob.place.app._federation.users._client
    direct = {"sender": BOB, "type": "x", "message_id": "m", "messages": {ALICE: {"PHONE": {}}}}
    typed = {"room_id": pair.room_id, "user_id": BOB, "typing": True}
    edus = [
        {"edu_type": "m.direct_to_device", "content": direct},
        {"edu_type": "m.typing", "content": typed},
    ]
    content = {"origin": TWO, "origin_server_ts": 1, "pdus": [], "edus": []}
    where = "/_matrix/federation/v1/send/t1"
    assert await client.request(ONE, "PUT", where, content=content) == b'{"pdus":{}}'
    for _ in range(2):
        await client.request(ONE, "PUT", where, content={**content, "edus": edus})
    assert one.count("to_device") == 1
    assert typing(one, pair.room_id) == []


async def test_nobody_speaks_for_others(pair: Pair) -> None:
    """Malformed EDUs and those of strangers are passed over, and what comes after them is taken."""
    two, room_id = pair.bob.place, pair.room_id
    deep: Any = {}
    for _ in range(2_000):
        deep = {"x": deep}
    stranger = "@eve:other.test"
    bad: list[Any] = [
        7,
        {"edu_type": 7, "content": {}},
        {"edu_type": "m.typing", "content": []},
        {"edu_type": "m.typing", "content": {"room_id": room_id, "user_id": ALICE, "typing": True}},
        {"edu_type": "m.typing", "content": {"room_id": room_id, "user_id": stranger, "typing": True}},
        {"edu_type": "m.typing", "content": {"room_id": 7, "user_id": stranger}},
        {"edu_type": "m.presence", "content": {"push": [7, {"user_id": ALICE, "presence": "online"}]}},
        {"edu_type": "m.presence", "content": {"push": "x"}},
        {"edu_type": "m.receipt", "content": {room_id: {"m.read": {ALICE: {}, stranger: 7}}, "x": 7}},
        {"edu_type": "m.direct_to_device", "content": {"sender": stranger, "message_id": "m"}},
        {"edu_type": "m.direct_to_device", "content": {"sender": stranger, "messages": deep}},
        {"edu_type": "m.device_list_update", "content": {"user_id": stranger, "device_id": "D"}},
        {"edu_type": "m.device_list_update", "content": {"user_id": ALICE, "device_id": "D", "stream_id": 1}},
        {"edu_type": "m.signing_key_update", "content": {"user_id": stranger, "master_key": 7}},
        {"edu_type": "org.unknown", "content": {}},
    ]
    await receive(two, "other.test", *bad)
    assert typing(two, room_id) == []
    assert (await pair.bob.ask("GET", f"/presence/{ALICE}/status")) == {"presence": "offline"}
    content = {"room_id": room_id, "user_id": ALICE, "typing": True}
    await receive(two, ONE, {"edu_type": "m.typing", "content": content}, is_replay=True)
    assert typing(two, room_id) == []
    await receive(two, ONE, {}, {"edu_type": "m.typing", "content": content})
    assert typing(two, room_id) == [ALICE]


async def test_a_server_that_the_room_bars_is_not_heard(pair: Pair) -> None:
    one, two, room_id = pair.alice.place, pair.bob.place, pair.room_id
    acl = {"allow": ["*"], "deny": ["two.test"], "allow_ip_literals": True}
    await one.send(room_id, ALICE, "m.room.server_acl", acl, "")
    content = {"room_id": room_id, "user_id": BOB, "typing": True}
    await receive(one, TWO, {"edu_type": "m.typing", "content": content})
    event_id = await one.say(room_id, "not for you", ALICE)
    await receive(one, TWO, receipt(room_id, BOB, event_id))
    assert typing(one, room_id) == []
    assert (one.count("receipts"), two.count("receipts")) == (0, 0)


async def test_characters_that_no_database_takes(pair: Pair) -> None:
    """NUL, wherever a string is: passed over, and no reason to have the transaction sent again."""
    one, room_id, nul = pair.alice.place, pair.room_id, "\0"
    event_id = await one.say(room_id, "hello", ALICE)
    bob, strange = BOB, f"@b{nul}ob:{TWO}"
    for user_id, room, at in (
        (strange, room_id, event_id),
        (bob, f"!a{nul}:x", event_id),
        (bob, room_id, nul),
    ):
        await receive(
            one, TWO, receipt(room, user_id, f"${at}"), receipt(room, user_id, at, thread_id=f"${nul}")
        )
        typed = {"room_id": room, "user_id": user_id, "typing": True}
        shown = {"user_id": user_id, "presence": "online", "status_msg": nul}
        direct = {"sender": user_id, "type": "x", "message_id": f"m{nul}", "messages": {ALICE: {nul: {}}}}
        await receive(
            one, TWO,
            {"edu_type": "m.typing", "content": typed},
            {"edu_type": "m.presence", "content": {"push": [shown]}},
            {"edu_type": "m.direct_to_device", "content": direct},
            {"edu_type": "m.direct_to_device", "content": {**direct, "message_id": "m"}},
            {"edu_type": "m.direct_to_device", "content": {**direct, "message_id": "n", "type": nul}},
        )  # fmt: skip
    assert one.count("to_device") == 0

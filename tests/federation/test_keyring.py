"""The keyring: whose signature holds, under which key, and how little it takes to find out."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from comity.federation.keyring import Keyring
from comity.net.system import ThreadOffload
from comity.protocol.build import Draft, build
from comity.protocol.errors import MatrixError
from comity.protocol.event import Event, decode_base64
from comity.protocol.room_versions import ROOM_VERSIONS
from comity.protocol.signing import (
    Authorization,
    PublishedKey,
    SigningKey,
    parse_key_document,
    request_object,
)
from comity.store import keys as stored_keys
from comity.store.database import Database, Tx
from tests.engines import engine
from tests.federation.conftest import OWN_NAME, PeerFactory, Side, open_database
from tests.federation.doors import ManualClock
from tests.federation.peer_server import Key, PeerServer, Received, canonical

__all__ = ["engine"]

DAY_MS = 24 * 3_600_000
KEYS = "/_matrix/key/v2/server"


def an_event(
    peer: PeerServer, ts: int, *, key: Key | None = None, version: str = "10", text: str = ""
) -> Event:
    """An event by a user of the peer, signed with its key."""
    key = key or peer.key
    return build(
        Draft("m.room.message", f"@bob:{peer.name}", {"body": text}),
        version=ROOM_VERSIONS[version],
        room_id="!room:a.example",
        prev=[],
        auth=[],
        now_ms=ts,
        server=peer.name,
        key=SigningKey(key.key_id.partition(":")[2], key.seed),
        assigned_id=f"$event:{peer.name}",
    )


async def test_keys_are_fetched_once_and_signatures_hold(
    keyring: Keyring, peer: PeerServer, clock: ManualClock
) -> None:
    events = [an_event(peer, clock.now_ms(), text=str(number)) for number in range(300)]
    forged = Event(events[0].version, {**events[0].source, "depth": 7})
    both = await asyncio.gather(keyring.verify_events([*events, forged]), keyring.verify_events(events[:1]))
    assert both[0] == [frozenset({peer.name})] * 300 + [frozenset()]
    assert both[1] == [frozenset({peer.name})]
    assert len(peer.requests(KEYS)) == 1


async def test_our_own_signature_needs_no_fetching(
    keyring: Keyring, own_key: SigningKey, clock: ManualClock
) -> None:
    own = PeerServer(name=OWN_NAME, key=Key("ed25519:own", "own"))
    other = Key("ed25519:own", "not own")
    good, bad = an_event(own, clock.now_ms()), an_event(own, clock.now_ms(), key=other)
    assert await keyring.verify_events([good, bad]) == [frozenset({OWN_NAME}), frozenset()]


async def test_keys_outlive_a_restart(
    side: Side,
    peer: PeerServer,
    clock: ManualClock,
    own_key: SigningKey,
    database_file: Path,
    offload: ThreadOffload,
) -> None:
    event = an_event(peer, clock.now_ms())
    for _ in range(2):
        database = open_database(database_file, offload)
        keyring = Keyring(database, side.keys, clock, offload, OWN_NAME, [own_key], [])
        assert await keyring.verify_events([event]) == [frozenset({peer.name})]
        await database.close()
    assert len(peer.requests(KEYS)) == 1


async def test_an_event_after_its_key_ended_does_not_hold_from_version_5_on(
    keyring: Keyring, peer: PeerServer, clock: ManualClock
) -> None:
    peer.valid_until = clock.now_ms() + 1000
    late = clock.now_ms() + 2000
    events = [an_event(peer, late, version=version) for version in ("4", "5", "12")]
    assert await keyring.verify_events(events) == [frozenset({peer.name}), frozenset(), frozenset()]
    at_the_end = an_event(peer, clock.now_ms() + 1000)
    assert await keyring.verify_events([at_the_end]) == [frozenset({peer.name})]


async def test_a_key_counts_for_seven_days_at_most_and_is_then_fetched_anew(
    keyring: Keyring, peer: PeerServer, clock: ManualClock
) -> None:
    peer.valid_until = clock.now_ms() + 365 * DAY_MS
    assert await keyring.verify_events([an_event(peer, clock.now_ms())]) == [frozenset({peer.name})]
    too_far = an_event(peer, clock.now_ms() + 8 * DAY_MS)
    assert await keyring.verify_events([too_far]) == [frozenset()]
    clock.advance(8 * DAY_MS / 1000)
    assert await keyring.verify_events([too_far]) == [frozenset({peer.name})]
    assert len(peer.requests(KEYS)) == 2


async def test_old_keys_sign_events_up_to_their_end(
    keyring: Keyring, peer: PeerServer, clock: ManualClock
) -> None:
    old = Key("ed25519:old", "old")
    ended = clock.now_ms() - DAY_MS
    peer.old_keys = {old.key_id: {"key": old.public, "expired_ts": ended}}
    before, after = an_event(peer, ended, key=old), an_event(peer, ended + 1, key=old)
    early_version = an_event(peer, ended + 1, key=old, version="1")
    assert await keyring.verify_events([before, after, early_version]) == [
        frozenset({peer.name}),
        frozenset(),
        frozenset({peer.name}),
    ]


async def test_a_document_that_is_not_self_signed_is_worth_nothing(
    keyring: Keyring, peer: PeerServer, clock: ManualClock
) -> None:
    document = peer.key_document()
    document["valid_until_ts"] += 1
    peer.on("GET", KEYS, 200, document)
    event = an_event(peer, clock.now_ms())
    assert await keyring.verify_events([event]) == [frozenset()]
    # And it is not asked for again with every event …
    assert await keyring.verify_events([event]) == [frozenset()]
    assert len(peer.requests(KEYS)) == 1
    # … but after a while.
    del peer.handlers["GET", KEYS]
    clock.advance(61)
    assert await keyring.verify_events([event]) == [frozenset({peer.name})]


async def test_a_dead_server_costs_one_try(keyring: Keyring, peer: PeerServer, clock: ManualClock) -> None:
    await peer.down()
    events = [an_event(peer, clock.now_ms(), text=str(number)) for number in range(20)]
    for _ in range(3):
        assert await keyring.verify_events(events) == [frozenset()] * 20


class Notary:
    """What a peer does as a notary: signs, beside its own, what it was told of others."""

    def __init__(self, server: PeerServer, known: list[dict[str, Any]]) -> None:
        self.server = server
        self.documents = known
        self.asked: list[dict[str, Any]] = []
        self.key = server.key
        server.handlers["POST", "/_matrix/key/v2/query"] = self.answer

    def answer(self, received: Received) -> tuple[int, Any]:
        self.asked.append(received.json["server_keys"])
        signed = [self.key.sign_json(self.server.name, document) for document in self.documents]
        return 200, {"server_keys": signed}


async def a_keyring_with_notary(
    side: Side, database: Database, clock: ManualClock, offload: ThreadOffload, notary: PeerServer
) -> Keyring:
    own = SigningKey("own", b"\0" * 32)
    return Keyring(database, side.keys, clock, offload, OWN_NAME, [own], [notary.name])


@pytest.mark.parametrize("honest", [True, False])
async def test_a_notary_speaks_for_a_dead_server(
    side: Side,
    database: Database,
    clock: ManualClock,
    offload: ThreadOffload,
    a_peer: PeerFactory,
    honest: bool,
) -> None:
    dead, server = await a_peer(), await a_peer()
    await dead.down()
    server.key = Key("ed25519:notary", "notary")
    notary = Notary(server, [dead.key_document(), {"server_name": "unasked.example"}])
    if not honest:
        notary.key = Key("ed25519:notary", "somebody else")
    keyring = await a_keyring_with_notary(side, database, clock, offload, server)
    event = an_event(dead, clock.now_ms())
    expected = frozenset({dead.name}) if honest else frozenset()
    assert await keyring.verify_events([event]) == [expected]
    wanted = {dead.key.key_id: {"minimum_valid_until_ts": clock.now_ms()}}
    assert notary.asked == [{dead.name: wanted}]


async def test_a_notary_cannot_invent_keys(
    side: Side, database: Database, clock: ManualClock, offload: ThreadOffload, a_peer: PeerFactory
) -> None:
    dead, server = await a_peer(), await a_peer()
    await dead.down()
    document = dead.key_document()
    document["verify_keys"] = {"ed25519:peer": {"key": Key("ed25519:peer", "invented").public}}
    Notary(server, [document])
    keyring = await a_keyring_with_notary(side, database, clock, offload, server)
    assert await keyring.verify_events([an_event(dead, clock.now_ms())]) == [frozenset()]


async def test_many_servers_at_once_are_asked_of_a_notary_first(
    side: Side, database: Database, clock: ManualClock, offload: ThreadOffload, a_peer: PeerFactory
) -> None:
    server = await a_peer()
    servers = [PeerServer(name=f"s{number}.invalid") for number in range(60)]
    for item in servers:
        item.valid_until = clock.now_ms() + DAY_MS
    notary = Notary(server, [item.key_document() for item in servers])
    keyring = await a_keyring_with_notary(side, database, clock, offload, server)
    events = [an_event(item, clock.now_ms()) for item in servers]
    assert await keyring.verify_events(events) == [frozenset({item.name}) for item in servers]
    assert sorted(len(asked) for asked in notary.asked) == [10, 50]


async def test_keys_that_will_be_needed_are_asked_of_a_notary_before_it_is_known_which(
    side: Side, database: Database, clock: ManualClock, offload: ThreadOffload, a_peer: PeerFactory
) -> None:
    server = await a_peer()
    servers = [PeerServer(name=f"s{number}.invalid") for number in range(60)]
    for item in servers:
        item.valid_until = clock.now_ms() + DAY_MS
    late = servers[0]
    notary = Notary(server, [item.key_document() for item in servers[1:]])
    keyring = await a_keyring_with_notary(side, database, clock, offload, server)
    names = [OWN_NAME, server.name, *(item.name for item in servers)]
    await keyring.foresee(names[:8])
    assert notary.asked == []
    await keyring.foresee(names)
    assert {name: wanted for asked in notary.asked for name, wanted in asked.items()} == {
        item.name: {} for item in servers
    }
    await keyring.foresee(names)
    assert len(notary.asked) == 2
    # What it did not give is asked for as if nothing had been.
    notary.documents.append(late.key_document())
    events = [an_event(item, clock.now_ms()) for item in servers]
    assert await keyring.verify_events(events) == [frozenset({item.name}) for item in servers]
    wanted = {late.key.key_id: {"minimum_valid_until_ts": clock.now_ms()}}
    assert notary.asked[2:] == [{late.name: wanted}]


# -- requests


def a_request(
    peer: PeerServer, content: dict[str, Any] | None = None
) -> tuple[Authorization, dict[str, Any]]:
    """A request of the peer to us, signed by it."""
    message = request_object("PUT", "/x", peer.name, OWN_NAME, content)
    signature = peer.key.sign(canonical(message))
    return Authorization(peer.name, OWN_NAME, peer.key.key_id, signature), message


async def refusal(keyring: Keyring, authorization: Authorization, message: dict[str, Any]) -> str:
    with pytest.raises(MatrixError) as caught:
        await keyring.verify_request(authorization.origin, authorization, message)
    assert (caught.value.status, caught.value.code) == (401, "M_UNAUTHORIZED")
    return caught.value.text


@pytest.mark.parametrize("content", [None, {}, {"a": "ü"}, {"a": 1.5, "b": 1e22}, {"a": "x" * 100_000}])
async def test_a_signed_request_passes(
    keyring: Keyring, peer: PeerServer, content: dict[str, Any] | None
) -> None:
    authorization, message = a_request(peer, content)
    await keyring.verify_request(peer.name, authorization, message)


async def test_a_changed_request_does_not_pass(keyring: Keyring, peer: PeerServer) -> None:
    authorization, message = a_request(peer, {"a": 1})
    for name, value in [("method", "GET"), ("uri", "/y"), ("destination", "b"), ("content", {"a": 1.5})]:
        assert "does not fit" in await refusal(keyring, authorization, {**message, name: value})
    with pytest.raises(MatrixError):
        await keyring.verify_request("other.example", authorization, message)


async def test_expired_keys_sign_no_requests(keyring: Keyring, peer: PeerServer, clock: ManualClock) -> None:
    authorization, message = a_request(peer)
    peer.valid_until = clock.now_ms() - 1
    assert "expired" in await refusal(keyring, authorization, message)
    old = Key("ed25519:old", "old")
    peer.valid_until = clock.now_ms() + DAY_MS
    peer.old_keys = {old.key_id: {"key": old.public, "expired_ts": clock.now_ms() + DAY_MS}}
    clock.advance(61)
    await keyring.verify_request(peer.name, authorization, message)
    signature = old.sign(canonical(message))
    by_old = Authorization(peer.name, OWN_NAME, old.key_id, signature)
    assert "expired" in await refusal(keyring, by_old, message)


async def test_a_key_that_ended_is_fetched_anew_for_a_request(
    keyring: Keyring, peer: PeerServer, clock: ManualClock
) -> None:
    authorization, message = a_request(peer)
    await keyring.verify_request(peer.name, authorization, message)
    clock.advance(2 * DAY_MS / 1000)
    peer.valid_until = clock.now_ms() + DAY_MS
    await keyring.verify_request(peer.name, authorization, message)
    assert len(peer.requests(KEYS)) == 2


async def test_unknown_keys_are_asked_for_once(
    keyring: Keyring, peer: PeerServer, clock: ManualClock
) -> None:
    authorization, message = a_request(peer)
    await keyring.verify_request(peer.name, authorization, message)
    clock.advance(61)
    invented = Authorization(peer.name, OWN_NAME, "ed25519:invented", authorization.signature)
    for _ in range(5):
        assert "could not be found" in await refusal(keyring, invented, message)
    assert len(peer.requests(KEYS)) == 2
    # A new key of the server's is found once the pause is over.
    peer.key = Key("ed25519:next", "next")
    clock.advance(61)
    await keyring.verify_request(peer.name, *a_request(peer))


async def test_a_server_that_could_not_be_asked_is_asked_again_soon_when_it_asks_us(
    keyring: Keyring, peer: PeerServer, clock: ManualClock
) -> None:
    authorization, message = a_request(peer)
    await peer.down()
    assert "could not be found" in await refusal(keyring, authorization, message)
    await peer.up()
    clock.advance(5)
    await keyring.verify_request(peer.name, authorization, message)


# -- ours


async def test_our_document_is_signed_and_renewed_at_half_its_life(
    keyring: Keyring, own_key: SigningKey, clock: ManualClock
) -> None:
    document = await keyring.key_document()
    (key,) = parse_key_document(json.loads(document), OWN_NAME)
    assert key.key_id == own_key.key_id and key.valid_until_ms == clock.now_ms() + DAY_MS
    clock.advance(12 * 3600 - 1)
    assert await keyring.key_document() == document
    clock.advance(1)
    renewed = await keyring.key_document()
    assert json.loads(renewed)["valid_until_ts"] == clock.now_ms() + DAY_MS


async def test_events_of_ours_hold_under_the_key_that_signed_then(
    side: Side, database: Database, clock: ManualClock, offload: ThreadOffload, own_key: SigningKey
) -> None:
    old, ended = Key("ed25519:old", "old"), clock.now_ms()
    expired = PublishedKey(old.key_id, decode_base64(old.public), ended, expired=True)
    keyring = Keyring(database, side.keys, clock, offload, OWN_NAME, [own_key], [], old_keys=[expired])
    own = PeerServer(name=OWN_NAME, key=old)
    events = [an_event(own, ended), an_event(own, ended + 1), an_event(own, ended + 1, version="1")]
    assert await keyring.verify_events(events) == [
        frozenset({OWN_NAME}), frozenset(), frozenset({OWN_NAME})
    ]  # fmt: skip
    document = json.loads(await keyring.key_document())
    assert document["old_verify_keys"] == {old.key_id: {"key": old.public, "expired_ts": ended}}
    assert list(document["verify_keys"]) == [own_key.key_id]


async def test_the_keys_of_many_servers_are_looked_up_in_one_read(
    side: Side, database: Database, clock: ManualClock, offload: ThreadOffload, own_key: SigningKey
) -> None:
    servers = [PeerServer(name=f"s{number}.example") for number in range(600)]

    def store(tx: Tx) -> None:
        for server in servers:
            key = PublishedKey(server.key.key_id, decode_base64(server.key.public), 2**52, expired=False)
            stored_keys.put(tx, server.name, [key], clock.now_ms())

    await database.write(store)
    keyring = Keyring(database, side.keys, clock, offload, OWN_NAME, [own_key], [])
    events = [an_event(server, clock.now_ms()) for server in servers]
    assert await keyring.verify_events(events) == [frozenset({server.name}) for server in servers]

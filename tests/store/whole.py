"""A server's database in which no table is empty, and all that a database holds, as values."""

from __future__ import annotations

from pathlib import Path

from comity.rooms.room import know_all_rooms
from comity.store.checks import ask, invariants
from comity.store.database import Driver, Row, Tx
from comity.store.events import Events
from comity.store.move import read, tables
from comity.store.state import States
from tests.api import support_rooms
from tests.api.support_rooms import Client
from tests.api.support_users import at
from tests.rooms.support import ALICE, BOB, CAROL, Place, a_place, settle
from tests.rooms.test_forks import DAVE, a_shared_room
from tests.rules.rooms import Room

VERSIONS = ("1", "10", "12")
#: table -> (its columns, its rows in the order of its key)
Content = dict[str, tuple[tuple[str, ...], list[Row]]]
#: What no request makes, or none that is answered in a test of a few milliseconds.
_BY_HAND = """
INSERT INTO registration_tokens (token, uses_allowed, used, expires_at) VALUES ('one', NULL, 3, NULL);
INSERT INTO registration_tokens (token, uses_allowed, used, expires_at) VALUES ('two', 5, 0, 1800000000000);
INSERT INTO directory_progress (id, position, room_num, user_id) VALUES (1, 2, 1, '@b:b.example');
INSERT INTO guests (user_id) VALUES ('@guest:a.example');
INSERT INTO server_notice_rooms (user_id, room_id) VALUES ('@a:a.example', '!a:a.example');
INSERT INTO server_notices (notice_id, user_id, body, at) VALUES ('n', '@a:a.example', 'Hello', 1);
INSERT INTO moderated_accounts (user_id, suspended, locked) VALUES ('@b:a.example', 1, 0);
INSERT INTO errands (user_id, kind, revision, since, done, total, erase)
VALUES ('@a:a.example', 'profile', 2, 1700000000000, 3, 4, 0);
INSERT INTO erased_users (user_id, position) VALUES ('@b:a.example', 2);
INSERT INTO gaps (room_num, line, next_line, missing, rounds, retry_at)
    VALUES (1, 5, 4, '["$long:ago"]', 3, 1700000000000);
UPDATE destinations SET failing_since = 1, retry_at = 2, interval_ms = 3, sending_upto = 1
WHERE server = 'b.example';
INSERT INTO delayed_events (delay_id, user_id, room_id, type, content, delay_ms, running_since, position,
    device_id, scope, due_at) VALUES ('d', '@a:a.example', '!r', 'm.x', '{}', 5, 6, 1, 'D', '', 3);
INSERT INTO position_times (position, at) VALUES (1, 1700000000000);
INSERT INTO refused_events (event_num, server, error, at) VALUES (1, 'b.example', 'no', 1700000000000);
INSERT INTO partial_rooms (room_num, join_num, server, servers, since)
VALUES (900, 901, 'b.example', '["b.example"]', 1700000000000);
INSERT INTO outbound_to_device (server, position, content) VALUES ('b.example', 1, '{"type": "m.x"}');
INSERT INTO received_to_device (origin, message_id, at) VALUES ('b.example', 'id', 1700000000000);
INSERT INTO device_changes (user_id, device_id, position, previous) VALUES ('@a:a.example', 'D', 2, 1);
INSERT INTO cross_signing_keys (user_id, usage, json, position) VALUES ('@a:a.example', 'master', '{}', 2);
INSERT INTO remote_devices (user_id, device_id, json, display_name) VALUES ('@b:b.example', 'D', NULL, 'x');
INSERT INTO remote_device_lists (user_id, stream_id, stale, fetched_at) VALUES ('@b:b.example', 3, 0, 1);
INSERT INTO search_again (event_num) VALUES (2);
INSERT INTO reports (report_id, reporter, room_id, event_id, user_id, reason, at, closed_at)
VALUES (1, '@a:a.example', '!r', '$e', '@b:b.example', 'spam', 1700000000000, 0);
INSERT INTO key_backups (user_id, version, algorithm, auth_data, etag, key_count, key_bytes)
VALUES ('@a:a.example', 1, 'm.megolm_backup.v1', '{"public_key": "k"}', 1, 1, 2);
INSERT INTO backed_up_keys (user_id, version, room_id, session_id, is_verified, first_message_index,
forwarded_count, json) VALUES ('@a:a.example', 1, '!r', 's', 1, 2, 3, '{}');
INSERT INTO dehydrated_devices (user_id, device_id, data) VALUES ('@a:a.example', 'D', '{}');
INSERT INTO user_signatures (signer, target, target_key, signer_key, signature, position)
VALUES ('@a:a.example', '@b:b.example', 'ed25519:m', 'ed25519:u', 'signature', 2);
INSERT INTO upstream_links (issuer, subject, user_id, shown, linked_at)
VALUES ('https://i.example', '1', '@a:a.example', 'a@a.example', 3);
INSERT INTO third_party_ids (medium, address, user_id, written, validated_at, added_at)
VALUES ('email', 'a@a.example', '@a:a.example', 'A@a.example', 1, 2);
INSERT INTO bound_third_party_ids (user_id, medium, address, id_server, bound_at)
VALUES ('@a:a.example', 'email', 'a@a.example', 'id.example', 3);
INSERT INTO accepted_terms (user_id, policy_id, version, accepted_at)
VALUES ('@a:a.example', 'privacy_policy', '1.2', 4);
INSERT INTO validation_sessions (sid, purpose, medium, address, written, secret_hash, token_hash,
send_attempt, expires_at)
SELECT 's', 'add', 'email', 'a@a.example', 'A@a.example', token_hash, token_hash, 1, 5
FROM access_tokens LIMIT 1
"""
#: Likewise, with bytes in them.
_BYTES_BY_HAND = (
    (
        "INSERT INTO refresh_tokens (token_hash, user_id, device_id, created_at) VALUES (?, '@a', 'D', 1)",
        b"\1\xff",
    ),
    ("INSERT INTO login_tokens (token_hash, user_id, expires_at) VALUES (?, '@a:a.example', 1)", b"\2\xff"),
    (
        (
            "INSERT INTO browser_sessions (token_hash, user_id, created_at, proven_at, last_used_at, "
            "expires_at, address, user_agent) "
            "VALUES (?, '@a:a.example', 1, 2, 3, 4, '192.0.2.1', 'A browser')"
        ),
        b"\3\xff",
    ),
    (
        (
            "INSERT INTO oauth_clients (client_id, metadata_hash, metadata, created_at, last_used_at) "
            "VALUES ('client', ?, '{}', 1, 2)"
        ),
        b"\4\xff",
    ),
    (
        (
            "INSERT INTO oauth_codes (code_hash, client_id, user_id, device_id, scope, redirect_uri, "
            "code_challenge, expires_at) VALUES (?, 'client', '@a:a.example', 'D', 's', 'https://r', 'c', 1)"
        ),
        b"\5\xff",
    ),
    (
        (
            "INSERT INTO oauth_device_requests (device_code_hash, user_code, client_id, device_id, scope, "
            "address, created_at, expires_at, interval_ms) "
            "VALUES (?, 'BBBBBBBB', 'client', 'D', 's', '192.0.2.1', 1, 2, 3)"
        ),
        b"\6\xff",
    ),
    (
        (
            "INSERT INTO oauth_sessions (user_id, device_id, client_id, scope, code_hash, created_at) "
            "VALUES ('@a:a.example', 'D', 'client', 's', ?, 1)"
        ),
        b"\7\xff",
    ),
    ("INSERT INTO openid_tokens (token_hash, user_id, expires_at) VALUES (?, '@a:a.example', 1)", b"\0\xff"),
    (
        "INSERT INTO key_documents (server, document, valid_until, fetched_at) VALUES ('b.example', ?, 1, 1)",
        b"{}",
    ),
)


async def make(folder: Path) -> tuple[list[str], str]:
    """Let a server run in a folder until every table has rows; its rooms, and a token of Alice's."""
    async with a_place(folder) as place:
        alice = await _account(place)
        rooms = [await _room(place, version) for version in VERSIONS]
        await _belongings(alice, rooms[0])
        await settle()
    async with a_place(folder) as place:
        await settle()
        place.database.driver.write_now(lambda tx: tx.script(_BY_HAND))
        for statement, value in _BYTES_BY_HAND:
            place.database.driver.write_now(lambda tx, s=statement, v=value: tx.run(s, (v,)))  # type: ignore[misc]
    return rooms, alice.token


async def _account(place: Place) -> Client:
    served = support_rooms.Place(place.app, place.clock)
    alice = await served.client("alice")
    await served.client("amy")
    await alice.ask("PUT", at("profile", ALICE, "displayname"), {"displayname": "Alice \u2764 \U0001f98a"})
    return alice


async def _room(place: Place, version: str) -> str:
    """A room with a fork that was merged, and one that took something back; with what still waits."""
    room_id, branch = await a_shared_room(place, version)
    said = await place.say(room_id, "hello \U0001f98a")
    await place.send(room_id, ALICE, "m.room.redaction", {}, redacts=said)
    other = branch.fork()
    topic = branch.send(BOB, "m.room.topic", {"topic": "one"}, "")
    await place.accept(topic, branch.join("@eve:d.example"))
    await place.accept(
        other.send(CAROL, "m.room.topic", {"topic": "two"}, ""),
        other.send(BOB, "m.room.join_rules", {"join_rule": "invite"}, ""),
    )
    both = await place.say(room_id, "both")
    thread = {"m.relates_to": {"rel_type": "m.thread", "event_id": both}}
    named = {"m.mentions": {"user_ids": [ALICE]}, **thread}
    await place.accept(place.branch(room_id).send(BOB, "m.room.message", {"body": "in a thread", **named}))
    await _what_waits(place, room_id)
    return room_id


async def _what_waits(place: Place, room_id: str) -> None:
    """A redaction of something that nobody has seen, and an event whose predecessor is not to be had."""
    branch: Room = place.branch(room_id)
    unseen = branch.fork().send(DAVE, "m.room.message", {"body": "unseen"})
    await place.accept(branch.send(BOB, "m.room.redaction", {}, redacts=unseen.event_id))
    branch.send(BOB, "m.room.message", {"body": "lost on its way"})
    await place.receive("b.example", branch.send(BOB, "m.room.message", {"body": "and after it"}))


async def _belongings(alice: Client, room_id: str) -> None:
    """All that a user has by requests of her own."""
    own = await alice.create(room_alias_name="corner", visibility="public")
    said = await alice.say(own, "mine")
    await alice.receipt(own, said)
    await alice.account_data("m.direct", {"\0": "\ufdd0"})
    await alice.account_data("m.tag", {"tags": {}}, room_id)
    (await alice.ask("POST", at("user", alice.user_id, "filter"), {"room": {"timeline": {"limit": 3}}})).ok()
    device: str = (await alice.ask("GET", "/account/whoami")).ok()["device_id"]
    keys = {
        "device_keys": {
            "user_id": alice.user_id, "device_id": device, "algorithms": [], "keys": {}, "signatures": {},
        },
        "one_time_keys": {"signed_curve25519:AAA": {"key": "a", "signatures": {}}},
        "fallback_keys": {"signed_curve25519:BBB": {"key": "b", "signatures": {}, "fallback": True}},
    }  # fmt: skip
    (await alice.ask("POST", "/keys/upload", keys)).ok()
    messages = {"messages": {alice.user_id: {device: {"hello": 1}}}}
    (await alice.ask("PUT", at("sendToDevice", "m.test", "t1"), messages)).ok()
    category = {"room_events": {"search_term": "mine"}}
    (await alice.ask("POST", "/search", {"search_categories": category})).ok()


def content(driver: Driver) -> Content:
    """Everything that a database holds."""
    return {
        table.name: (table.columns, sorted((row for rows in read(driver, table) for row in rows), key=repr))
        for table in tables(driver)
    }


def breaches(driver: Driver) -> list[str]:
    """What breaks the store's invariants."""

    def look(tx: Tx) -> list[str]:
        events = Events()
        know_all_rooms(tx, events)
        asked = invariants(events, States())
        return [sentence for each in asked for sentence in ask(each, tx, lambda _: None)]

    return driver.read_now(look)

"""The checks on receipt of a PDU, in their order, and every way in which they end."""

from __future__ import annotations

from typing import Any

import pytest

from comity.protocol.admission import (
    Admission,
    AuthEvents,
    NeedAuthEvents,
    NeedCurrentState,
    NeedSignatures,
    NeedStateBefore,
    Outcome,
    StateBefore,
    Verdict,
    redaction_applies,
)
from comity.protocol.event import Event, encode_base64
from comity.protocol.signing import required_signers, verify
from tests.rules.rooms import ALICE, ALL_VERSIONS, BOB, CAROL, Room, a_room, key_of

SOME = ("1", "6", "10", "11", "12")


def auth_of(room: Room, event: Event, *rejected: str, create: bool = True) -> AuthEvents:
    """The answer to NeedAuthEvents out of a room's graph."""
    held = [room.graph.events[event_id] for event_id in event.auth_event_ids]
    return AuthEvents(held, frozenset(rejected).__contains__, room.create if create else None)


def begin(room: Room, value: Any) -> Admission:
    admission = Admission.received(room.version, value)
    assert isinstance(admission, Admission)
    return admission


def end(admission: Admission) -> Verdict:
    verdict = admission.next()
    assert isinstance(verdict, Verdict)
    assert admission.next() is verdict
    return verdict


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_the_whole_way(version: str) -> None:
    room = a_room(version, BOB)
    event = room.write(BOB, "m.room.message", {"body": "x"})
    admission = begin(room, dict(event.source))
    need = admission.next()
    assert isinstance(need, NeedSignatures)
    assert need.signers == frozenset({"b.example"}) == required_signers(event)
    signature = event.source["signatures"]["b.example"]["ed25519:1"]
    assert verify(bytes(key_of("b.example")._key.verify_key), need.message, signature)
    admission.feed_signatures(frozenset({"b.example"}))
    assert isinstance(admission.next(), NeedAuthEvents)
    admission.feed_auth_events(auth_of(room, event))
    assert isinstance(admission.next(), NeedStateBefore)
    admission.feed_state_before(StateBefore(room.state.get, is_current=False))
    assert isinstance(admission.next(), NeedCurrentState)
    admission.feed_current_state(room.state.get)
    verdict = end(admission)
    assert (verdict.outcome, verdict.event) == (Outcome.ACCEPT, admission.event)
    assert admission.event.content == {"body": "x"}


@pytest.mark.parametrize("version", SOME)
def test_the_current_state_is_asked_only_where_it_is_another(version: str) -> None:
    room = a_room(version, BOB)
    event = room.write(BOB, "m.room.message", {"body": "x"})
    admission = Admission.checked(event)
    admission.feed_auth_events(auth_of(room, event))
    admission.feed_state_before(StateBefore(room.state.get, is_current=True))
    assert end(admission).outcome is Outcome.ACCEPT


@pytest.mark.parametrize("version", SOME)
@pytest.mark.parametrize(
    "change",
    [
        {"type": 1}, {"sender": "bob"}, {"content": []}, {"depth": -1}, {"depth": "1"},
        {"origin_server_ts": 1.5},
        {"prev_events": "x"}, {"auth_events": [1]}, {"hashes": {}}, {"signatures": []}, {"state_key": 1},
        {"room_id": "x"}, {"content": {"body": "x" * 70_000}}, {"type": "x" * 256},
    ],
)  # fmt: skip
def test_1_a_malformed_event_is_dropped(version: str, change: dict[str, Any]) -> None:
    room = a_room(version, BOB)
    source = {**room.write(BOB, "m.room.message", {"body": "x"}).source, **change}
    verdict = Admission.received(room.version, source)
    assert isinstance(verdict, Verdict)
    assert (verdict.outcome, verdict.event) == (Outcome.DROP, None)
    assert verdict.reason
    assert "Checks on receipt, 1" in verdict.rule


@pytest.mark.parametrize("value", [None, 1, "x", [], {}])
def test_1_what_is_no_event_is_dropped(value: object) -> None:
    verdict = Admission.received(a_room("10").version, value)
    assert isinstance(verdict, Verdict)
    assert verdict.outcome is Outcome.DROP


@pytest.mark.parametrize("version", SOME)
def test_2_without_its_signatures_it_is_dropped(version: str) -> None:
    room = a_room(version, BOB)
    admission = begin(room, dict(room.write(BOB, "m.room.message", {"body": "x"}).source))
    admission.feed_signatures(frozenset({"a.example"}))
    verdict = end(admission)
    assert verdict.outcome is Outcome.DROP
    assert "b.example" in verdict.reason


def test_2_the_authorising_server_must_have_signed() -> None:
    room = a_room("10")
    event = room.membership(BOB, "join", join_authorised_via_users_server=ALICE, signers=["a.example"])
    assert required_signers(event) == {"a.example", "b.example"}
    admission = begin(room, dict(event.source))
    admission.feed_signatures(frozenset({"b.example"}))
    assert end(admission).outcome is Outcome.DROP


@pytest.mark.parametrize("version", SOME)
def test_3_with_another_hash_it_goes_on_redacted(version: str) -> None:
    room = a_room(version, BOB)
    event = room.write(BOB, "m.room.message", {"body": "x"})
    admission = begin(room, {**event.source, "content": {"body": "y"}})
    admission.feed_signatures(frozenset({"b.example"}))
    assert isinstance(admission.next(), NeedAuthEvents)
    assert admission.event.content == {}
    assert admission.event.event_id == event.event_id
    admission.feed_auth_events(auth_of(room, event))
    admission.feed_state_before(StateBefore(room.state.get, is_current=True))
    assert end(admission).event is admission.event


@pytest.mark.parametrize("version", SOME)
def test_3_a_hash_that_is_none(version: str) -> None:
    room = a_room(version, BOB)
    source = dict(room.write(BOB, "m.room.message", {"body": "x"}).source)
    for claimed in ("", "!", encode_base64(b"short")):
        admission = begin(room, {**source, "hashes": {"sha256": claimed}})
        admission.feed_signatures(required_signers(admission.event))
        assert admission.event.content == {}


@pytest.mark.parametrize("version", SOME)
def test_4_against_its_auth_events(version: str) -> None:
    room = a_room(version, BOB)
    event = room.write(BOB, "m.room.topic", {"topic": "x"}, "")
    admission = Admission.checked(event)
    admission.feed_auth_events(auth_of(room, event))
    verdict = end(admission)
    assert verdict.outcome is Outcome.REJECT
    assert verdict.rule.startswith(f"rooms/v{version} rule")


@pytest.mark.parametrize("version", SOME)
def test_4_a_rejected_auth_event(version: str) -> None:
    room = a_room(version, BOB)
    event = room.write(BOB, "m.room.message", {"body": "x"})
    admission = Admission.checked(event)
    admission.feed_auth_events(auth_of(room, event, room.state["m.room.member", BOB].event_id))
    assert end(admission).outcome is Outcome.REJECT


@pytest.mark.parametrize("version", SOME)
def test_4_auth_events_that_it_may_not_cite(version: str) -> None:
    room = a_room(version, BOB, CAROL)
    honest = room.write(BOB, "m.room.message", {"body": "x"})
    held = [room.graph.events[event_id] for event_id in honest.auth_event_ids]
    for more in (room.state["m.room.member", CAROL], room.state["m.room.join_rules", ""], held[0]):
        event = room.write(BOB, "m.room.message", {"body": "x"}, auth=[*held, more])
        admission = Admission.checked(event)
        admission.feed_auth_events(auth_of(room, event))
        assert end(admission).outcome is Outcome.REJECT
    event = room.write(
        BOB, "m.room.message", {"body": "x"}, auth=[e for e in held if e.type != "m.room.member"]
    )
    admission = Admission.checked(event)
    admission.feed_auth_events(auth_of(room, event))
    assert end(admission).outcome is Outcome.REJECT


def test_4_without_the_create_event() -> None:
    for version, create in (("12", False), ("10", True)):
        room = a_room(version, BOB)
        keep = [room.state["m.room.power_levels", ""], room.state["m.room.member", BOB]]
        event = room.write(BOB, "m.room.message", {"body": "x"}, auth=keep)
        admission = Admission.checked(event)
        admission.feed_auth_events(auth_of(room, event, create=create))
        assert end(admission).outcome is Outcome.REJECT


@pytest.mark.parametrize("version", SOME)
def test_5_against_the_state_before_it(version: str) -> None:
    room = a_room(version, BOB)
    event = room.write(BOB, "m.room.message", {"body": "x"})
    before = room.fork()
    before.ban(ALICE, BOB)
    for is_current in (True, False):
        admission = Admission.checked(event)
        admission.feed_auth_events(auth_of(room, event))
        admission.feed_state_before(StateBefore(before.state.get, is_current))
        assert end(admission).outcome is Outcome.REJECT


@pytest.mark.parametrize("version", SOME)
def test_6_against_the_current_state(version: str) -> None:
    room = a_room(version, BOB)
    event = room.write(BOB, "m.room.message", {"body": "x"})
    now = room.fork()
    now.ban(ALICE, BOB)
    admission = Admission.checked(event)
    admission.feed_auth_events(auth_of(room, event))
    admission.feed_state_before(StateBefore(room.state.get, is_current=False))
    admission.feed_current_state(now.state.get)
    verdict = end(admission)
    assert (verdict.outcome, verdict.event) == (Outcome.SOFT_FAIL, event)
    assert verdict.reason
    assert verdict.rule


@pytest.mark.parametrize("version", ALL_VERSIONS)
def test_when_a_redaction_applies(version: str) -> None:
    room = a_room(version, BOB)
    own, other = room.send(BOB, "m", {}), room.send(ALICE, "m", {})
    redaction = room.write(BOB, "m.room.redaction", {}, redacts=other.event_id)
    assert redaction_applies(redaction, other, redact_level_reached=True)
    assert redaction_applies(redaction, own, redact_level_reached=False)
    judged_before = room.version.redactions_need_authorization
    assert redaction_applies(redaction, other, redact_level_reached=False) == judged_before
    elsewhere = Room(version, creator=BOB).create
    if elsewhere.room_id != room.room_id:
        assert not redaction_applies(redaction, elsewhere, redact_level_reached=True)

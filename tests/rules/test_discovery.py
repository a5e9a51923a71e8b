"""server-server §Resolving server names: every branch, and how long results are kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.protocol.discovery import (
    DEFAULT_CACHE_MS,
    FIRST_ERROR_CACHE_MS,
    MAX_CACHE_MS,
    MAX_ERROR_CACHE_MS,
    MAX_TARGETS,
    MAX_WELL_KNOWN_BYTES,
    MIN_CACHE_MS,
    Discovery,
    Found,
    LookUpSrv,
    LookUpWellKnown,
    SrvAnswer,
    SrvPlace,
    Target,
    Unreachable,
    WellKnownAnswer,
    error_cache_ms,
)

NONE = WellKnownAnswer(404)
NO_RECORD = SrvAnswer()


def well_known(text: str) -> WellKnownAnswer:
    return WellKnownAnswer(200, {}, f'{{"m.server": "{text}"}}'.encode())


def run(server_name: str, *answers: WellKnownAnswer | SrvAnswer) -> tuple[list[str], Found | Unreachable]:
    """What is asked until the end, and the end."""
    discovery = Discovery(server_name)
    asked = []
    left = list(answers)
    while not isinstance(step := discovery.next(), (Found, Unreachable)):
        assert discovery.next() is step
        asked.append(step.url if isinstance(step, LookUpWellKnown) else step.name)
        discovery.feed(left.pop(0))
    assert not left
    return asked, step


def target(step: Found | Unreachable) -> Target:
    assert isinstance(step, Found)
    (only,) = step.targets
    return only


@pytest.mark.parametrize(
    ("name", "host", "port"),
    [
        ("1.2.3.4", "1.2.3.4", 8448),
        ("1.2.3.4:80", "1.2.3.4", 80),
        ("[2001:db8::1]", "2001:db8::1", 8448),
        ("[2001:db8::1]:80", "2001:db8::1", 80),
    ],
)
def test_step_1_ip_literals(name: str, host: str, port: int) -> None:
    asked, step = run(name)
    assert (asked, target(step)) == ([], Target(host, port, host, name))


def test_step_2_a_port() -> None:
    asked, step = run("example.org:80")
    assert (asked, target(step)) == ([], Target("example.org", 80, "example.org", "example.org:80"))


@pytest.mark.parametrize(
    ("delegated", "host", "port"),
    [
        ("1.2.3.4", "1.2.3.4", 8448),
        ("1.2.3.4:80", "1.2.3.4", 80),
        ("[2001:db8::1]", "2001:db8::1", 8448),
        ("[2001:db8::1]:80", "2001:db8::1", 80),
        ("matrix.example.org:443", "matrix.example.org", 443),
    ],
)
def test_steps_3_1_and_3_2_a_well_known_that_says_it_all(delegated: str, host: str, port: int) -> None:
    asked, step = run("example.org", well_known(delegated))
    assert asked == ["https://example.org/.well-known/matrix/server"]
    assert target(step) == Target(host, port, host, delegated)


def test_step_3_3_delegated_and_srv() -> None:
    asked, step = run(
        "example.org", well_known("d.org"), SrvAnswer((SrvPlace("a.net.", 1), SrvPlace("b.net", 2)))
    )
    assert asked == ["https://example.org/.well-known/matrix/server", "_matrix-fed._tcp.d.org"]
    assert isinstance(step, Found)
    assert step.targets == (Target("a.net", 1, "d.org", "d.org"), Target("b.net", 2, "d.org", "d.org"))
    assert (step.cache_ms, step.errors) == (DEFAULT_CACHE_MS, 0)


def test_step_3_4_delegated_and_the_deprecated_srv() -> None:
    asked, step = run("example.org", well_known("d.org"), NO_RECORD, SrvAnswer((SrvPlace("a.net", 1),)))
    assert asked[1:] == ["_matrix-fed._tcp.d.org", "_matrix._tcp.d.org"]
    assert target(step) == Target("a.net", 1, "d.org", "d.org")


def test_step_3_5_delegated_without_srv() -> None:
    asked, step = run("example.org", well_known("d.org"), NO_RECORD, NO_RECORD)
    assert len(asked) == 3
    assert target(step) == Target("d.org", 8448, "d.org", "d.org")


def test_step_4_srv() -> None:
    asked, step = run("example.org", NONE, SrvAnswer((SrvPlace("a.net", 443),)))
    assert asked[1:] == ["_matrix-fed._tcp.example.org"]
    assert target(step) == Target("a.net", 443, "example.org", "example.org")


def test_step_5_the_deprecated_srv() -> None:
    asked, step = run("example.org", NONE, NO_RECORD, SrvAnswer((SrvPlace("a.net", 443),)))
    assert asked[1:] == ["_matrix-fed._tcp.example.org", "_matrix._tcp.example.org"]
    assert target(step) == Target("a.net", 443, "example.org", "example.org")


def test_step_6_the_host_itself() -> None:
    _, step = run("example.org", NONE, NO_RECORD, NO_RECORD)
    assert target(step) == Target("example.org", 8448, "example.org", "example.org")
    assert isinstance(step, Found)
    assert (step.cache_ms, step.errors) == (FIRST_ERROR_CACHE_MS, 1)


@pytest.mark.parametrize(
    "answer",
    [
        WellKnownAnswer(None),
        WellKnownAnswer(404, {}, b'{"m.server": "d.org:1"}'),
        WellKnownAnswer(500, {}, b'{"m.server": "d.org:1"}'),
        WellKnownAnswer(301, {}, b'{"m.server": "d.org:1"}'),
        WellKnownAnswer(200, {}, b""),
        WellKnownAnswer(200, {}, b"<html>"),
        WellKnownAnswer(200, {}, b"\xff"),
        WellKnownAnswer(200, {}, b"[]"),
        WellKnownAnswer(200, {}, b"{}"),
        WellKnownAnswer(200, {}, b'{"m.server": null}'),
        WellKnownAnswer(200, {}, b'{"m.server": ["d.org"]}'),
        well_known(""),
        well_known("https://d.org"),
        well_known("d.org:"),
        well_known("d.org:0"),
        well_known("d.org:99999"),
        well_known("d.org/path"),
        well_known("d org"),
        well_known("[::zz]"),
        well_known("300.1.1.1"),
        WellKnownAnswer(200, {}, b'{"m.server": "d.org:1"}' + b" " * MAX_WELL_KNOWN_BYTES),
    ],
)
def test_an_invalid_well_known_leads_to_step_4(answer: WellKnownAnswer) -> None:
    asked, step = run("example.org", answer, NO_RECORD, NO_RECORD)
    assert asked[1] == "_matrix-fed._tcp.example.org"
    assert isinstance(step, Found)
    assert step.cache_ms <= MAX_ERROR_CACHE_MS


def test_a_well_known_may_name_the_server_itself() -> None:
    asked, step = run("example.org", well_known("example.org"), NO_RECORD, NO_RECORD)
    assert asked.count("https://example.org/.well-known/matrix/server") == 1
    assert target(step).port == 8448


def test_a_failed_srv_look_up_is_not_believed_for_long() -> None:
    _, step = run("example.org", well_known("d.org"), SrvAnswer(failed=True), NO_RECORD)
    assert isinstance(step, Found)
    assert step.targets[0].host == "d.org"
    assert (step.cache_ms, step.errors) == (FIRST_ERROR_CACHE_MS, 1)


@pytest.mark.parametrize(
    "record", [(".", 0), (".", 443), ("", 443), ("a.net", 0), ("a" * 64, 443), ("a..b", 1)]
)
def test_srv_records_that_lead_nowhere(record: tuple[str, int]) -> None:
    _, step = run("example.org", NONE, SrvAnswer((SrvPlace(*record),)))
    assert isinstance(step, Unreachable)
    assert "_matrix-fed._tcp.example.org" in step.reason
    _, step = run("example.org", NONE, SrvAnswer((SrvPlace(*record), SrvPlace("b.net", 2))))
    assert target(step).host == "b.net"


def test_srv_targets_are_bounded() -> None:
    _, step = run("example.org", NONE, SrvAnswer(tuple(SrvPlace(f"{n}.net", 1) for n in range(100))))
    assert isinstance(step, Found)
    assert [t.host for t in step.targets] == [f"{n}.net" for n in range(MAX_TARGETS)]


@pytest.mark.parametrize(
    "name", ["", "a b", "example.org:0", "a" * 64 + ".org", "a..b", ".", ".a", "a" * 300]
)
def test_names_that_nobody_can_look_up(name: str) -> None:
    _, step = run(name)
    assert isinstance(step, Unreachable)
    assert step.cache_ms == FIRST_ERROR_CACHE_MS
    assert step.reason


def test_a_delegation_to_a_name_that_nobody_can_look_up() -> None:
    _, step = run("example.org", well_known("a" * 64 + ".org"))
    assert isinstance(step, Unreachable)


def test_the_dot_at_the_end_of_a_name_is_not_in_certificates() -> None:
    asked, step = run("example.org.", NONE, NO_RECORD, NO_RECORD)
    assert asked[0] == "https://example.org/.well-known/matrix/server"
    assert target(step) == Target("example.org", 8448, "example.org", "example.org.")


def test_only_the_question_asked_is_answered() -> None:
    discovery = Discovery("example.org")
    with pytest.raises(ValueError, match="does not answer"):
        discovery.feed(NO_RECORD)
    discovery.feed(NONE)
    with pytest.raises(ValueError, match="does not answer"):
        discovery.feed(NONE)
    discovery.feed(SrvAnswer((SrvPlace("a", 1),)))
    with pytest.raises(ValueError, match="does not answer"):
        discovery.feed(NO_RECORD)


HOUR = 3_600_000
DATE = "Mon, 01 Jan 2024 00:00:00 GMT"
DATE_MS = 1_704_067_200_000


@pytest.mark.parametrize(
    ("headers", "cache_ms"),
    [
        ({}, DEFAULT_CACHE_MS),
        ({"cache-control": "max-age=3600"}, HOUR),
        ({"cache-control": "public, Max-Age = 3600, immutable"}, HOUR),
        ({"cache-control": 'max-age="3600"'}, HOUR),
        ({"cache-control": "max-age=3600", "age": "1800"}, HOUR // 2),
        ({"cache-control": "max-age=3600", "age": "nonsense"}, HOUR),
        ({"cache-control": "max-age=999999999999"}, MAX_CACHE_MS),
        ({"cache-control": "max-age=0"}, MIN_CACHE_MS),
        ({"cache-control": "max-age=-5"}, DEFAULT_CACHE_MS),
        ({"cache-control": "no-store"}, MIN_CACHE_MS),
        ({"cache-control": "No-Cache, max-age=3600"}, MIN_CACHE_MS),
        ({"cache-control": "public"}, DEFAULT_CACHE_MS),
        ({"expires": "Mon, 01 Jan 2024 02:00:00 GMT", "date": DATE}, 2 * HOUR),
        ({"expires": "Mon, 01 Jan 2024 02:00:00 GMT", "date": DATE, "age": "3600"}, HOUR),
        ({"expires": "Mon, 01 Jan 2024 02:00:00 GMT"}, HOUR),  # received an hour after DATE
        ({"expires": "Mon, 01 Jan 2024 02:00:00 GMT", "date": "nonsense"}, HOUR),
        ({"expires": "Mon, 01 Jan 2024 02:00:00 GMT", "date": DATE, "cache-control": "max-age=3600"}, HOUR),
        ({"expires": "Mon, 01 Jan 2023 02:00:00 GMT", "date": DATE}, MIN_CACHE_MS),
        ({"expires": "Mon, 01 Jan 2124 02:00:00 GMT", "date": DATE}, MAX_CACHE_MS),
        ({"expires": "0", "date": DATE}, MIN_CACHE_MS),
        ({"expires": "Mon, 99 Foo 2024 02:00:00", "date": DATE}, MIN_CACHE_MS),
    ],
)
def test_how_long_a_document_is_kept(headers: dict[str, str], cache_ms: int) -> None:
    answer = WellKnownAnswer(200, headers, b'{"m.server": "d.org:1"}', DATE_MS + HOUR)
    _, step = run("example.org", answer)
    assert isinstance(step, Found)
    assert (step.cache_ms, step.errors) == (cache_ms, 0)


def test_errors_in_a_row_are_believed_longer_up_to_an_hour() -> None:
    kept = []
    errors = 0
    for _ in range(8):
        discovery = Discovery("example.org", errors_before=errors)
        for answer in (NONE, NO_RECORD, NO_RECORD):
            discovery.feed(answer)
        step = discovery.next()
        assert isinstance(step, Found)
        kept.append(step.cache_ms)
        errors = step.errors
    assert kept == [300_000, 600_000, 1_200_000, 2_400_000, HOUR, HOUR, HOUR, HOUR]
    assert errors == 8
    assert error_cache_ms(10**9) == MAX_ERROR_CACHE_MS
    discovery = Discovery("example.org", errors_before=errors)
    discovery.feed(well_known("d.org:1"))
    found = discovery.next()
    assert isinstance(found, Found)
    assert found.errors == 0


@given(
    st.sampled_from(["example.org", "1.2.3.4", "example.org:1", "[::1]"]),
    st.integers(100, 599) | st.none(),
    st.dictionaries(st.sampled_from(["cache-control", "expires", "date", "age"]), st.text(max_size=40)),
    st.binary(max_size=60),
    st.lists(st.tuples(st.text(max_size=8), st.integers(-1, 70000)), max_size=4),
    st.booleans(),
)
def test_whatever_is_answered_there_is_an_end(
    name: str,
    status: int | None,
    headers: dict[str, str],
    body: bytes,
    records: list[tuple[str, int]],
    failed: bool,
) -> None:
    discovery = Discovery(name)
    for _ in range(4):
        step = discovery.next()
        if isinstance(step, LookUpWellKnown):
            discovery.feed(WellKnownAnswer(status, headers, body))
        elif isinstance(step, LookUpSrv):
            discovery.feed(SrvAnswer(tuple(SrvPlace(*record) for record in records), failed))
    end = discovery.next()
    assert isinstance(end, Found | Unreachable)
    assert MIN_CACHE_MS <= end.cache_ms <= MAX_CACHE_MS

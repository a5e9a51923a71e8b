"""The seeds of `fuzz/`: every one through its target on every run of the tests, and proof that the
fuzzer finds what is there to be found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz.examiner import Examiner, Finding, TooSlow, write_finding
from fuzz.plain import PlainEngine
from fuzz.shrink import shrink
from fuzz.target import CORPUS, Broken, Check, Target, require
from fuzz.targets import NAMES, load

#: Inputs within which a planted fault must be found; most are found within a tenth of that.
ENOUGH = 20_000


@pytest.fixture(autouse=True, scope="module")
def worlds_are_closed() -> Iterator[None]:
    """The servers of the targets that need one end with this module."""
    yield
    from fuzz.targets.requests import close_worlds

    close_worlds()


@pytest.mark.parametrize("name", NAMES)
def test_no_seed_breaks_anything(name: str) -> None:
    target = load(name)
    seeds = target.seeds()
    assert len(seeds) >= 5
    assert max(map(len, seeds)) <= target.max_bytes
    labels = {target.check(seed) for seed in seeds}
    assert len(labels) > 1, "all seeds go the same way: none of them gets inside"


def test_every_folder_of_seeds_has_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(NAMES)


# -- the fuzzer can fail


def events_with(check: Check, seconds: float = 1.0) -> Target:
    """The target `events`, its seeds and all, with another check."""
    real = load("events")
    return Target(
        "events", check, json=True, separator=b"\n", heads=real.heads, words=real.words, seconds=seconds
    )


def hunt(target: Target, seed: int = 1) -> tuple[list[Finding], int]:
    """What the plain engine finds first, and after how many inputs."""
    examiner = Examiner(target)
    engine = PlainEngine(target, examiner, seed)
    while engine.inputs < ENOUGH and not examiner.findings:
        engine.step()
    return list(examiner.findings.values()), engine.inputs


def well_formed(data: bytes) -> dict[str, object]:
    """The event of an input, or {}."""
    try:
        value = json.loads(data.partition(b"\n")[2])
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def planted(data: bytes) -> str:
    """A parser that forgets that `depth` may be no number, deep inside what is well-formed."""
    event = well_formed(data)
    if isinstance(event.get("content"), dict) and event.get("type") == "m.room.power_levels":
        return "deep" if int(event["depth"]) >= 0 else "negative"  # type: ignore[call-overload]
    return "shallow"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_forgotten_type_is_found(seed: int) -> None:
    findings, inputs = hunt(events_with(planted), seed)
    assert findings, f"not within {inputs} inputs"
    assert inputs > len(load("events").seeds()), "a seed shows it: nothing is proven"
    assert findings[0].signature.split(":")[0] in ("KeyError", "TypeError", "ValueError", "OverflowError")


def test_a_property_that_does_not_hold_is_found() -> None:
    def check(data: bytes) -> str:
        event = well_formed(data)
        require(
            event.get("sender") != event.get("state_key") or len(event) > 9,
            "nobody has said it of themselves",
        )
        return str(len(event))

    findings, inputs = hunt(events_with(check))
    assert findings, f"not within {inputs} inputs"
    assert findings[0].signature.startswith("Broken: nobody")


def test_what_takes_too_long_is_found() -> None:
    def check(data: bytes) -> str:
        while b"membership" in data:
            pass
        return ""

    findings, _ = hunt(events_with(check, seconds=0.05))
    assert findings[0].signature == "CutOff"


def test_what_is_slow_but_ends_is_found() -> None:
    def check(data: bytes) -> str:
        return str(sum(range(2_000_000)))

    findings, _ = hunt(events_with(check, seconds=0.01))
    # Cut off, or, on a fast machine, seen afterwards.
    assert findings[0].signature in ("CutOff", f"{TooSlow.__name__}: takes more than 0.01 s")


def test_a_finding_is_made_small_and_kept(tmp_path: Path) -> None:
    def check(data: bytes) -> str:
        require(b"power" not in data or b"ban" not in data, "both")
        return ""

    findings, _ = hunt(events_with(check))
    assert findings[0].data in (b"powerban", b"banpower")
    write_finding(tmp_path, findings[0])
    kept = {path.suffix: path.read_bytes() for path in tmp_path.iterdir()}
    assert kept[""] == findings[0].data
    assert kept[".txt"].startswith(b"Broken: both\n")


def test_making_small_keeps_the_failure() -> None:
    assert shrink(b"a" * 100 + b"x" + b"b" * 100, lambda data: b"x" in data, 5.0) == b"x"


def test_the_same_seed_gives_the_same_inputs() -> None:
    def run() -> list[bytes]:
        seen: list[bytes] = []

        def check(data: bytes) -> str:
            seen.append(data)
            return str(len(data))

        engine = PlainEngine(events_with(check), Examiner(events_with(check)), 7)
        while engine.inputs < 300:
            engine.step()
        return seen

    assert run() == run()


def test_an_exception_has_the_place_in_comity_that_it_left() -> None:
    from comity.protocol.identifiers import parse_server_name

    def check(data: bytes) -> str:
        return str(parse_server_name(data.decode("latin-1")))

    examiner = Examiner(events_with(check))
    assert examiner.examine(b"not a name") is None
    assert next(iter(examiner.findings)).startswith("ValueError at comity/protocol/identifiers.py:")
    with pytest.raises(Broken):
        require(False, "a property that does not hold")

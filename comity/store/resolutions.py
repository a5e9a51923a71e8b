"""What state resolution did to a room, at rest: which states were merged, and what was lost by it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from comity.protocol.event import StateKey
from comity.store.database import Tx
from comity.store.state import NAME_BYTES


@dataclass(frozen=True, slots=True)
class Resolution:
    """Several states of a room, by the names of their pages, and the one that they resolve to."""

    inputs: tuple[bytes, ...]
    result: bytes


@dataclass(frozen=True, slots=True)
class Reversion:
    """An entry of the current state that state resolution took back or away; no event said so."""

    key: StateKey
    #: The event that stood, and the older one that stands now (0: none), by number.
    was: int
    became: int
    #: Why, in words.
    cause: str


def record(tx: Tx, room_num: int, position: int, resolutions: Iterable[Resolution]) -> None:
    """Store resolutions; one that is there already keeps its position."""
    tx.many(
        "INSERT INTO state_resolutions (room_num, inputs, position, result) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (room_num, inputs) DO NOTHING",
        [(room_num, _pack(item.inputs), position, item.result) for item in resolutions],
    )


def latest(tx: Tx, room_num: int, limit: int) -> list[tuple[int, Resolution]]:
    """(position, resolution) of a room's newest `limit` resolutions, newest first."""
    rows = tx.all(
        "SELECT position, inputs, result FROM state_resolutions WHERE room_num = ? "
        "ORDER BY position DESC LIMIT ?",
        (room_num, limit),
    )
    return [(row[0], Resolution(unpack_names(bytes(row[1])), bytes(row[2]))) for row in rows]


def record_reversions(tx: Tx, room_num: int, position: int, reversions: Iterable[Reversion]) -> None:
    """Store what the event at `position` brought about."""
    tx.many(
        "INSERT INTO state_reversions (room_num, position, type, state_key, was, became, cause) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(room_num, position, *item.key, item.was, item.became, item.cause) for item in reversions],
    )


def reversions(tx: Tx, room_num: int, limit: int) -> list[tuple[int, Reversion]]:
    """(position, reversion) of a room's newest `limit` reversions, newest first."""
    rows = tx.all(
        "SELECT position, type, state_key, was, became, cause FROM state_reversions WHERE room_num = ? "
        "ORDER BY position DESC, type, state_key LIMIT ?",
        (room_num, limit),
    )
    return [(row[0], Reversion((row[1], row[2]), row[3], row[4], row[5])) for row in rows]


def _pack(names: Sequence[bytes]) -> bytes:
    # The empty state has an empty name; it is written as zeroes, which no page is called.
    return b"".join(name or bytes(NAME_BYTES) for name in names)


def unpack_names(packed: bytes) -> tuple[bytes, ...]:
    """The names of `inputs` as they are stored."""
    names = (packed[start : start + NAME_BYTES] for start in range(0, len(packed), NAME_BYTES))
    return tuple(name if any(name) else b"" for name in names)

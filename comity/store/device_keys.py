"""Devices' keys at rest: identity keys, one-time keys, fallback keys, and whose list changed.

Plain functions over an open transaction; keys are JSON text as their device signed it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

import orjson

from comity.store.cache import Bounded, Followed
from comity.store.database import Tx
from comity.store.lists import parts, row_parts

#: Devices whose counts are remembered: about 500 bytes each.
MAX_COUNTED = 20_000
#: The algorithm of the one-time keys that apps encrypt by.
ONE_TIME_KEYS = "signed_curve25519"
#: Under what a key that was given out is remembered among the clients' transactions, as long as those are.
_GIVEN = "one-time key"


@dataclass(frozen=True, slots=True)
class KeysLeft:
    """One-time keys of a device by algorithm, and the algorithms with an unused fallback key.

    Of a device that has identity keys, none of the kind that apps encrypt by is a number: some take a count
    that is left out for one that has not changed, and would make no other keys. `told` are both as a sync
    tells them, as JSON members.
    """

    one_time: dict[str, int]
    fallbacks: list[str]
    told: bytes = field(init=False)

    def __post_init__(self) -> None:
        told = b'"device_one_time_keys_count":%b,"device_unused_fallback_key_types":%b' % (
            orjson.dumps(self.one_time),
            orjson.dumps(self.fallbacks),
        )
        object.__setattr__(self, "told", told)


class KeyCounts:
    """How many keys of devices are left to be given out, remembered: every sync tells it."""

    def __init__(self) -> None:
        self._known: Followed[tuple[str, str], KeysLeft] = Followed(MAX_COUNTED)
        #: Device -> the position at which keys of it were last given out.
        self._given: Bounded[tuple[str, str], int] = Bounded(MAX_COUNTED)

    def get(self, tx: Tx, user_id: str, device_id: str) -> KeysLeft:
        """What is left of a device's keys."""
        known = self._known.get((user_id, device_id))
        if known is None:
            one_time = one_time_key_counts(tx, user_id, device_id)
            if ONE_TIME_KEYS not in one_time and identity(tx, user_id, device_id) is not None:
                one_time[ONE_TIME_KEYS] = 0
            known = KeysLeft(one_time, unused_fallback_algorithms(tx, user_id, device_id))
            self._known.keep((user_id, device_id), known, tx.as_of)
        return known

    def known_since(self, device: tuple[str, str], position: int) -> KeysLeft | None:
        """The same as `get`, if it is remembered and no keys of (user id, device id) were given out behind a
        position."""
        given = self._given.peek(device)
        return self._known.peek(device) if given is None or given <= position else None

    def change(self, user_id: str, device_id: str, commits: int) -> None:
        """Keys of a device came or went, as is on disk; `commits` is the database's."""
        self._known.change((user_id, device_id), commits)

    def given(self, user_id: str, device_id: str, position: int) -> None:
        """A key of a device was given out at `position`: the device is to be told soon, to make others."""
        self._given.put((user_id, device_id), position)

    def last_given(self, user_id: str, device_id: str) -> int:
        """The position at which keys of a device were last given out; 0 if that is not remembered.

        In memory alone: whoever missed it for a restart is told with whatever comes next.
        """
        return self._given.peek((user_id, device_id)) or 0


def device_keys(tx: Tx, user_id: str) -> list[tuple[str, str, str | None]]:
    """(device id, JSON text, display name) of every device of a user that has identity keys."""
    return [row[1:] for row in sorted(device_keys_of(tx, (user_id,)))]


def device_keys_of(tx: Tx, user_ids: Iterable[str]) -> list[tuple[str, str, str, str | None]]:
    """(user id, device id, JSON text, display name) of every device of these users that has identity keys."""
    found: list[tuple[str, str, str, str | None]] = []
    for marks, part in parts(user_ids):
        rows = tx.all(
            "SELECT k.user_id, k.device_id, k.json, d.display_name FROM device_keys k LEFT JOIN devices d "
            f"ON d.user_id = k.user_id AND d.device_id = k.device_id WHERE k.user_id IN ({marks})",
            part,
        )
        found += cast(list[tuple[str, str, str, str | None]], rows)
    return found


def identity(tx: Tx, user_id: str, device_id: str) -> str | None:
    """The identity keys of one device, as JSON text."""
    row = tx.one("SELECT json FROM device_keys WHERE user_id = ? AND device_id = ?", (user_id, device_id))
    return row[0] if row else None


def put_identity(tx: Tx, user_id: str, device_id: str, json: str) -> None:
    """Set the identity keys of a device."""
    tx.run(
        "INSERT INTO device_keys (user_id, device_id, json) VALUES (?, ?, ?) "
        "ON CONFLICT (user_id, device_id) DO UPDATE SET json = excluded.json",
        (user_id, device_id, json),
    )


def delete(tx: Tx, user_id: str, device_id: str) -> bool:
    """Delete every key of a device; whether it had identity keys."""
    mine = (user_id, device_id)
    tx.run("DELETE FROM one_time_keys WHERE user_id = ? AND device_id = ?", mine)
    tx.run("DELETE FROM fallback_keys WHERE user_id = ? AND device_id = ?", mine)
    return tx.changed("DELETE FROM device_keys WHERE user_id = ? AND device_id = ?", mine) > 0


# -- whose devices changed


def mark_changed(tx: Tx, user_id: str, position: int) -> None:
    """A user's devices, or their identity keys, changed at `position`."""
    tx.run(
        "INSERT INTO device_lists (user_id, position) VALUES (?, ?) "
        "ON CONFLICT (user_id) DO UPDATE SET position = excluded.position",
        (user_id, position),
    )


def changed_since(tx: Tx, position: int, upto: int) -> list[str]:
    """Users whose devices last changed at `position < p <= upto`."""
    rows = tx.all("SELECT user_id FROM device_lists WHERE position > ? AND position <= ?", (position, upto))
    return [row[0] for row in rows]


# -- keys that are given out


def one_time_keys(
    tx: Tx, user_id: str, device_id: str, named: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], str]:
    """(algorithm, key id) -> JSON text of those one-time keys that are there."""
    found: dict[tuple[str, str], str] = {}
    for algorithm in {name[0] for name in named}:
        for marks, part in parts(key_id for of, key_id in named if of == algorithm):
            rows = tx.all(
                "SELECT key_id, json FROM one_time_keys WHERE user_id = ? AND device_id = ? "
                f"AND algorithm = ? AND key_id IN ({marks})",
                [user_id, device_id, algorithm, *part],
            )
            found.update(((algorithm, row[0]), row[1]) for row in rows)
    return found


def add_one_time_keys(
    tx: Tx, user_id: str, device_id: str, keys: Iterable[tuple[str, str, str]], uploaded_at: int
) -> None:
    """Add one-time keys that are not there yet: (algorithm, key id, JSON text)."""
    tx.many(
        "INSERT INTO one_time_keys (user_id, device_id, algorithm, key_id, uploaded_at, json) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        [(user_id, device_id, algorithm, key_id, uploaded_at, json) for algorithm, key_id, json in keys],
    )


def put_fallback_key(tx: Tx, user_id: str, device_id: str, algorithm: str, key_id: str, json: str) -> None:
    """Set the fallback key of an algorithm; it is unused, unless it is the one that is there already."""
    tx.run(
        "INSERT INTO fallback_keys (user_id, device_id, algorithm, key_id, json, used) "
        "VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT (user_id, device_id, algorithm) DO UPDATE SET "
        "key_id = excluded.key_id, json = excluded.json, used = CASE "
        "WHEN fallback_keys.key_id = excluded.key_id AND fallback_keys.json = excluded.json "
        "THEN fallback_keys.used ELSE 0 END",
        (user_id, device_id, algorithm, key_id, json),
    )


def one_time_key_counts(tx: Tx, user_id: str, device_id: str) -> dict[str, int]:
    """algorithm -> how many one-time keys are left (`device_one_time_keys_count` of sync)."""
    rows = tx.all(
        "SELECT algorithm, count(*) FROM one_time_keys WHERE user_id = ? AND device_id = ? "
        "GROUP BY algorithm",
        (user_id, device_id),
    )
    return {row[0]: row[1] for row in rows}


def unused_fallback_algorithms(tx: Tx, user_id: str, device_id: str) -> list[str]:
    """Algorithms with an unused fallback key (`device_unused_fallback_key_types` of sync)."""
    rows = tx.all(
        "SELECT algorithm FROM fallback_keys WHERE user_id = ? AND device_id = ? AND used = 0 "
        "ORDER BY algorithm",
        (user_id, device_id),
    )
    return [row[0] for row in rows]


@dataclass(frozen=True, slots=True)
class GivenKey:
    """A key that is given out; `is_less`: whether the device has less of them now."""

    user_id: str
    device_id: str
    algorithm: str
    key_id: str
    json: str
    is_less: bool


#: The name of the oldest key of each device, and the part of it that the order is by.
_OLDEST = (
    "(SELECT k.{column} FROM one_time_keys k WHERE k.user_id = w.user_id AND k.device_id = w.device_id "
    "AND k.algorithm = w.algorithm ORDER BY k.uploaded_at, k.key_id LIMIT 1)"
)
_TAKE = (
    "WITH wanted (user_id, device_id, algorithm) AS (VALUES {marks}) DELETE FROM one_time_keys "
    "WHERE (user_id, device_id, algorithm, uploaded_at, key_id) IN (SELECT w.user_id, w.device_id, "
    f"w.algorithm, {_OLDEST.format(column='uploaded_at')}, {_OLDEST.format(column='key_id')} FROM wanted w) "
    "RETURNING user_id, device_id, algorithm, key_id, json"
)


def claim(tx: Tx, wanted: Iterable[tuple[str, str, str]], now_ms: int) -> list[GivenKey]:
    """Keys to give out, one at most for each (user id, device id, algorithm).

    Each is a one-time key, which is gone then, or the fallback key, which is used from its first time on.
    """
    left = set(wanted)
    given: list[GivenKey] = []
    for marks, part in row_parts(sorted(left), 3):
        for row in tx.all(_TAKE.replace("{marks}", marks), part):
            given.append(GivenKey(row[0], row[1], row[2], row[3], row[4], is_less=True))
            left.discard(row[:3])
    _note_given(tx, given, now_ms)
    unused: list[tuple[str, str, str]] = []
    for marks, part in row_parts(sorted(left), 3):
        for row in tx.all(
            "SELECT user_id, device_id, algorithm, key_id, json, used FROM fallback_keys "
            f"WHERE (user_id, device_id, algorithm) IN (VALUES {marks})",
            part,
        ):
            given.append(GivenKey(row[0], row[1], row[2], row[3], row[4], is_less=not row[5]))
            if not row[5]:
                unused.append(row[:3])
    tx.many("UPDATE fallback_keys SET used = 1 WHERE user_id = ? AND device_id = ? AND algorithm = ?", unused)
    return given


def _note_given(tx: Tx, given: Sequence[GivenKey], now_ms: int) -> None:
    tx.many(
        "INSERT INTO client_transactions (user_id, device_id, scope, transaction_id, event_id, at) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (user_id, device_id, scope, transaction_id) "
        "DO UPDATE SET event_id = excluded.event_id, at = excluded.at",
        [
            (key.user_id, key.device_id, _GIVEN, f"{key.algorithm}:{key.key_id}", _digest(key.json), now_ms)
            for key in given
        ],
    )


def given_before(
    tx: Tx, user_id: str, device_id: str, keys: Sequence[tuple[str, str, str]]
) -> set[tuple[str, str]]:
    """(algorithm, key id) of those of `keys` that were given out: (algorithm, key id, JSON text) each.

    A device that was not answered uploads the same keys again; by then somebody may have some of them.
    """
    names = {f"{algorithm}:{key_id}": (algorithm, key_id, json) for algorithm, key_id, json in keys}
    given: set[tuple[str, str]] = set()
    for marks, some in parts(names):
        for name, digest in tx.all(
            "SELECT transaction_id, event_id FROM client_transactions WHERE user_id = ? AND device_id = ? "
            f"AND scope = ? AND transaction_id IN ({marks})",
            (user_id, device_id, _GIVEN, *some),
        ):
            algorithm, key_id, json = names[name]
            if digest == _digest(json):
                given.add((algorithm, key_id))
    return given


def _digest(json: str) -> str:
    """What tells a key from another one of the same name, in whatever order its members are."""
    return hashlib.sha256(orjson.dumps(orjson.loads(json), option=orjson.OPT_SORT_KEYS)).hexdigest()

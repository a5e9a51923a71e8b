"""From one input the next: changes to bytes, and to JSON that stays well-formed.

Chance comes from a `random.Random` of the caller, so a seed gives the same inputs again. Owns
what is worth trying; never runs a target.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from fuzz.target import Target

#: Values at which somebody's assumption ends.
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 50, 100, 255, 2**31, 2**53 - 1, 2**53, -(2**53), 2**63 - 1, 2**63,
    2**64, -(2**63) - 1, 10**40, 0.0, -0.0, 1.5, 1e-7, 1e16, 1e308, "", "0", "-1", " 7 ", "1_0", "١", "*",
    "?", "**?*", ".", "a.b", "\\", "\x00", "\n", "\u2028", "\ud800", "\udfff", "ß", "İ", "ﬃ", "é",
    "\U0001f600", "@", "@:", "@a:", "@alice:a.example", "@bob:b.example", "!", "!a:b", "#a:b", "$", "$a:b",
    "[::1]", "a.example", "256.1.1.1", "a:99999", "m.room.create", "m.room.member", "m.room.power_levels",
    "join", "invite", "ban", "leave", "knock", "public", "restricted", "AAAA", "====", "-_-_", [], {}, [[]],
    [{}], {"": {}}, [None], ["*"], {"a": 1}, {"@alice:a.example": 100},
)  # fmt: skip
#: Characters that some grammar treats apart.
CHARACTERS = "\x00\t\n\r \"\\,.:;=*?/%+-_~@!#$[]{}()|^0129azAZ'\x7f\x80é߀İ\u2028\ufeff\U0001f600"
BYTES = (b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\r\n", b"\n", b'"', b"\\", b"%00", b"%ff", b"\\u0000")
#: How deep a value may be nested for the walk over it; deeper JSON is changed as bytes.
MAX_WALKED = 400
#: Nodes of a value that are walked; the rest of a larger one stays as it is.
MAX_NODES = 2_000

Place = tuple[Any, Any]


def _walk(value: Any) -> list[Place]:
    """Every place in a JSON value that holds another: (container, key or index)."""
    places: list[Place] = []
    waiting: list[Any] = [value]
    while waiting and len(places) < MAX_NODES:
        item = waiting.pop()
        keys: Iterator[Any] = iter(item) if isinstance(item, dict) else iter(range(len(item)))
        for key in keys:
            places.append((item, key))
            if isinstance(item[key], dict | list):
                waiting.append(item[key])
    return places


class Mutator:
    """Changes inputs of one target. `donors` are values and pieces of its seeds."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._seeds = target.seeds() or [b""]
        self._donors: list[Any] = list(VALUES)
        self._names: list[str] = [*target.words]
        self._words = [word.encode("utf-8", "surrogatepass") for word in target.words]
        for seed in self._seeds:
            self._learn(target.split(seed)[1])
        self._value_changes: tuple[Callable[[Random, Any], None], ...] = (
            self._replace, self._replace, self._replace, self._remove, self._rename, self._add, self._add,
            self._copy, self._move, self._wrap, self._repeat, self._rewrite, self._rewrite, self._rewrite,
        )  # fmt: skip

    def _learn(self, body: bytes) -> None:
        if not self._target.json:
            self._words.append(body[:200])
            return
        value = _parse(body)
        if isinstance(value, dict | list):
            for container, key in _walk(value):
                self._donors.append(container[key])
                if isinstance(key, str):
                    self._names.append(key)

    def mutate(
        self, data: bytes, chance: Random, change_bytes: Callable[[bytes], bytes] | None = None
    ) -> bytes:
        """Another input like `data`. `change_bytes` is an engine's own way of changing bytes."""
        target = self._target
        if chance.random() < 0.02:
            data = chance.choice(self._seeds)
        raw = change_bytes or (lambda body: self.change_bytes(body, chance))
        head, body = target.split(data)
        if target.separator and chance.random() < 0.25:
            is_known = target.heads and chance.random() < 0.5
            head = chance.choice(target.heads) if is_known else raw(head)
            if chance.random() < 0.5:
                return self._bounded(head, body)
        is_json = target.json and chance.random() < 0.85
        body = self._change_json(body, chance) if is_json else raw(body)
        return self._bounded(head, body)

    def _bounded(self, head: bytes, body: bytes) -> bytes:
        return self._target.join(head, body)[: self._target.max_bytes]

    # -- bytes

    def change_bytes(self, data: bytes, chance: Random) -> bytes:
        """Some bytes changed, without regard to what they mean."""
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
            self._change_once(changed, chance)
        return bytes(changed)

    def _change_once(self, data: bytearray, chance: Random) -> None:
        place = chance.randrange(len(data) + 1)
        end = min(len(data), place + chance.choice((1, 1, 2, 4, 16, 64)))
        match chance.randrange(9):
            case 0 if data:
                data[place - 1] ^= 1 << chance.randrange(8)
            case 1:
                data[place:place] = chance.choice(BYTES)
            case 2:
                data[place:place] = chance.choice(CHARACTERS).encode()
            case 3:
                del data[place:end]
            case 4:
                data[place:place] = data[place:end] * chance.choice((1, 2, 8, 100, 1000))
            case 5 if self._words:
                data[place:end] = chance.choice(self._words)
            case 6 if self._words:
                data[place:place] = chance.choice(self._words)
            case 7:
                other = chance.choice(self._seeds)
                start = chance.randrange(len(other) + 1)
                data[place:end] = other[start : start + chance.choice((4, 16, 64))]
            case _:
                data[place:place] = bytes((chance.randrange(256),))

    # -- JSON

    def _change_json(self, body: bytes, chance: Random) -> bytes:
        value = _parse(body)
        if value is None:
            return self.change_bytes(body, chance)
        holder = [value]
        for _ in range(chance.choice((1, 1, 1, 2, 2, 4, 8))):
            chance.choice(self._value_changes)(chance, holder)
        try:
            text = json.dumps(
                holder[0] if holder else None,
                ensure_ascii=chance.random() < 0.5,
                separators=chance.choice(((",", ":"), (", ", ": "))),
            ).encode("utf-8", "surrogatepass")
        except (RecursionError, ValueError):
            return body
        if chance.random() < 0.02:
            return self._spoil(text, chance)
        return text

    @staticmethod
    def _spoil(text: bytes, chance: Random) -> bytes:
        """JSON that a writer of JSON would not write: deep nesting, or a name twice."""
        if chance.random() < 0.5:
            depth = chance.choice((150, 199, 200, 201, 254, 255, 600, 1000, 1100, 3000))
            deep = chance.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth))
            place = text.rfind(b"1") if chance.random() < 0.5 else text.find(b"{}")
            return text[:place] + deep + text[place + 1 + (text[place : place + 2] == b"{}") :]
        return text.replace(b"{", b'{"type":"m.room.create","content":{},', 1)

    def _place(self, chance: Random, holder: list[Any]) -> Place:
        # The outermost value is a place too, a rare one.
        places = _walk(holder[0]) if holder and isinstance(holder[0], dict | list) else []
        return chance.choice(places) if places and chance.random() < 0.98 else (holder, 0)

    def _donor(self, chance: Random) -> Any:
        donor = chance.choice(VALUES) if chance.random() < 0.5 else chance.choice(self._donors)
        if isinstance(donor, dict | list):
            donor = json.loads(json.dumps(donor))
        return donor

    def _name(self, chance: Random) -> str:
        return chance.choice(self._names) if self._names and chance.random() < 0.9 else "x"

    def _replace(self, chance: Random, holder: list[Any]) -> None:
        container, key = self._place(chance, holder)
        container[key] = self._donor(chance)

    def _remove(self, chance: Random, holder: list[Any]) -> None:
        container, key = self._place(chance, holder)
        if container is not holder:
            del container[key]

    def _rename(self, chance: Random, holder: list[Any]) -> None:
        container, key = self._place(chance, holder)
        if isinstance(container, dict):
            container[self._name(chance)] = container.pop(key)

    def _add(self, chance: Random, holder: list[Any]) -> None:
        container, key = self._place(chance, holder)
        inner = container[key]
        target = inner if isinstance(inner, dict | list) else container
        if isinstance(target, dict):
            target[self._name(chance)] = self._donor(chance)
        elif target is not holder:
            target.insert(chance.randrange(len(target) + 1), self._donor(chance))

    def _copy(self, chance: Random, holder: list[Any]) -> None:
        source, source_key = self._place(chance, holder)
        copied = json.dumps(source[source_key])
        container, key = self._place(chance, holder)
        if len(copied) > self._target.max_bytes // 4:
            return  # a few copies of copies, and there is no end
        if isinstance(container, list) and container is not holder and chance.random() < 0.5:
            container.append(json.loads(copied))
        else:
            container[key] = json.loads(copied)

    def _move(self, chance: Random, holder: list[Any]) -> None:
        container, key = self._place(chance, holder)
        if isinstance(container, list) and len(container) > 1:
            chance.shuffle(container)
        elif isinstance(container, dict):
            container[key] = container.pop(key)

    def _wrap(self, chance: Random, holder: list[Any]) -> None:
        container, key = self._place(chance, holder)
        inner = container[key]
        match chance.randrange(4):
            case 0:
                container[key] = [inner]
            case 1:
                container[key] = {self._name(chance): inner}
            case 2 if isinstance(inner, list) and inner:
                container[key] = inner[0]
            case _ if isinstance(inner, dict) and inner:
                container[key] = next(iter(inner.values()))

    def _repeat(self, chance: Random, holder: list[Any]) -> None:
        container, key = self._place(chance, holder)
        inner = container[key]
        times = chance.choice((2, 3, 11, 21, 51, 300))
        if isinstance(inner, str):
            container[key] = (inner * times)[: self._target.max_bytes]
        elif isinstance(inner, list):
            written = json.dumps(inner)
            if len(written) * times <= self._target.max_bytes:
                container[key] = [item for _ in range(times) for item in json.loads(written)]

    def _rewrite(self, chance: Random, holder: list[Any]) -> None:
        """A string or number a little different, a name of an object too."""
        container, key = self._place(chance, holder)
        inner = container[key]
        if isinstance(container, dict) and isinstance(key, str) and chance.random() < 0.1:
            container[self._respell(chance, key)] = container.pop(key)
        elif isinstance(inner, str):
            container[key] = self._respell(chance, inner)
        elif isinstance(inner, int | float):
            container[key] = chance.choice(
                (inner + 1, inner - 1, -inner, inner * 2, str(inner), float(2**40))
            )

    def _respell(self, chance: Random, text: str) -> str:
        place = chance.randrange(len(text) + 1)
        end = min(len(text), place + chance.choice((1, 2, 8)))
        match chance.randrange(6):
            case 0:
                return text[:place] + text[end:]
            case 1:
                return text[:place] + chance.choice(CHARACTERS) + text[place:]
            case 2:
                return text[:place] + chance.choice(CHARACTERS) + text[end:]
            case 3:
                return text[:place] + text[place:end] * chance.choice((2, 10, 100)) + text[end:]
            case 4:
                return text[:place] + self._name(chance) + text[end:]
            case _:
                return text.swapcase()


def _parse(body: bytes) -> Any:
    """The JSON value of a body, or None if it is none or nested too deep to be walked."""
    if body.count(b"[") + body.count(b"{") > MAX_WALKED:
        depth = deepest = 0
        for byte in body:
            depth += (byte in b"[{") - (byte in b"]}")
            deepest = max(deepest, depth)
        if deepest > MAX_WALKED:
            return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None

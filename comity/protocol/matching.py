"""Glob-style matching and dot-separated property paths (appendices, the sections of those names).

Globs are matched piece by piece between their `*`: the time is bounded by text times pattern,
whatever a stranger writes, which regular expressions with many `.*` are not. Nothing here knows
what is matched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: A longer pattern matches nothing: what is matched (a body, a type, an id) is compared with each
#: piece of it, so its length is the factor by which a rule can be slow.
MAX_GLOB_CHARACTERS = 512
#: Deeper paths than this lead nowhere: an event is not nested so by anybody who wants to be matched.
MAX_PATH_NAMES = 32

#: Stands for "there is no such property", which null is not.
ABSENT: Any = object()

#: client-server §Push Rules: a word may begin or end at an end of the text and beside any other
#: character than these.
_BOUNDARY = "(?:(?<![A-Za-z0-9_])|(?![A-Za-z0-9_]))"


def parse_path(path: str) -> tuple[str, ...]:
    r"""The property names of a dot-separated path: `content.m\.relates_to` -> content, m.relates_to.

    `\.` and `\\` are a literal dot and backslash; any other backslash stands for itself.
    """
    names: list[str] = []
    name: list[str] = []
    position = 0
    while position < len(path):
        character = path[position]
        if character == "\\" and path[position + 1 : position + 2] in (".", "\\"):
            name.append(path[position + 1])
            position += 1
        elif character == ".":
            names.append("".join(name))
            name = []
        else:
            name.append(character)
        position += 1
    names.append("".join(name))
    return tuple(names)


def value_at(source: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The value of a property path in `source`, or ABSENT."""
    if len(names) > MAX_PATH_NAMES:
        return ABSENT
    value: Any = source
    for name in names:
        if not isinstance(value, Mapping) or name not in value:
            return ABSENT
        value = value[name]
    return value


class _Piece:
    """What stands between two `*` of a glob: literal text in which `?` is any one character."""

    __slots__ = ("_source", "expression", "length", "text")

    def __init__(self, text: str, *, wild: bool) -> None:
        self.text = text
        self.length = len(text)
        is_wild = wild and "?" in text
        #: A fixed length and no repetition: cannot backtrack.
        self._source = ".".join(map(re.escape, text.split("?"))) if is_wild else re.escape(text)
        self.expression = re.compile(self._source, re.DOTALL) if is_wild else None

    def find(self, text: str, start: int) -> int:
        """Where the piece first occurs in `text` from `start`, or -1."""
        if self.expression is None:
            return text.find(self.text, start)
        match = self.expression.search(text, start)
        return -1 if match is None else match.start()

    def between_boundaries(self, *, begins: bool, ends: bool) -> re.Pattern[str]:
        """The piece where a word may begin before it, or end behind it, or both."""
        source = (_BOUNDARY if begins else "") + self._source + (_BOUNDARY if ends else "")
        return re.compile(source, re.DOTALL)

    def stands_at(self, text: str, position: int) -> bool:
        """Whether the piece occurs in `text` exactly at `position`."""
        if self.expression is None:
            return text.startswith(self.text, position)
        return self.expression.match(text, position) is not None


class Glob:
    """A glob: `*` is any number of characters and, unless `only_star`, `?` is exactly one.

    The caller lowers the case of pattern and text where case does not count.
    """

    __slots__ = ("_exact", "_pieces", "_words", "pattern")

    def __init__(self, pattern: str, *, only_star: bool = False, literal: bool = False) -> None:
        """Any text is a pattern; one over MAX_GLOB_CHARACTERS never matches.

        With `literal`, no character is special.
        """
        self.pattern = pattern
        self._pieces: tuple[_Piece, ...] = ()
        self._exact: str | None = None
        #: For `matches_words`: the first and the last piece, made when they are first asked for.
        self._words: tuple[re.Pattern[str], re.Pattern[str]] | None = None
        if len(pattern) > MAX_GLOB_CHARACTERS:
            return
        parts = [pattern] if literal else pattern.split("*")
        wild = not literal and not only_star
        if len(parts) == 1 and not (wild and "?" in pattern):
            self._exact = pattern
        self._pieces = tuple(_Piece(part, wild=wild) for part in parts)

    def matches(self, text: str) -> bool:
        """Whether the pattern matches all of `text`."""
        if self._exact is not None:
            return text == self._exact
        if not self._pieces:
            return False
        first, last = self._pieces[0], self._pieces[-1]
        if len(self._pieces) == 1:
            return len(text) == first.length and first.stands_at(text, 0)
        end = len(text) - last.length
        if end < first.length or not first.stands_at(text, 0) or not last.stands_at(text, end):
            return False
        position = first.length
        for piece in self._pieces[1:-1]:
            position = piece.find(text, position)
            if position < 0:
                return False
            position += piece.length
        return position <= end

    def matches_words(self, text: str) -> bool:
        """Whether the pattern matches a part of `text` that starts and ends at a word boundary.

        client-server §Push Rules: a boundary is an end of the text or a character outside
        [A-Za-z0-9_], be it beside the part or the part's own.
        """
        if not self._pieces or any(piece.find(text, 0) < 0 for piece in self._pieces):
            return False
        only = len(self._pieces) == 1
        first, last = self._pieces[0], self._pieces[-1]
        if self._words is None:
            begin = first.between_boundaries(begins=True, ends=only)
            self._words = begin, last.between_boundaries(begins=False, ends=True)
        # The earliest place for each piece leaves the most room for the next: no going back.
        found = self._words[0].search(text)
        if found is None or only:
            return found is not None
        position = found.start() + first.length
        for piece in self._pieces[1:-1]:
            position = piece.find(text, position)
            if position < 0:
                return False
            position += piece.length
        return not last.length or self._words[1].search(text, position) is not None

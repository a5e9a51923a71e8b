"""Canonical JSON (appendices §Canonical JSON): one encoding of a value, its limits, the checks.

Parsing takes anything that is JSON; `check_values` then says whether a value is within
canonical JSON's bounds. Room versions 1–5 do not enforce those bounds, so `encode_lenient`
gives them their own path, floats included.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import orjson

#: appendices §Canonical JSON: integers are in [-(2**53)+1, (2**53)-1].
MAX_INTEGER = 2**53 - 1
#: Values nested deeper than this are refused before anything recurses into them. The
#: specification has no such limit; no honest event comes near it. orjson writes at most 254
#: levels, and an answer adds some of its own.
MAX_NESTING = 200

_encoder = msgspec.json.Encoder(order="sorted")


class CanonicalJsonError(ValueError):
    """A value is outside canonical JSON; the text says where and why."""


def parse(data: bytes | str) -> Any:
    """Parse JSON. Raises CanonicalJsonError (a ValueError) when it is none."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise CanonicalJsonError(f"Not valid JSON: {error}") from None


def parse_object(data: bytes | str) -> dict[str, Any]:
    """Parse a JSON object. Raises CanonicalJsonError when it is not JSON or not an object."""
    value = parse(data)
    if not isinstance(value, dict):
        raise CanonicalJsonError("The JSON value is not an object")
    return value


def check_values(value: object) -> None:
    """Check every value: no floats, integers within 2**53, bounded depth.

    Raises CanonicalJsonError.
    """
    level: list[object] = [value]
    for _ in range(MAX_NESTING):
        below: list[object] = []
        for item in level:
            kind = type(item)
            if kind is str:  # as most are
                continue
            if kind is dict:
                below.extend(item.values())  # type: ignore[attr-defined]
            elif kind is list:
                below.extend(item)  # type: ignore[arg-type]
            elif kind is int:
                if not -MAX_INTEGER <= item <= MAX_INTEGER:  # type: ignore[operator]
                    raise CanonicalJsonError("An integer is outside the range of canonical JSON")
            elif kind is float:
                raise CanonicalJsonError("Floating-point numbers are not allowed in canonical JSON")
            elif kind is not bool and item is not None:
                raise CanonicalJsonError(f"A value is not JSON: {kind.__name__}")
        if not below:
            return
        level = below
    raise CanonicalJsonError(f"The JSON is nested deeper than {MAX_NESTING} levels")


def check_nesting(value: object) -> None:
    """Check the depth alone, for values in which floats are allowed (room versions 1–5)."""
    level: list[object] = [value]
    for _ in range(MAX_NESTING):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        if not below:
            return
        level = below
    raise CanonicalJsonError(f"The JSON is nested deeper than {MAX_NESTING} levels")


def encode(value: object) -> bytes:
    """Canonical bytes of a value that `check_values` has passed or that comity made itself."""
    return _encoder.encode(value)


def encode_signable(value: object) -> bytes:
    """Canonical bytes of a parsed value that a stranger signed: any depth, floats included.

    COMPAT: a transaction may carry events of room versions 1–5 with floats, which every server
    writes as `encode_lenient` does; and one event that is nested too deep must not make all of
    it unverifiable. Raises CanonicalJsonError where the interpreter's own depth ends.
    """
    try:
        return encode_lenient(value) if _holds_float(value) else encode(value)
    except (RecursionError, ValueError) as error:
        raise CanonicalJsonError(f"The value cannot be written as JSON: {error}") from None


def _holds_float(value: object) -> bool:
    level: list[object] = [value]
    while level:
        below: list[object] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                below.extend(item.values())  # type: ignore[attr-defined]
            elif kind is list:
                below.extend(item)  # type: ignore[arg-type]
            elif kind is float:
                return True
        level = below
    return False


def encode_lenient(value: object) -> bytes:
    """Canonical bytes in which floats are written as room versions 1–5 have always hashed them.

    COMPAT: those rooms' events may hold floats; every server writes the shortest decimal form
    that reads back as the same double, as the ECMAScript-like `repr` of Python does.
    """
    return json.dumps(
        value, ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False
    ).encode("utf-8")

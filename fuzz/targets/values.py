"""Target: JSON in, canonical JSON out."""

from __future__ import annotations

import json
from typing import Any

from comity.protocol import canonical_json
from fuzz.target import Target, require


def _json_or_nothing(data: bytes) -> Any:
    """What Python's own reader makes of the bytes, or `...` if they are no JSON to it."""
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return ...


def _names_are_sorted(value: Any) -> bool:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if list(item) != sorted(item):
                return False
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
    return True


def check_canonical_json(data: bytes) -> str:
    """Parse, check, encode, and parse again."""
    try:
        value = canonical_json.parse(data)
    except canonical_json.CanonicalJsonError:
        return "no JSON"
    label = "loose"
    try:
        signable = canonical_json.encode_signable(value)
    except canonical_json.CanonicalJsonError:
        signable = None
    try:
        canonical_json.check_nesting(value)
    except canonical_json.CanonicalJsonError:
        return "deep"
    require(signable is not None or b"e" in data.lower(), "what is not nested too deep can be signed")
    try:
        canonical_json.check_values(value)
        label = "strict"
    except canonical_json.CanonicalJsonError:
        pass
    if label == "loose":
        if signable is not None:
            again = canonical_json.encode_signable(canonical_json.parse(signable))
            require(again == signable, "loose JSON reads as it was written")
        return label
    encoded = canonical_json.encode(value)
    require(encoded == signable, "strict JSON is signed as it is encoded")
    require(canonical_json.encode_lenient(value) == encoded, "both ways of encoding agree")
    again = canonical_json.parse(encoded)
    require(again == value, "what was encoded reads the same")
    require(canonical_json.encode(again) == encoded, "encoding twice changes nothing")
    require(_names_are_sorted(again), "names are sorted")
    theirs = _json_or_nothing(data)
    require(theirs is ... or theirs == value, "Python's reader and ours agree")
    return label


TARGETS = (
    Target(
        "canonical_json",
        check_canonical_json,
        json=True,
        words=("a", "b", "\u00e9", "\U0001f600", "\uffff", "\\u0000", "1e5", "-0", "9007199254740992", "NaN"),
    ),
)

"""Bounds of what clients name: devices, types, tags.

Whatever they call things is stored and shown to others, so it has a length and no NUL, which
databases do not take.
"""

from __future__ import annotations

from comity.protocol.errors import bad_json, invalid_param

#: Bytes of a device id, an account data type, a tag, a thread id: as long as an identifier.
MAX_NAME_BYTES = 255


def checked_text(value: object, what: str, *, most: int = MAX_NAME_BYTES, empty: bool = False) -> str:
    """`value` if it is text of at most `most` bytes. Raises 400 M_BAD_JSON or M_INVALID_PARAM."""
    if not isinstance(value, str):
        raise bad_json(f"{what} is not a string")
    if not value and not empty:
        raise invalid_param(f"{what} is empty")
    if "\x00" in value or len(value.encode("utf-8", "surrogatepass")) > most:
        raise invalid_param(f"{what} is longer than {most} bytes or has a NUL in it")
    return value


def optional_text(value: object, what: str, *, most: int = MAX_NAME_BYTES) -> str | None:
    """`checked_text` of what may be absent (None), or empty."""
    return None if value is None else checked_text(value, what, most=most, empty=True)

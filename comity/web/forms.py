"""Forms that browsers and OAuth clients send: `application/x-www-form-urlencoded`, within bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import parse_qsl

from comity.ports import Request
from comity.protocol.errors import MatrixError, invalid_param, missing_param, too_large

#: The longest form has a password, a code and where to go on in it; each is bounded where it is used.
MAX_FORM_BYTES = 64 * 1024
#: Fields of the longest form, and some.
MAX_FIELDS = 50
FORM_TYPE = "application/x-www-form-urlencoded"


class Form(Mapping[str, str]):
    """The fields of one form, each there once."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = dict(fields)

    def __getitem__(self, name: str) -> str:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def text(self, name: str) -> str:
        """A field; "" if it is absent."""
        return self._fields.get(name, "")

    def required(self, name: str) -> str:
        """A field that must be there and not be empty. Raises 400 M_MISSING_PARAM."""
        value = self._fields.get(name)
        if not value:
            raise missing_param(f"The form lacks {name}")
        return value


NO_FORM = Form({})


def read_form(request: Request) -> Form:
    """The form in the body of a request.

    Raises 413 M_TOO_LARGE, 415 M_UNKNOWN for another type, 400 M_INVALID_PARAM for what is no form,
    or has a field twice (RFC 6749 §3.1: parameters must not be included more than once).
    """
    if request.body_too_large or len(request.body) > MAX_FORM_BYTES:
        raise too_large("The form is too large")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM_TYPE:
        raise MatrixError(415, "M_UNKNOWN", f"The body is not of type {FORM_TYPE}")
    return parse_form(request.body)


def parse_form(data: bytes | str) -> Form:
    """The fields of a form, or of a query. Raises 400 M_INVALID_PARAM."""
    try:
        text = data.decode("ascii") if isinstance(data, bytes) else data
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError:
        raise invalid_param("The form cannot be read") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise invalid_param("The form has a field twice")
    return Form(fields)

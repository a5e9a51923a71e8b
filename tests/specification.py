"""What the specification says of an answer: the status and JSON of each, held against its operation's schema.

The schemas are distilled from the specification by docs/distil_spec.py; nothing here reads the
specification itself. What else an answer must be is for the tests to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
import zstandard
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from comity.api.router import Router
from comity.ports import Request, Response

DATA = Path(__file__).resolve().parent / "data"
#: Paths that the specification tells of in words alone: shape -> the shape that has the schema.
#: client-server §PUT /rooms/{roomId}/state: an empty state key may be left out, with its slash.
LIKE = {"/_matrix/client/v3/rooms/{}/state/{}": "/_matrix/client/v3/rooms/{}/state/{}/{}"}


class Allowance(NamedTuple):
    """A fault that is none: at `where` of an operation's answers (* for what varies), `what` may fail.

    `what` is the keyword of the schema, with the member's name if one is missing; `query` is in the
    query of the requests that it holds for.
    """

    operation: str
    where: str
    what: str
    why: str
    query: str = ""


_NULLS = "COMPAT: some clients refuse a device that lacks a member; all take null for absent."
_NO_ORIGIN = "No room version's event format has a member origin: events are hashed and signed without it."
ALLOWED = (
    Allowance(
        "client-server getRoomStateWithKey", "", "oneOf",
        "An event is an object, so with ?format=event both of the alternatives hold.", "format=event",
    ),
    Allowance("server-server sendInviteV2", "event", "required origin", _NO_ORIGIN),
    Allowance("server-server sendInviteV1", "1/event", "required origin", _NO_ORIGIN),
    Allowance("client-server getDevice", "display_name", "type", _NULLS),
    Allowance("client-server getDevice", "last_seen_ip", "type", _NULLS),
    Allowance("client-server getDevice", "last_seen_ts", "type", _NULLS),
    Allowance("client-server getDevices", "devices/*/display_name", "type", _NULLS),
    Allowance("client-server getDevices", "devices/*/last_seen_ip", "type", _NULLS),
    Allowance("client-server getDevices", "devices/*/last_seen_ts", "type", _NULLS),
    *(
        Allowance(
            "client-server getTurnServer", "", f"required {name}",
            "The specification is silent on servers without TURN; clients take {} for that.",
        )
        for name in ("username", "password", "uris", "ttl")
    ),
    *(
        Allowance(
            f"client-server {name}", "", "required event_id",
            "MSC4140: what is sent later has no event id yet.", "org.matrix.msc4140.delay=",
        )
        for name in ("sendMessage", "setRoomStateWithKey")
    ),
    *(
        Allowance(
            "client-server sync", "rooms/join/*/*/events/*", f"required {name}",
            "The filter's event_fields leaves it out (client-server §Filtering).", "event_fields",
        )
        for name in ("event_id", "sender", "origin_server_ts")
    ),
    Allowance(
        "client-server sync", "rooms/join/*/*/events/*", "required event_id",
        "The format that servers speak has no ids of events since room version 3.", "event_format",
    ),
)  # fmt: skip
#: How much of a wrong value is shown.
SHOWN = 400
#: client-server §Standard error response.
ERROR = {
    "type": "object",
    "required": ["errcode", "error"],
    "properties": {"errcode": {"type": "string"}, "error": {"type": "string"}},
}
#: JSON Schema takes 1.0 for an integer; Matrix does not (appendices §Canonical JSON).
_Validator: Any = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int),
)


class Operation(NamedTuple):
    """One operation of the specification, as tests/data/operations.json has it."""

    api: str
    file: str
    method: str
    path: str
    id: str
    deprecated: bool
    #: Whether 429 is among its answers: "This request was rate-limited."
    limited: bool

    @property
    def name(self) -> str:
        """What it is called, and no other."""
        return f"{self.api} {self.id}"


def shape(path: str) -> str:
    """A path whose variables have no names, and no slash at its end."""
    return re.sub(r"\{[^}]*\}", "{}", path).rstrip("/")


@cache
def operations() -> list[Operation]:
    """All of them."""
    return [Operation(**told) for told in orjson.loads((DATA / "operations.json").read_bytes())]


@cache
def _names() -> dict[tuple[str, str], str]:
    names: dict[tuple[str, str], str] = {}
    for operation in operations():
        # What two operations share, as §invite by user id and by address do, is answered alike.
        names.setdefault((operation.method, shape(operation.path)), operation.name)
    for like, origin in LIKE.items():
        names.update({(method, like): name for (method, path), name in names.items() if path == origin})
    return names


@cache
def _schemas() -> dict[str, dict[str, Any]]:
    packed = (DATA / "response_schemas.json.zst").read_bytes()
    schemas: dict[str, dict[str, Any]] = orjson.loads(zstandard.ZstdDecompressor().decompress(packed))
    return schemas


@cache
def _validator(name: str, status: str) -> Any:
    """What holds an operation's answers against their schema; None where there is none."""
    schema = ERROR if status == "error" else _schemas().get(name, {}).get(status)
    return None if schema is None else _Validator(schema)


def operation_of(router: Router, request: Request) -> str | None:
    """The name of the operation that a request is; None if the specification knows none."""
    template = router.template_of(request.method, request.path)
    return None if template is None else _names().get((request.method, shape(template)))


def faults(router: Router, request: Request, status: int, body: object) -> list[str]:
    """How an answer differs from what the specification says; each with the path to the wrong value."""
    name = operation_of(router, request) or ""
    if status >= 400:
        interactive = status == 401 and isinstance(body, dict) and "flows" in body
        validator = _validator(name, "401" if interactive else "error")
    else:
        validator = _validator(name, str(status))
    if validator is None or validator.is_valid(body):
        return []
    asked = f"{request.method} {request.path} ({name}), {status}"
    wrong = [error for error in validator.iter_errors(body) if not _allowed(name, request.query, error)]
    return [f"{asked}: {error.json_path}: {error.message[:SHOWN]}" for error in _innermost(wrong)]


def _innermost(errors: Iterable[ValidationError]) -> Iterator[ValidationError]:
    """What is wrong; where there are alternatives, what is wrong with each."""
    for error in errors:
        if error.context:
            yield from _innermost(error.context)
        else:
            yield error


def _allowed(name: str, query: str, error: ValidationError) -> bool:
    if error.context:
        alternatives: dict[Any, list[bool]] = {}
        for each in error.context:
            alternatives.setdefault(each.schema_path[0], []).append(_allowed(name, query, each))
        return any(map(all, alternatives.values()))
    where = "/".join(map(str, error.absolute_path))
    what = str(error.validator)
    if what == "required":
        what += " " + error.message.split("'")[1]
    return any(
        (allowance.operation, allowance.what) == (name, what)
        and re.fullmatch(re.escape(allowance.where).replace(r"\*", "[^/]*"), where)
        and allowance.query in query
        for allowance in ALLOWED
    )


#: The faults of answers that servers gave each other, where no test looks.
noted: list[str] = []


def note_faults(router: Router, request: Request, response: Response) -> None:
    """Keep the faults of an answer, for the end of the test."""
    assert isinstance(response.body, bytes)
    if response.headers.get("Content-Type") == "application/json":
        noted.extend(faults(router, request, response.status, orjson.loads(response.body)))


@pytest.fixture(autouse=True)
def answers_as_specified() -> Iterator[None]:
    """For a conftest: what servers answer each other in a test must be as the specification says."""
    noted.clear()
    yield
    assert not noted

"""What all calls to other servers share: paths, limits of time and size, and the shape of answers.

Nothing here is asked of anybody; what comes back is turned into the types that are promised.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec
import orjson

from comity.federation.client import FederationError
from comity.protocol import canonical_json

V1 = "/_matrix/federation/v1"
V2 = "/_matrix/federation/v2"
KEYS = "/_matrix/key/v2"
#: As it was in 2014.
KEYS_V1 = "/_matrix/key/v1"

#: Seconds. A server may work for long on a transaction or a join to a large room.
QUICK_SECONDS = 15.0
KEY_SECONDS = 10.0
NOTARY_SECONDS = 20.0
EVENTS_SECONDS = 45.0
TRANSACTION_SECONDS = 60.0
STATE_SECONDS = 120.0
JOIN_SECONDS = 180.0
#: Bytes. A key document, a profile, a template are one small object.
SMALL_BYTES = 256 * 1024
#: One event of 64 KiB, with `unsigned` and spaces around it.
EVENT_BYTES = 512 * 1024
#: A hundred of the largest events.
EVENTS_BYTES = 16 * 1024 * 1024
#: Half a million ids of 45 characters.
STATE_IDS_BYTES = 32 * 1024 * 1024
#: The largest known rooms answer a join with some 100 MiB.
STATE_BYTES = 256 * 1024 * 1024
#: Events of one state, and of one auth chain; the largest known rooms have half of this.
MAX_STATE_EVENTS = 300_000
#: Events that one answer to `backfill` or `get_missing_events` may hold, whatever was asked for.
MAX_EVENTS = 500
#: Events by which the answer to a knock shows what the room is; honest ones give about ten.
MAX_SHOWN_EVENTS = 100
#: Servers that an alias, or an answer to a join, may name.
MAX_SERVERS = 20_000
MAX_ALIAS_SERVERS = 500
#: Key documents in one answer of a notary.
MAX_KEY_DOCUMENTS = 1_000
#: Fields of a profile that are looked at.
MAX_PROFILE_FIELDS = 200
#: Events of a large answer that are parsed before other tasks get a turn: a few milliseconds.
_PARSED_AT_ONCE = 200
#: What servers that do not know an endpoint answer, in old versions without an error code.
_UNKNOWN_ENDPOINT_STATUSES = frozenset({400, 404, 405})

T = TypeVar("T")


def malformed(server: str, text: str) -> FederationError:
    return FederationError(server, f"the answer is not what was asked for: {text}", reached=True)


def is_unknown_endpoint(error: FederationError) -> bool:
    """Whether the server does not have the endpoint, as opposed to what was asked for through it."""
    return error.status in _UNKNOWN_ENDPOINT_STATUSES and error.code in (None, "M_UNRECOGNIZED")


def json_object(server: str, data: bytes) -> dict[str, Any]:
    try:
        value = canonical_json.parse_object(data)
        canonical_json.check_nesting(value)
    except canonical_json.CanonicalJsonError as error:
        raise malformed(server, str(error)) from None
    return value


def json_objects(server: str, value: object, most: int) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise malformed(server, "a list of objects is missing")
    if len(value) > most:
        raise malformed(server, f"more than {most} objects")
    return value


def decoded(server: str, data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(server, str(error)) from None


def event_object(server: str, raw: msgspec.Raw) -> dict[str, Any]:
    try:
        value = orjson.loads(memoryview(raw))
    except orjson.JSONDecodeError as error:
        raise malformed(server, f"an event is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise malformed(server, "an event is not an object")
    return value


def maybe_event(server: str, raw: msgspec.Raw) -> dict[str, Any] | None:
    return None if bytes(raw) in (b"", b"null") else event_object(server, raw)


async def event_objects(server: str, raws: list[msgspec.Raw]) -> list[dict[str, Any]]:
    """Parse the events of a large answer, giving way to other tasks now and then."""
    if len(raws) > MAX_STATE_EVENTS:
        raise malformed(server, f"more than {MAX_STATE_EVENTS} events")
    events = []
    for index, raw in enumerate(raws):
        if index % _PARSED_AT_ONCE == _PARSED_AT_ONCE - 1:
            await asyncio.sleep(0)
        events.append(event_object(server, raw))
    return events

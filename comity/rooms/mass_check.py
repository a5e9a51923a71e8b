"""Foreign events that are held whole: which of them are plainly valid, and what is stored of those.

Pure, and made to be run in another process (`Ports.crowd`): it takes and gives bytes. It says nothing of
whatever is not plain; that is checked, and judged, where all others are (`rooms.fetch`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import orjson

from comity.protocol.admission import Admission, NeedSignatures, Verdict
from comity.protocol.event import Event
from comity.protocol.room_versions import ROOM_VERSIONS, RoomVersion
from comity.protocol.signing import verify
from comity.store import compression

#: server -> key id -> (public key, until when (ms) events may be signed with it; None: whenever)
Keys = Mapping[str, Mapping[str, tuple[bytes, int | None]]]


def check_all(
    version_id: str, room_id: str, raws: Sequence[bytes], keys: Keys
) -> list[tuple[str, bytes] | None]:
    """For each event of a room, as JSON: its id and its packed bytes. None for one that is not plainly valid.

    Plainly valid: the format holds, each signature that is required is there under one of `keys`, and the
    hash of the content is right (server-server §Checks performed on receipt of a PDU, 1 to 3).
    """
    version = ROOM_VERSIONS[version_id]
    valid = [_valid(version, room_id, raw, keys) for raw in raws]
    packed = iter(compression.pack_all([event.encoded for event in valid if event is not None]))
    return [None if event is None else (event.event_id, next(packed)) for event in valid]


def _valid(version: RoomVersion, room_id: str, raw: bytes, keys: Keys) -> Event | None:
    try:
        admission = Admission.received(version, orjson.loads(raw))
    except orjson.JSONDecodeError:
        return None
    if isinstance(admission, Verdict) or admission.event.room_id != room_id:
        return None
    need, event = admission.next(), admission.event
    assert isinstance(need, NeedSignatures)
    if not all(_is_signed(event, server, need.message, keys.get(server, {})) for server in need.signers):
        return None
    admission.feed_signatures(need.signers)
    # What has another hash is to be redacted.
    return event if admission.event is event else None


def _is_signed(
    event: Event, server: str, message: bytes, keys: Mapping[str, tuple[bytes, int | None]]
) -> bool:
    for key_id, signature in event.source["signatures"].get(server, {}).items():
        public, until = keys.get(key_id, (b"", None))
        if public and (until is None or event.origin_server_ts <= until):
            # Mostly there is one. A wrong one beside it is for the others to look at.
            return verify(public, message, signature)
    return False

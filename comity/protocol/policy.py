"""Policy servers: what names one in a room, and whether an event bears its recommendation.

server-server §Policy Servers, client-server §m.room.policy. Whether that server is in the room,
and what to do about an event that it does not recommend, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from comity.protocol import identifiers
from comity.protocol.event import Event, decode_base64
from comity.protocol.signing import verify

POLICY = "m.room.policy"
#: The id of the key in `m.room.policy`, whatever the server's own keys are called.
KEY_ID = "ed25519:policy_server"
#: Bytes of an Ed25519 public key.
_KEY_LENGTH = 32


@dataclass(frozen=True, slots=True)
class PolicyServer:
    """The server that a room's events are shown to first, and the key by which it recommends them."""

    name: str
    public_key: bytes


def policy_server(content: Mapping[str, Any] | None) -> PolicyServer | None:
    """The server that the content of an `m.room.policy` names; None if it is not valid."""
    via = content.get("via") if content is not None else None
    keys = content.get("public_keys") if content is not None else None
    text = keys.get("ed25519") if isinstance(keys, dict) else None
    if not isinstance(via, str) or not identifiers.is_server_name(via) or not isinstance(text, str):
        return None
    try:
        key = decode_base64(text)
    except ValueError:
        return None
    return PolicyServer(via, key) if len(key) == _KEY_LENGTH else None


def is_exempt(event_type: str, state_key: str | None) -> bool:
    """Whether an event needs no recommendation: it sets or lifts the policy itself."""
    return event_type == POLICY and state_key == ""


def is_recommended(event: Event, server: PolicyServer) -> bool:
    """Whether the policy server's signature on an event holds."""
    signatures = event.source.get("signatures", {}).get(server.name)
    signature = signatures.get(KEY_ID) if isinstance(signatures, dict) else None
    return isinstance(signature, str) and verify(server.public_key, event.signed, signature)

"""Which keys of a third-party invite have signed for a user (client-server §m.room.third_party_invite).

Owns reading the keys and trying the signatures. Whether a key is still valid is never asked here: the
rules must come out alike on every server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from comity.protocol import canonical_json
from comity.protocol.event import decode_base64
from comity.protocol.signing import verify

#: The most signatures that are tried for one third-party invite (keys times signatures). Identity
#: servers give one or two of each; an event has room for hundreds of thousands of pairs.
MAX_THIRD_PARTY_VERIFICATIONS = 256


@dataclass(frozen=True, slots=True)
class InviteKey:
    """A key of an invite: as the event writes it, and where to ask whether it is still valid.

    Without a `validity_url` it is valid for ever.
    """

    public_key: str
    validity_url: str | None


def keys_that_signed(signed: Mapping[str, Any], pending: Mapping[str, Any]) -> Iterator[InviteKey]:
    """The keys in the content of a `m.room.third_party_invite` under which a signature in `signed` holds."""
    signatures = signed.get("signatures")
    if not isinstance(signatures, dict):
        return
    candidates = sorted(
        {
            signature
            for keys in signatures.values()
            if isinstance(keys, dict)
            for key_id, signature in keys.items()
            if key_id.startswith("ed25519:") and isinstance(signature, str)
        }
    )
    message = canonical_json.encode(
        {name: value for name, value in signed.items() if name not in ("signatures", "unsigned")}
    )
    tried = 0
    for raw, key in _keys(pending).items():
        for signature in candidates:
            if tried == MAX_THIRD_PARTY_VERIFICATIONS:
                return
            tried += 1
            if verify(raw, message, signature):
                yield key
                break


def _keys(pending: Mapping[str, Any]) -> dict[bytes, InviteKey]:
    """The readable keys in `public_key` and `public_keys`; of one named twice, as it is named first."""
    listed = pending.get("public_keys")
    found: dict[bytes, InviteKey] = {}
    for entry in (pending, *(listed if isinstance(listed, list) else [])):
        text = entry.get("public_key") if isinstance(entry, Mapping) else None
        if not isinstance(text, str):
            continue
        try:
            raw = decode_base64(text)
        except ValueError:
            continue
        if len(raw) == 32:
            url = entry.get("key_validity_url")
            # What is no URL must not pass for none.
            found.setdefault(raw, InviteKey(text, None if url is None else str(url)))
    return found

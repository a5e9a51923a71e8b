"""Our own keys: what we sign with now, what we signed with before, and how we publish both.

Owns the key documents of this server (server-server §Publishing Keys, and that of 2014).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comity.ports import Clock
from comity.protocol import canonical_json
from comity.protocol.errors import not_found
from comity.protocol.event import Event, decode_base64, encode_base64
from comity.protocol.signing import (
    PublishedKey,
    SigningKey,
    build_key_document,
    build_key_document_v1,
    sign_json,
)

#: How long our own key document says that it holds.
DOCUMENT_VALIDITY_MS = 24 * 3600 * 1000


class OwnKeys:
    """The keys of this server."""

    def __init__(
        self,
        server_name: str,
        keys: Sequence[SigningKey],
        old_keys: Sequence[PublishedKey],
        certificate: bytes | None,
        clock: Clock,
    ) -> None:
        """`certificate` is the DER of the TLS certificate that others reach us with, if it is known."""
        self._server_name = server_name
        self._keys = list(keys)
        self._clock = clock
        self._certificate = certificate
        self._public = {key.key_id: decode_base64(key.public) for key in keys}
        # Where a rotation was cut off in the middle, the key is still in use.
        self._old = {key.key_id: key for key in old_keys if key.key_id not in self._public}
        self._document = b""
        self._document_made_at = 0
        self._document_v1 = b""

    def that_signs(self, event: Event, key_id: str) -> bytes | None:
        """The public key of that id, if an event of that time may be signed with it (rooms/v5)."""
        public = self._public.get(key_id)
        old = self._old.get(key_id)
        if public is not None or old is None:
            return public
        in_time = not event.version.enforces_key_validity or event.origin_server_ts <= old.valid_until_ms
        return old.public if in_time else None

    def sign(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The document with our signature beside those it has."""
        signed = dict(document)
        for key in self._keys:
            signed = sign_json(signed, self._server_name, key)
        return signed

    def document(self) -> bytes:
        """Our key document: signed, and valid for half a day at least."""
        now = self._clock.now_ms()
        if not self._document or not 0 <= now - self._document_made_at < DOCUMENT_VALIDITY_MS // 2:
            old = {
                key.key_id: {"expired_ts": key.valid_until_ms, "key": encode_base64(key.public)}
                for key in self._old.values()
            }
            document = build_key_document(self._server_name, self._keys, old, now + DOCUMENT_VALIDITY_MS)
            self._document = canonical_json.encode(document)
            self._document_made_at = now
        return self._document

    def document_v1(self) -> bytes:
        """Our key document as servers of 2014 read it. Raises MatrixError 404 without a certificate."""
        if self._certificate is None:
            raise not_found("This server does not know the certificate that it is reached with")
        if not self._document_v1:
            document = build_key_document_v1(self._server_name, self._keys, self._certificate)
            self._document_v1 = canonical_json.encode(document)
        return self._document_v1

"""Signatures: of JSON objects, of events, of requests (X-Matrix), of server-key documents.

Pure arithmetic over Ed25519 (appendices §Signing JSON; server-server §Request Authentication,
§Retrieving server keys). Which keys to trust, and when, is the keyring's affair.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nacl.exceptions import BadSignatureError, CryptoError
from nacl.signing import SigningKey as Ed25519SigningKey
from nacl.signing import VerifyKey

from comity.protocol import canonical_json, identifiers
from comity.protocol.errors import unauthorized
from comity.protocol.event import Event, content_hash, decode_base64, encode_base64, signed_part
from comity.protocol.room_versions import RoomVersion

#: rooms/v5: a key counts as valid for at most this long after it was fetched.
MAX_KEY_VALIDITY_MS = 7 * 24 * 3600 * 1000
#: An `Authorization` header longer than this is not read.
MAX_AUTHORIZATION_LENGTH = 4096
#: A key document with more keys than this is not one that a homeserver publishes.
MAX_KEYS_IN_DOCUMENT = 64
_KEY_ID = re.compile(r"ed25519:[0-9A-Za-z_]{1,250}", re.ASCII)


def is_key_id(text: str) -> bool:
    """Whether that is the id of an Ed25519 key (appendices §Key identifiers)."""
    return _KEY_ID.fullmatch(text) is not None


class SigningKey:
    """A private signing key and its id, `ed25519:version`."""

    __slots__ = ("_key", "key_id", "public")

    def __init__(self, version: str, seed: bytes) -> None:
        """`seed` is the 32-byte private seed. Raises ValueError on another length or version."""
        self.key_id = f"ed25519:{version}"
        if not _KEY_ID.fullmatch(self.key_id):
            raise ValueError("A key version is made of letters, digits and underscores")
        try:
            self._key = Ed25519SigningKey(seed)
        except (CryptoError, TypeError, ValueError):
            raise ValueError("An Ed25519 seed is 32 bytes") from None
        #: The public key in unpadded Base64.
        self.public = encode_base64(bytes(self._key.verify_key))

    def sign(self, message: bytes) -> str:
        """The signature of `message` in unpadded Base64."""
        return encode_base64(self._key.sign(message).signature)

    def derived(self, purpose: str) -> SigningKey:
        """Another key, which only whoever has this one can know: the same for the same purpose."""
        seed = hmac.new(bytes(self._key), purpose.encode(), hashlib.sha256).digest()
        return SigningKey(purpose, seed)

    def __repr__(self) -> str:
        return f"<SigningKey {self.key_id}>"


def verify(public_key: bytes, message: bytes, signature: str) -> bool:
    """Whether `signature` (Base64) of `message` is by the holder of the 32-byte `public_key`."""
    try:
        VerifyKey(public_key).verify(message, decode_base64(signature))
    except (BadSignatureError, CryptoError, ValueError, TypeError):
        return False
    return True


def verify_batch(checks: Sequence[tuple[bytes, bytes, str]]) -> list[bool]:
    """`verify` for each (public key, message, signature); made to be run in a thread."""
    return [verify(public_key, message, signature) for public_key, message, signature in checks]


def _signable(value: Mapping[str, Any]) -> bytes:
    return canonical_json.encode_signable(
        {name: part for name, part in value.items() if name not in ("signatures", "unsigned")}
    )


def sign_json(value: Mapping[str, Any], server: str, key: SigningKey) -> dict[str, Any]:
    """A copy of `value` with our signature added (appendices §Signing Details)."""
    held = value.get("signatures")
    entries = held.items() if isinstance(held, dict) else ()
    signatures = {name: dict(keys) for name, keys in entries if isinstance(keys, dict)}
    signatures.setdefault(server, {})[key.key_id] = key.sign(_signable(value))
    return {**value, "signatures": signatures}


def verify_json(value: Mapping[str, Any], server: str, keys: Mapping[str, bytes]) -> bool:
    """Whether at least one signature by `server` under one of `keys` (by key id) holds."""
    signatures = value.get("signatures")
    own = signatures.get(server) if isinstance(signatures, dict) else None
    if not isinstance(own, dict):
        return False
    try:
        message = _signable(value)
    except canonical_json.CanonicalJsonError:
        return False
    return any(
        verify(keys[key_id], message, signature)
        for key_id, signature in own.items()
        if key_id in keys and isinstance(signature, str)
    )


def sign_event(version: RoomVersion, source: Mapping[str, Any], server: str, key: SigningKey) -> Event:
    """server-server §Adding hashes and signatures to outgoing events: a complete Event.

    `source` has no hashes and no signatures yet.
    """
    hashed = {**source, "hashes": {"sha256": content_hash(version, source)}}
    signed = signed_part(version, hashed)
    return Event(version, {**hashed, "signatures": {server: {key.key_id: key.sign(signed)}}}, signed=signed)


def add_signature(event: Event, server: str, key: SigningKey) -> Event:
    """The event with our signature beside the ones it has (invites, restricted joins)."""
    return event.with_signatures({server: {key.key_id: key.sign(event.signed)}})


def required_signers(event: Event) -> frozenset[str]:
    """The servers whose signature an event must carry (server-server §Validating signatures).

    The sender's server (unless the event is a third-party invite), in room versions 1 and 2
    the event id's server, and the authorising user's server of a restricted join.
    """
    signers: set[str] = set()
    third_party = (
        event.type == "m.room.member"
        and event.membership == "invite"
        and isinstance(event.content.get("third_party_invite"), dict)
    )
    if not third_party:
        signers.add(identifiers.server_of(event.sender))
    if event.version.references_carry_hashes:
        signers.add(identifiers.server_of(event.event_id))
    if event.version.allows_restricted_joins and event.type == "m.room.member":
        authoriser = event.content.get("join_authorised_via_users_server")
        if isinstance(authoriser, str) and event.membership == "join":
            signers.add(identifiers.server_of(authoriser))
    return frozenset(signers)


@dataclass(frozen=True, slots=True)
class Authorization:
    """An X-Matrix `Authorization` header (server-server §Request Authentication)."""

    origin: str
    destination: str | None
    key_id: str
    signature: str


_PARAMETER = re.compile(
    r"[ \t]*(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*"
    r"(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|(?P<token>[!#$%&'*+.^_`|~0-9A-Za-z:/\[\]=-]*))[ \t]*(?:,|$)"
)


def parse_authorization(header: str) -> Authorization:
    """Parse an X-Matrix header. Raises MatrixError 401 M_UNAUTHORIZED saying what is wrong.

    COMPAT: colons (and Base64's characters) are taken in values without quotes.
    """
    if len(header) > MAX_AUTHORIZATION_LENGTH:
        raise unauthorized("The Authorization header is too long")
    scheme, _, rest = header.strip().partition(" ")
    if scheme.lower() != "x-matrix":
        raise unauthorized("The Authorization header is not of the X-Matrix scheme")
    parameters: dict[str, str] = {}
    position = 0
    while position < len(rest):
        match = _PARAMETER.match(rest, position)
        if match is None or match.end() == position:
            raise unauthorized('The X-Matrix header is malformed: expected name="value" pairs')
        name = match["name"].lower()
        if name in parameters:
            raise unauthorized(f"The X-Matrix header gives {name} twice")
        quoted = match["quoted"]
        parameters[name] = match["token"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        position = match.end()
    missing = [name for name in ("origin", "key", "sig") if not parameters.get(name)]
    if missing:
        raise unauthorized(f"The X-Matrix header lacks {', '.join(missing)}")
    if not identifiers.is_server_name(parameters["origin"]):
        raise unauthorized("The X-Matrix origin is not a server name")
    return Authorization(
        parameters["origin"], parameters.get("destination"), parameters["key"], parameters["sig"]
    )


def request_object(
    method: str, target: str, origin: str, destination: str | None, content: object | None
) -> dict[str, Any]:
    """The object that a request's signature covers; `content` is None for a request without body."""
    value: dict[str, Any] = {"method": method, "uri": target, "origin": origin}
    if destination is not None:
        value["destination"] = destination
    if content is not None:
        value["content"] = content
    return value


def sign_request(
    method: str, target: str, origin: str, destination: str, content: object | None, key: SigningKey
) -> str:
    """The `Authorization` header of a request of ours to `destination`."""
    message = request_object(method, target, origin, destination, content)
    signature = key.sign(canonical_json.encode_signable(message))
    return f'X-Matrix origin="{origin}",destination="{destination}",key="{key.key_id}",sig="{signature}"'


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """A server's public key: 32 bytes, and until when (ms since the epoch) it signs.

    `expired` tells a key of `old_verify_keys`: valid for events up to `valid_until_ms`, and
    for no request.
    """

    key_id: str
    public: bytes
    valid_until_ms: int
    expired: bool


def build_key_document(
    server: str, keys: Iterable[SigningKey], old_keys: Mapping[str, Mapping[str, object]], valid_until_ms: int
) -> dict[str, Any]:
    """Our answer to GET /_matrix/key/v2/server (server-server §Publishing Keys)."""
    signing = list(keys)
    document: dict[str, Any] = {
        "server_name": server,
        "valid_until_ts": valid_until_ms,
        "verify_keys": {key.key_id: {"key": key.public} for key in signing},
        "old_verify_keys": dict(old_keys),
    }
    for key in signing:
        document = sign_json(document, server, key)
    return document


def build_key_document_v1(server: str, keys: Iterable[SigningKey], certificate: bytes) -> dict[str, Any]:
    """Our answer to GET /_matrix/key/v1, as servers of 2014 ask it (§Retrieving Server Keys of then).

    `certificate` is the DER of the TLS certificate that we are reached with.
    """
    signing = list(keys)
    document: dict[str, Any] = {
        "server_name": server,
        "tls_certificate": encode_base64(certificate),
        "verify_keys": {key.key_id: key.public for key in signing},
    }
    for key in signing:
        document = sign_json(document, server, key)
    return document


def parse_key_document_v1(document: object, server: str, certificate: bytes) -> dict[str, bytes]:
    """The keys (key id -> 32 bytes) in a key document of 2014 that is by and for `server`.

    It must name exactly the `certificate` (DER) of the connection that it came by, and one of the
    keys in it must have signed it. Raises ValueError.
    """
    if not isinstance(document, dict) or document.get("server_name") != server:
        raise ValueError("The key document is not that server's")
    canonical_json.check_values(document)
    told, current = document.get("tls_certificate"), document.get("verify_keys")
    if not isinstance(told, str) or not isinstance(current, dict):
        raise ValueError("The key document lacks tls_certificate or verify_keys")
    if decode_base64(told) != certificate:
        raise ValueError("The key document names another certificate than that of the connection")
    if len(current) > MAX_KEYS_IN_DOCUMENT:
        raise ValueError("The key document holds too many keys")
    keys = {
        key_id: _public_key({"key": text}) for key_id, text in current.items() if _KEY_ID.fullmatch(key_id)
    }
    if not verify_json(document, server, keys):
        raise ValueError("The key document is not signed by a key it publishes")
    return keys


def parse_key_document(document: object, server: str) -> list[PublishedKey]:
    """The keys in a server-key document that is by and for `server` and properly self-signed.

    At least one of its own current keys must have signed it. Raises ValueError.
    """
    if not isinstance(document, dict) or document.get("server_name") != server:
        raise ValueError("The key document is not that server's")
    canonical_json.check_values(document)
    valid_until = document.get("valid_until_ts")
    current, old = document.get("verify_keys"), document.get("old_verify_keys", {})
    if type(valid_until) is not int or not isinstance(current, dict) or not isinstance(old, dict):
        raise ValueError("The key document lacks valid_until_ts or verify_keys")
    if len(current) + len(old) > MAX_KEYS_IN_DOCUMENT:
        raise ValueError("The key document holds too many keys")
    published = [
        PublishedKey(key_id, _public_key(entry), valid_until, expired=False)
        for key_id, entry in current.items()
        if _KEY_ID.fullmatch(key_id)
    ]
    if not verify_json(document, server, {key.key_id: key.public for key in published}):
        raise ValueError("The key document is not signed by a key it publishes")
    for key_id, entry in old.items():
        expired_ts = entry.get("expired_ts") if isinstance(entry, dict) else None
        if _KEY_ID.fullmatch(key_id) and type(expired_ts) is int and key_id not in current:
            try:
                published.append(PublishedKey(key_id, _public_key(entry), expired_ts, expired=True))
            except ValueError:
                continue  # an old key that nobody can use spoils none of the others
    return published


def _public_key(entry: object) -> bytes:
    text = entry.get("key") if isinstance(entry, dict) else None
    public = decode_base64(text) if isinstance(text, str) else b""
    if len(public) != 32:
        raise ValueError("The key document holds a key that is not 32 bytes of Base64")
    return public

"""ID tokens: whether one is genuine, for this server and this sign-in (OpenID Connect Core §3.1.3.7).

Owns the algorithms that count as a signature and every check of the claims. Signatures are the library's
(joserfc). Never fetches anything: the keys are given.
"""

from __future__ import annotations

import binascii
import hmac
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from joserfc import jwk, jwt
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jws import JWSRegistry

#: Signatures by a key that only the provider has. "none" is no signature; those of the HS family are made
#: with a secret that both sides know, or, by who confuses the two, with a public key as that secret.
ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
)  # fmt: skip
#: Which kind makes which signatures, by what their names begin with.
_KEY_TYPE_OF = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
#: What is read of a key: its numbers, its name, what it signs by.
_READ = frozenset({"kty", "n", "e", "crv", "x", "y", "kid", "alg"})
#: Characters of an ID token: one with groups and pictures has some thousands.
MAX_ID_TOKEN_CHARACTERS = 64 * 1024
#: Bytes of a token's header, which names a key and may carry certificates; and of its signature (RSA 8192).
MAX_HEADER_BYTES, MAX_SIGNATURE_BYTES = 16 * 1024, 1024
#: Keys of one provider that are looked at; providers publish two or three.
MAX_KEYS = 50
#: Characters of a key's longest number: RSA of less than 2048 bits can be broken, of more than 8192 takes
#: long to check with. base64url has four characters for three bytes.
LEAST_RSA_CHARACTERS, MAX_KEY_CHARACTERS = 342, 1366
#: Seconds by which the clocks of two servers may differ.
LEEWAY_SECONDS = 60
#: Seconds since an ID token was made: it comes straight from the provider.
MAX_AGE_SECONDS = 600
#: OpenID Connect §2: `sub` is at most 255 ASCII characters.
MAX_SUBJECT_CHARACTERS = 255

Key = jwk.RSAKey | jwk.ECKey | jwk.OKPKey


class NotGenuineError(Exception):
    """An ID token proves nothing; the text says why, for the operator."""


class UnknownKeyError(NotGenuineError):
    """It is signed with a key that is not among those at hand: the provider may have new ones."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What an ID token must say."""

    issuer: str
    client_id: str
    nonce: str


def read_keys(document: object) -> list[Key]:
    """The usable public keys of a JWK set (RFC 7517 §5); others are passed over.

    Raises NotGenuineError for what is no such set.
    """
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise NotGenuineError("the provider's keys are no JWK set")
    found: list[Key] = []
    for entry in listed[:MAX_KEYS]:
        if not isinstance(entry, dict) or not _may_be_read(entry):
            continue
        try:
            key = jwk.import_key({name: value for name, value in entry.items() if name in _READ})
        except (JoseError, ValueError, TypeError, KeyError):
            continue
        if isinstance(key, Key):
            found.append(key)
    return found


def _may_be_read(entry: Mapping[str, Any]) -> bool:
    """Whether it may be a public key for signatures, of a sane size."""
    # No symmetric key: whatever that signs, anybody could who reads this set.
    if entry.get("kty") not in ("RSA", "EC", "OKP") or entry.get("use", "sig") != "sig":
        return False
    texts = [entry[name] for name in _READ if name in entry]
    if not all(isinstance(text, str) and len(text) <= MAX_KEY_CHARACTERS for text in texts):
        return False
    return entry["kty"] != "RSA" or len(entry.get("n", "")) >= LEAST_RSA_CHARACTERS


def checked(id_token: str, keys: Sequence[Key], expected: Expected, now_ms: int) -> Mapping[str, Any]:
    """The claims of an ID token that is genuine, meant for us, for this sign-in, and not over.

    `keys` are the provider's. Raises UnknownKeyError if none of them may have signed it, NotGenuineError.
    """
    if len(id_token) > MAX_ID_TOKEN_CHARACTERS or not id_token.isascii():
        raise NotGenuineError("the ID token is too long, or no text of ASCII")
    algorithm, key_id = _header(id_token)
    candidates = [key for key in keys if _may_have_signed(key, algorithm, key_id)]
    if not candidates:
        raise UnknownKeyError(f"the provider has no key {key_id!r} for {algorithm}")
    claims = _verified(id_token, candidates, algorithm)
    _check_claims(claims, expected, now_ms / 1000)
    return claims


def _header(id_token: str) -> tuple[str, str | None]:
    """(the algorithm, the key's id) that a token names."""
    encoded = id_token.split(".", maxsplit=1)[0]
    try:
        header = orjson.loads(urlsafe_b64decode(encoded[: 2 * MAX_HEADER_BYTES] + "=" * (-len(encoded) % 4)))
    except (ValueError, binascii.Error):
        raise NotGenuineError("the ID token has no header") from None
    algorithm = header.get("alg") if isinstance(header, dict) else None
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise NotGenuineError(f"the ID token is signed by {str(algorithm)[:20]!r}, which is not accepted")
    key_id = header.get("kid")
    if key_id is not None and not isinstance(key_id, str):
        raise NotGenuineError("the ID token names a key that is no text")
    return algorithm, key_id


def _may_have_signed(key: Key, algorithm: str, key_id: str | None) -> bool:
    if key.key_type != _KEY_TYPE_OF[algorithm[:2]] or (key_id is not None and key.kid != key_id):
        return False
    return key.alg is None or key.alg == algorithm or {key.alg, algorithm} == {"EdDSA", "Ed25519"}


class _Registry(JWSRegistry):
    """The one algorithm that was found to be accepted, within our bounds."""

    max_header_length = MAX_HEADER_BYTES
    max_signature_length = MAX_SIGNATURE_BYTES

    def get_alg(self, name: str) -> Any:
        # The library's own would warn of "EdDSA" each time: RFC 9864 has newer names, providers the old one.
        if self.allowed is None or name not in self.allowed:
            raise UnsupportedAlgorithmError(name)
        return self.algorithms[name]


def _verified(id_token: str, candidates: Sequence[Key], algorithm: str) -> Mapping[str, Any]:
    """The claims, if one of the keys has signed them."""
    registry = _Registry(algorithms=[algorithm], strict_check_header=False)
    why = "no key"
    for key in candidates:
        try:
            return jwt.decode(id_token, key, algorithms=[algorithm], registry=registry).claims
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            # The last is of values nested so deep that the library's parser gives up.
            why = f"{type(error).__name__}: {error}"
    raise NotGenuineError(f"the ID token's signature is not good: {why}")


def _check_claims(claims: Mapping[str, Any], expected: Expected, now: float) -> None:
    if claims.get("iss") != expected.issuer:
        raise NotGenuineError(f"the ID token is of the issuer {str(claims.get('iss'))[:200]!r}")
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if expected.client_id not in audiences:
        raise NotGenuineError(f"the ID token is for {str(audience)[:200]!r}")
    # One that is for several must have been given to us, and one that was given to somebody names them.
    if claims.get("azp", expected.client_id if len(audiences) == 1 else None) != expected.client_id:
        raise NotGenuineError(f"the ID token was given to {str(claims.get('azp'))[:200]!r}")
    if _moment(claims, "exp") <= now - LEEWAY_SECONDS:
        raise NotGenuineError("the ID token has expired")
    made = _moment(claims, "iat")
    if not now - MAX_AGE_SECONDS - LEEWAY_SECONDS <= made <= now + LEEWAY_SECONDS:
        raise NotGenuineError("the ID token was made too long ago, or in the future: compare the clocks")
    if "nbf" in claims and _moment(claims, "nbf") > now + LEEWAY_SECONDS:
        raise NotGenuineError("the ID token is not good yet: compare the clocks")
    nonce = claims.get("nonce")
    if not isinstance(nonce, str) or not hmac.compare_digest(nonce.encode(), expected.nonce.encode()):
        raise NotGenuineError("the ID token is for another sign-in: its nonce differs")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT_CHARACTERS or "\0" in subject:
        raise NotGenuineError("the ID token does not say who signed in")


def _moment(claims: Mapping[str, Any], name: str) -> float:
    """A moment in seconds since the epoch."""
    value = claims.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise NotGenuineError(f"the ID token lacks {name}")
    return float(value)

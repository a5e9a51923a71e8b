"""Targets of signing in elsewhere: a provider's tokens and keys, and where an app wants its user sent."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from functools import cache
from urllib.parse import parse_qsl, urlsplit

import orjson
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from comity.protocol.errors import MatrixError
from comity.users.upstream import clients, id_token
from comity.users.upstream.id_token import Expected, Key, NotGenuineError
from fuzz.target import Target, require
from fuzz.targets.servers import object_of, text_in

NOW = 1_700_000_000
EXPECTED = Expected("https://i.example", "comity", "the nonce")


@cache
def _signer() -> tuple[ec.EllipticCurvePrivateKey, Key]:
    private = ec.generate_private_key(ec.SECP256R1())
    numbers = private.public_key().public_numbers()
    x, y = (_part(number.to_bytes(32)) for number in (numbers.x, numbers.y))
    (only,) = id_token.read_keys({"keys": [{"kty": "EC", "crv": "P-256", "kid": "first", "x": x, "y": y}]})
    return private, only


def check_id_token(data: bytes) -> str:
    """`{"header": …, "claims": …}`, which are signed as the provider does, `{"token": text}`, or `keys`.

    A header or claims that are text are signed as they stand: no JSON, or deeper than orjson writes.
    """
    given = object_of(data)
    try:
        id_token.read_keys(given.get("keys", {"keys": []}))
    except NotGenuineError as error:
        return str(error)[:30]
    private, key = _signer()
    token = text_in(given.get("token"))
    if not token:
        try:
            header, claims = _written(given.get("header")), _written(given.get("claims"))
        except orjson.JSONEncodeError:
            return "deep"
        token = _signed(private, header, claims)
    try:
        found = id_token.checked(token, [key], EXPECTED, NOW * 1000)
    except NotGenuineError as error:
        return str(error)[:30]
    require((found["iss"], found["nonce"]) == ("https://i.example", "the nonce"), "it is for this sign-in")
    require("comity" in found["aud"] and found.get("azp", "comity") == "comity", "it is for this server")
    require(found["exp"] > NOW - id_token.LEEWAY_SECONDS, "it is not over")
    require(isinstance(found["sub"], str) and 0 < len(found["sub"]) <= 255, "it says who")
    return "genuine"


def _written(value: object) -> bytes:
    return value.encode() if isinstance(value, str) else orjson.dumps(value)


def _signed(private: ec.EllipticCurvePrivateKey, header: bytes, claims: bytes) -> str:
    signed = f"{_part(header)}.{_part(claims)}"
    r, s = decode_dss_signature(private.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{_part(r.to_bytes(32) + s.to_bytes(32))}"


def _part(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def check_redirect(data: bytes) -> str:
    """A `redirectUrl`."""
    text = data.decode("utf-8", "replace")
    try:
        url = clients.checked_redirect(text)
    except MatrixError as error:
        require(error.status == 400, "no address is 400")
        return error.text
    scheme = urlsplit(url).scheme
    require(url.isascii() and url.isprintable() and " " not in url, "an address is plain")
    require(not set(clients.form_target(url)) & set(" ;,'\"\\"), "a policy names one place")
    require("@" not in urlsplit(url).netloc or scheme not in ("http", "https"), "nobody is misled")
    led = clients.with_token(url, "T")
    require(urlsplit(led)[:3] == urlsplit(url)[:3], "the token changes no place")
    told = [value for name, value in parse_qsl(urlsplit(led).query) if name == clients.TOKEN]
    require(told == ["T"], "there is one token")
    for base in ("https://app.example/matrix/", "https://app.example"):
        if clients.is_trusted(url, [base]):
            require((scheme, urlsplit(url).hostname) == ("https", "app.example"), "trust stays at its place")
            return "trusted"
    return f"good {'web' if scheme in ('http', 'https') else 'app'}"


TARGETS = (
    Target(
        "id_tokens",
        check_id_token,
        json=True,
        words=("header", "claims", "token", "keys", "alg", "kid", "crit", "b64", "typ", *id_token.ALGORITHMS,
               "none", "HS256", "iss", "aud", "azp", "exp", "iat", "nbf", "nonce", "sub", "kty", "crv", "use",
               "https://i.example", "comity", "the nonce", "first", "1700000000", "EC", "RSA", "oct"),
        max_bytes=32_768,
    ),
    Target(
        "redirects",
        check_redirect,
        words=("https://", "http://", "app.example", "/matrix/", "..", "%2e", "@", "\\", "?", "#", "&", "=",
               "loginToken", "login%54oken", "javascript:", "org.example.app:/", "//", ":443", ":0", "[::1]"),
    ),
)  # fmt: skip

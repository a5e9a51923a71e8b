"""An identity server (identity-service API, version 2), in the place of the network of URLs."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import orjson
from nacl.signing import VerifyKey

from comity.ports import NO_HEADERS, Answer, TransportError
from comity.protocol import canonical_json

NAME = "id.example"
TOKEN = "a token"
V2 = "/_matrix/identity/v2"
PEPPER = "a pepper"
_X_MATRIX = re.compile(r'(\w+)="([^"]*)"')


@dataclass
class IdentityServer:
    """`ports.Outbound` behind which one identity server is. `asked` are its requests: path and body."""

    #: The public key of the homeserver, in unpadded Base64, and its name.
    homeserver: tuple[str, bytes] = ("example.org", b"")
    #: (sid, client secret) -> the address that was proven there.
    proven: dict[tuple[str, str], str] = field(default_factory=dict)
    #: Address -> the user whose it is.
    bound: dict[str, str] = field(default_factory=dict)
    stored: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    #: What is answered to a path, in the place of all that follows.
    instead: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    down: bool = False

    async def request_url(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        body: bytes | None = None,
        timeout: float,
        max_bytes: int,
        max_redirects: int = 0,
        plain_http: bool = False,
    ) -> Answer:
        """See `ports.Outbound`."""
        parts = urlsplit(url)
        assert parts.scheme == "https" and not plain_http and max_redirects == 0
        if parts.netloc != NAME or self.down:
            raise TransportError(f"nobody is at {parts.netloc}")
        path = parts.path.removeprefix(V2)
        given = orjson.loads(body) if body is not None else {}
        self.asked.append((path, given))
        if path in self.instead:
            status, answered = self.instead[path]
            return Answer(status, {}, answered)
        if path == "/3pid/unbind":
            return self._unbind(headers["Authorization"], given)
        if headers["Authorization"] != f"Bearer {TOKEN}":
            return _refusal(401, "M_UNAUTHORIZED", "Unrecognised access token")
        match f"{method} {path}":
            case "POST /3pid/bind":
                return self._bind(given)
            case "GET /hash_details":
                return _answer({"lookup_pepper": PEPPER, "algorithms": ["none", "sha256"]})
            case "POST /lookup":
                return self._look_up(given)
            case "POST /store-invite":
                return self._store(given)
        return _refusal(404, "M_UNRECOGNIZED", "There is no such endpoint")

    def _bind(self, body: dict[str, Any]) -> Answer:
        address = self.proven.get((body["sid"], body["client_secret"]))
        if address is None:
            return _refusal(404, "M_NO_VALID_SESSION", "No valid session was found")
        self.bound[address] = body["mxid"]
        told = {"medium": "email", "address": address, "mxid": body["mxid"], "ts": 0, "signatures": {}}
        return _answer({**told, "not_before": 0, "not_after": 2**40})

    def _unbind(self, authorization: str, body: dict[str, Any]) -> Answer:
        """Who asks must have signed it (identity-service §POST /3pid/unbind)."""
        scheme, _, rest = authorization.partition(" ")
        told = dict(_X_MATRIX.findall(rest))
        name, key = self.homeserver
        assert (scheme, told["origin"], told["destination"]) == ("X-Matrix", name, NAME)
        signed = canonical_json.encode(
            {
                "method": "POST", "uri": f"{V2}/3pid/unbind", "origin": name, "destination": NAME,
                "content": body,
            }
        )  # fmt: skip
        VerifyKey(key).verify(signed, base64.b64decode(told["sig"] + "=="))
        address = body["threepid"]["address"]
        assert body["mxid"].endswith(f":{name}") and body["threepid"]["medium"] == "email"
        if self.bound.get(address) != body["mxid"]:
            return _refusal(404, "M_NOT_FOUND", "There is no such binding")
        del self.bound[address]
        return _answer({})

    def _look_up(self, body: dict[str, Any]) -> Answer:
        assert (body["algorithm"], body["pepper"]) == ("sha256", PEPPER)
        hashes = {_hash(address): user_id for address, user_id in self.bound.items()}
        return _answer({"mappings": {each: hashes[each] for each in body["addresses"] if each in hashes}})

    def _store(self, body: dict[str, Any]) -> Answer:
        self.stored.append(body)
        url = f"https://{NAME}{V2}/pubkey"
        keys = [
            {"public_key": "lasting", "key_validity_url": f"{url}/isvalid"},
            {"public_key": "ephemeral", "key_validity_url": f"{url}/ephemeral/isvalid"},
        ]
        token = f"token{len(self.stored)}"
        return _answer({"token": token, "public_keys": keys, "display_name": "c...@..."})


def _hash(address: str) -> str:
    digest = hashlib.sha256(f"{address} email {PEPPER}".encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _answer(body: object) -> Answer:
    return Answer(200, {}, orjson.dumps(body))


def _refusal(status: int, code: str, text: str) -> Answer:
    return Answer(status, {}, orjson.dumps({"errcode": code, "error": text}))

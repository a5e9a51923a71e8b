"""What comity asks identity servers in its users' name (identity-service API, version 2).

Owns paths, access tokens and signatures of these requests, their bounds, and the shape of the answers. A
user names the server and brings the token; who may ask for what is decided where it is asked.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from comity.federation.answers import json_object, malformed
from comity.federation.client import refusal, signed_bytes
from comity.federation.errors import FederationError
from comity.ports import Outbound, TransportError
from comity.protocol import canonical_json
from comity.protocol.errors import MatrixError
from comity.protocol.identifiers import is_server_name, is_user_id
from comity.protocol.signing import SigningKey

_V2 = "/_matrix/identity/v2"
#: Seconds for one answer: a person waits for it.
SECONDS = 10.0
#: Bytes of an answer: each is one small object.
MAX_BYTES = 64 * 1024
#: Characters of an access token, of an address, a token or a key in an answer, and of a URL.
MAX_TOKEN, MAX_TEXT, MAX_URL = 2_000, 255, 2_000
#: Public keys of one invite; there are two, a lasting one and one of its own.
MAX_KEYS = 10
#: Answers by which a server says that it cannot unbind at all (identity-service §POST /3pid/unbind).
_NO_UNBIND = frozenset({400, 404, 405, 501})


#: Codes that speak of the access token of a request, and by which clients know that their session is over.
_ABOUT_TOKENS = frozenset({"M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_USER_LOCKED"})


@dataclass(frozen=True, slots=True)
class StoredInvite:
    """An invite that an identity server keeps until its address is somebody's."""

    token: str
    display_name: str
    #: (public key, where to ask whether it is valid)
    public_keys: tuple[tuple[str, str], ...]


class IdentityServers:
    """Asks identity servers."""

    def __init__(self, outbound: Outbound, server_name: str, key: SigningKey) -> None:
        self._outbound = outbound
        self._server_name = server_name
        self._key = key

    async def bind(
        self, id_server: str, token: str, sid: str, client_secret: str, user_id: str
    ) -> tuple[str, str]:
        """Have an address published as the user's: (medium, address). Raises FederationError."""
        answer = await self._ask(
            id_server,
            "POST",
            "/3pid/bind",
            token,
            {"sid": sid, "client_secret": client_secret, "mxid": user_id},
        )
        return _text(id_server, answer, "medium"), _text(id_server, answer, "address")

    async def unbind(self, id_server: str, user_id: str, medium: str, address: str) -> None:
        """Have an address published no more; the request is signed as this server's.

        Raises FederationError; `supports_unbinding` tells what kind.
        """
        body = {"mxid": user_id, "threepid": {"medium": medium, "address": address}}
        data, target = canonical_json.encode(body), f"{_V2}/3pid/unbind"
        signature = self._key.sign(signed_bytes("POST", target, self._server_name, id_server, data))
        header = (
            f'X-Matrix origin="{self._server_name}",destination="{id_server}",'
            f'key="{self._key.key_id}",sig="{signature}"'
        )
        await self._send(id_server, "POST", target, header, data)

    async def find(self, id_server: str, token: str, medium: str, address: str) -> str | None:
        """The user whose address it is, as the identity server knows (identity-service §Association lookup).

        Raises FederationError.
        """
        details = await self._ask(id_server, "GET", "/hash_details", token)
        pepper = _text(id_server, details, "lookup_pepper", empty=True)
        algorithms = details.get("algorithms")
        if not isinstance(algorithms, list) or "sha256" not in algorithms:
            raise malformed(id_server, "it does not know sha256")
        digest = hashlib.sha256(f"{address} {medium} {pepper}".encode()).digest()
        hashed = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        body = {"algorithm": "sha256", "pepper": pepper, "addresses": [hashed]}
        answer = await self._ask(id_server, "POST", "/lookup", token, body)
        mappings = answer.get("mappings")
        if not isinstance(mappings, dict):
            raise malformed(id_server, "mappings are missing")
        user_id = mappings.get(hashed)
        if user_id is not None and not is_user_id(user_id):
            raise malformed(id_server, "an address is mapped to what is no user id")
        return user_id

    async def store_invite(self, id_server: str, token: str, body: Mapping[str, str]) -> StoredInvite:
        """Have an invite kept, and its address written to (identity-service §Invitation storage).

        Raises FederationError.
        """
        answer = await self._ask(id_server, "POST", "/store-invite", token, dict(body))
        keys = answer.get("public_keys")
        if not isinstance(keys, list) or not 0 < len(keys) <= MAX_KEYS:
            raise malformed(id_server, "public_keys are missing")
        told = []
        for item in keys:
            if not isinstance(item, dict):
                raise malformed(id_server, "a public key is no object")
            told.append(
                (
                    _text(id_server, item, "public_key"),
                    _text(id_server, item, "key_validity_url", most=MAX_URL),
                )
            )
        return StoredInvite(
            _text(id_server, answer, "token"),
            _text(id_server, answer, "display_name", empty=True),
            tuple(told),
        )

    async def _ask(
        self, id_server: str, method: str, path: str, token: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        if not 0 < len(token) <= MAX_TOKEN or not token.isascii() or not token.isprintable():
            raise FederationError(
                id_server, "the access token is none that could be sent", code="M_UNAUTHORIZED"
            )
        data = None if body is None else canonical_json.encode(body)
        return await self._send(id_server, method, _V2 + path, f"Bearer {token}", data)

    async def _send(
        self, id_server: str, method: str, target: str, authorization: str, data: bytes | None
    ) -> dict[str, Any]:
        if not is_server_name(id_server):
            raise FederationError(id_server[:MAX_TEXT], "this is no host name", kind="unwelcome")
        headers = {"Authorization": authorization, "Accept": "application/json"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        try:
            answer = await self._outbound.request_url(
                method, f"https://{id_server}{target}", headers=headers, body=data, timeout=SECONDS,
                max_bytes=MAX_BYTES,
            )  # fmt: skip
        except TransportError as error:
            raise FederationError(
                id_server, str(error), reached=error.reached, temporary=True, kind="connection"
            ) from error
        if not 200 <= answer.status < 300:
            raise refusal(id_server, answer)
        return json_object(id_server, answer.body)


def supports_unbinding(error: FederationError) -> bool:
    """Whether an unbind failed for another reason than that the identity server has no such thing.

    identity-service §POST /3pid/unbind: without a Matrix error in the body it does not support unbinds.
    """
    return error.code is not None or error.status not in _NO_UNBIND


def told(error: FederationError) -> MatrixError:
    """What a user is told: the identity server's own error, if it has one (client-server §POST 3pid/bind)."""
    if error.kind == "unwelcome":
        return MatrixError(400, "M_INVALID_PARAM", "id_server is not the host name of an identity server")
    if error.code is None or (error.status is not None and not 400 <= error.status < 500):
        return MatrixError(
            502, "M_UNKNOWN", "The identity server could not be asked, or made no sense", detail=str(error)
        )
    # No client is to take this for an answer about its own token, and end its session here.
    if error.status in (None, 401) or error.code in _ABOUT_TOKENS:
        return MatrixError(403, "M_UNAUTHORIZED", "The identity server does not take the access token")
    extra = {"retry_after_ms": error.retry_after_ms} if error.status == 429 and error.retry_after_ms else None
    return MatrixError(error.status, error.code, f"The identity server says: {error.text}", extra=extra)


def _text(
    id_server: str, value: Mapping[str, Any], name: str, *, most: int = MAX_TEXT, empty: bool = False
) -> str:
    text = value.get(name)
    if not isinstance(text, str) or not (text or empty) or len(text) > most or "\x00" in text:
        raise malformed(id_server, f"{name} is missing")
    return text

"""Another server, as small as it can be, over real TLS on loopback.

Written from the specification with nothing of comity in it: its own canonical JSON, its own
Ed25519, its own reading of X-Matrix. It answers what a test tells it to and keeps what it was sent.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


def canonical(value: object) -> bytes:
    """appendices §Canonical JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def unpadded(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def padded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))


class Key:
    """An Ed25519 key of a server, made from a phrase."""

    def __init__(self, key_id: str, phrase: str) -> None:
        self.key_id = key_id
        self.seed = hashlib.sha256(phrase.encode()).digest()
        self._private = Ed25519PrivateKey.from_private_bytes(self.seed)
        self.public = unpadded(
            self._private.public_key().public_bytes(
                serialization.Encoding.Raw, serialization.PublicFormat.Raw
            )
        )

    def sign(self, message: bytes) -> str:
        return unpadded(self._private.sign(message))

    def sign_json(self, server: str, value: dict[str, Any]) -> dict[str, Any]:
        """appendices §Signing JSON: the object with this key's signature beside those it has."""
        signatures = {name: dict(keys) for name, keys in value.get("signatures", {}).items()}
        bare = {name: part for name, part in value.items() if name not in ("signatures", "unsigned")}
        signatures.setdefault(server, {})[self.key_id] = self.sign(canonical(bare))
        return {**value, "signatures": signatures}


@dataclass
class Received:
    """One request that the peer was sent."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def x_matrix(self) -> dict[str, str]:
        """The parameters of the Authorization header."""
        scheme, _, rest = self.headers["authorization"].partition(" ")
        assert scheme == "X-Matrix"
        return dict(re.findall(r'([a-z]+)="([^"]*)"', rest))

    def is_signed_by(self, public: str, destination: str) -> bool:
        """server-server §Request Authentication, with the public key in Base64."""
        given = self.x_matrix
        signed: dict[str, Any] = {
            "method": self.method,
            "uri": self.target,
            "origin": given["origin"],
            "destination": destination,
        }
        if self.body:
            signed["content"] = self.json
        try:
            Ed25519PublicKey.from_public_bytes(padded(public)).verify(padded(given["sig"]), canonical(signed))
        except InvalidSignature:
            return False
        return given["destination"] == destination


Reply = tuple[int, Any]
Handler = Callable[[Received], Reply | Awaitable[Reply]]


@dataclass
class PeerServer:
    """A server on loopback; `handlers` say what it answers by method and path without the query."""

    name: str = ""
    key: Key = field(default_factory=lambda: Key("ed25519:peer", "peer"))
    received: list[Received] = field(default_factory=list)
    handlers: dict[tuple[str, str], Handler] = field(default_factory=dict)
    #: What its key document says beyond its own key.
    valid_until: int = 0
    old_keys: dict[str, Any] = field(default_factory=dict)
    #: Transactions that it took, in order, and what it answers to the next ones (then 200).
    transactions: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    refusals: list[Reply] = field(default_factory=list)
    #: What answers transactions instead, if set.
    on_send: Handler | None = None
    _runner: web.ServerRunner | None = None
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _context: ssl.SSLContext | None = None
    _port: int = 0

    async def start(self, context: ssl.SSLContext) -> PeerServer:
        self._context = context
        await self.up()
        return self

    async def up(self) -> None:
        """Listen (again, on the same port)."""
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=self._context)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self.name = f"localhost:{self._port}"

    async def down(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def key_document(self) -> dict[str, Any]:
        return self.key.sign_json(
            self.name,
            {
                "server_name": self.name,
                "valid_until_ts": self.valid_until,
                "verify_keys": {self.key.key_id: {"key": self.key.public}},
                "old_verify_keys": self.old_keys,
            },
        )

    def knows_2014_alone(self, certificate: bytes, *, key: Key | None = None) -> None:
        """Publish keys at /_matrix/key/v1 and nowhere else; `key` signs in the place of its own."""
        document = {
            "server_name": self.name,
            "tls_certificate": unpadded(certificate),
            "verify_keys": {self.key.key_id: self.key.public},
        }
        self.on("GET", "/_matrix/key/v2/server", 404, {"errcode": "M_UNRECOGNIZED", "error": "What is that?"})
        self.on("GET", "/_matrix/key/v1", 200, (key or self.key).sign_json(self.name, document))

    def on(self, method: str, path: str, status: int, answer: Any) -> None:
        """Always answer that."""
        self.handlers[method, path] = lambda _: (status, answer)

    def requests(self, path: str) -> list[Received]:
        """The requests for a path (without the query)."""
        return [request for request in self.received if request.path == path]

    def sends(self) -> list[Received]:
        """The requests that carried transactions."""
        return [request for request in self.received if "/v1/send/" in request.path]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something that was received makes `condition` true."""
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(condition)

    def pdus(self) -> list[dict[str, Any]]:
        """The PDUs of all transactions that were taken, in order."""
        return [pdu for _, body in self.transactions for pdu in body["pdus"]]

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        received = Received(request.method, request.raw_path, headers, await request.read())
        self.received.append(received)
        status, answer = await self._reply(received)
        async with self._changed:
            self._changed.notify_all()
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        return web.Response(status=status, body=body, content_type="application/json")

    async def _reply(self, received: Received) -> Reply:
        is_send = received.method == "PUT" and received.path.startswith("/_matrix/federation/v1/send/")
        handler = self.handlers.get((received.method, received.path)) or (self.on_send if is_send else None)
        if handler is not None:
            reply = handler(received)
            return await reply if isinstance(reply, Awaitable) else reply
        if received.path == "/_matrix/key/v2/server":
            return 200, self.key_document()
        if is_send:
            if self.refusals:
                return self.refusals.pop(0)
            self.transactions.append((received.path.rpartition("/")[2], received.json))
            return 200, {"pdus": {}}
        return 404, {"errcode": "M_UNRECOGNIZED", "error": "No such endpoint"}

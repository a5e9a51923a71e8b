"""A small identity server on loopback: it stores invites to addresses, and tells whose they became.

Owns what the identity service specification asks of one for invites: accounts by OpenID tokens,
lookups, stored invites, the validity of keys, and the notice to a homeserver. It sends no e-mail: a test
says that an address is somebody's. It never uses comity's code.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from tests.interop import wire
from tests.interop.authority import Authority
from tests.interop.listener import listening
from tests.interop.peer import TIMEOUT, Answer
from tests.interop.process import free_port
from tests.interop.wire import Json, Signer

V2 = "/_matrix/identity/v2"
PEPPER = "a pepper"


def refusal(status: int, code: str, text: str) -> web.Response:
    return web.json_response({"errcode": code, "error": text}, status=status)


@dataclass
class Stored:
    """An invite that waits for its address to become somebody's."""

    address: str
    room_id: str
    sender: str
    token: str


@dataclass
class IdentityServer:
    """An identity server of one test. `asked` holds "METHOD path" of all that it was asked."""

    signer: Signer
    http: aiohttp.ClientSession
    #: Access token -> the user whose homeserver vouched for them.
    accounts: dict[str, str] = field(default_factory=dict)
    #: Address -> the user whose it is.
    bound: dict[str, str] = field(default_factory=dict)
    stored: list[Stored] = field(default_factory=list)
    #: Public keys that are no longer valid.
    revoked: set[str] = field(default_factory=set)
    ephemeral: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.signer.name

    # What it is asked

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        raw = await request.read()
        body: Json = json.loads(raw) if raw else {}
        match f"{request.method} {request.path.removeprefix(V2)}":
            case "GET ":
                return web.json_response({})
            case "POST /account/register":
                return await self._register(body)
            case "GET /pubkey/isvalid":
                key = request.query["public_key"]
                return web.json_response({"valid": key == self.signer.public and key not in self.revoked})
            case "GET /pubkey/ephemeral/isvalid":
                key = request.query["public_key"]
                return web.json_response({"valid": key in self.ephemeral and key not in self.revoked})
        # identity-service §Authentication: in the header or in the query, as Synapse does at times.
        header = request.headers.get("Authorization", "").removeprefix("Bearer ")
        account = self.accounts.get(header or request.query.get("access_token", ""))
        if account is None:
            return refusal(401, "M_UNAUTHORIZED", "an access token is missing")
        match f"{request.method} {request.path.removeprefix(V2)}":
            case "GET /account":
                return web.json_response({"user_id": account})
            case "GET /hash_details":
                return web.json_response({"lookup_pepper": PEPPER, "algorithms": ["sha256"]})
            case "POST /lookup":
                return self._lookup(body)
            case "POST /store-invite":
                return self._store(account, body)
        return refusal(404, "M_UNRECOGNIZED", "no such endpoint")

    async def _register(self, body: Json) -> web.Response:
        """An account for whom the homeserver says that the token stands (server-server §OpenID)."""
        server = body["matrix_server_name"]
        url = URL(f"https://{server}/_matrix/federation/v1/openid/userinfo")
        query = {"access_token": body["access_token"]}
        async with self.http.get(url, params=query, timeout=TIMEOUT) as answer:
            told = await answer.json()
        if answer.status != 200 or told["sub"].partition(":")[2] != server:
            return refusal(401, "M_UNAUTHORIZED", "your homeserver does not know the token")
        token = secrets.token_hex(16)
        self.accounts[token] = told["sub"]
        return web.json_response({"token": token})

    def _lookup(self, body: Json) -> web.Response:
        assert (body["algorithm"], body["pepper"]) == ("sha256", PEPPER)
        hashes = {_hash(address): user_id for address, user_id in self.bound.items()}
        return web.json_response({"mappings": {h: hashes[h] for h in body["addresses"] if h in hashes}})

    def _store(self, account: str, body: Json) -> web.Response:
        if body["medium"] != "email":
            return refusal(400, "M_UNRECOGNIZED", "only addresses of e-mail are known")
        if body["sender"] != account:
            return refusal(403, "M_FORBIDDEN", "the invite is another user's")
        if body["address"] in self.bound:
            return refusal(400, "M_THREEPID_IN_USE", "the address is somebody's")
        kept = Stored(body["address"], body["room_id"], body["sender"], secrets.token_hex(16))
        self.stored.append(kept)
        self.ephemeral.append(Signer(self.name).public)
        keys = [(self.signer.public, "isvalid"), (self.ephemeral[-1], "ephemeral/isvalid")]
        public_keys = [
            {"public_key": public, "key_validity_url": f"https://{self.name}{V2}/pubkey/{where}"}
            for public, where in keys
        ]
        shown = {"token": kept.token, "public_keys": public_keys, "display_name": masked(kept.address)}
        # What servers of before `public_keys` read: the specification no longer names it.
        return web.json_response({**shown, "public_key": self.signer.public})

    # What it says

    def signed(self, kept: Stored, user_id: str, signer: Signer | None = None) -> Json:
        """That the invited address is that user's; by another's key if `signer` is given."""
        return (signer or self.signer).sign({"mxid": user_id, "sender": kept.sender, "token": kept.token})

    async def bind(self, address: str, user_id: str, signer: Signer | None = None) -> Answer:
        """The address is now that user's: the notice to their homeserver, and what it answered."""
        self.bound[address] = user_id
        who = {"medium": "email", "address": address, "mxid": user_id}
        invites = [
            {
                **who,
                "room_id": kept.room_id,
                "sender": kept.sender,
                "signed": self.signed(kept, user_id, signer),
            }
            for kept in self.stored
            if kept.address == address
        ]
        # identity-service §Invitation storage: signed with a long-term key.
        notice = self.signer.sign({**who, "invites": invites})
        url = f"https://{user_id.partition(':')[2]}/_matrix/federation/v1/3pid/onbind"
        # The identity service API has POST, and Synapse nothing else; the server-server API has PUT.
        async with self.http.post(url, data=wire.canonical(notice), timeout=TIMEOUT) as answer:
            return Answer(answer.status, await answer.json())


def masked(address: str) -> str:
    """What may be shown of an address."""
    name, _, domain = address.partition("@")
    return f"{name[0]}...@{domain[0]}..."


def _hash(address: str) -> str:
    """Identity-service §Security considerations of lookups: address, medium and pepper."""
    digest = hashlib.sha256(f"{address} email {PEPPER}".encode()).digest()
    return wire.base64_unpadded(digest).replace("+", "-").replace("/", "_")


@asynccontextmanager
async def serve_identity(authority: Authority) -> AsyncIterator[IdentityServer]:
    """An identity server on a free port of loopback, until the block ends."""
    port = free_port()
    connector = aiohttp.TCPConnector(ssl=authority.client_context())
    async with aiohttp.ClientSession(connector=connector) as http:
        server = IdentityServer(Signer(f"localhost:{port}", "ed25519:0"), http)
        async with listening(authority, port, server.handle):
            yield server


async def account_of(client: Any, identity: IdentityServer) -> str:
    """A user's access token at the identity server, by an OpenID token of their homeserver."""
    given = await client.call("POST", "user", client.user_id, "openid", "request_token", body={})
    url = f"https://{identity.name}{V2}/account/register"
    async with identity.http.post(url, json=given, timeout=TIMEOUT) as answer:
        assert answer.status == 200, await answer.text()
        return str((await answer.json())["token"])

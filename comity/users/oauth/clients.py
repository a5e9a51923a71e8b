"""Clients: they register themselves (client-server §Client registration); equal metadata is one client."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from comity.ports import Clock, Entropy
from comity.store import oauth as stored
from comity.store.database import Database, WriteTx
from comity.users.oauth import client_metadata
from comity.users.oauth.client_metadata import ClientMetadata
from comity.users.oauth.errors import OAuthError
from comity.users.rate_limits import OAUTH_CLIENTS, RateLimits

CLIENT_ID_LENGTH = 20
MAX_CLIENT_ID_CHARACTERS = 64
#: Clients kept, of about 1 KiB each: one for each version of each client that registers, and then some.
MAX_CLIENTS = 100_000
#: A client that nobody uses goes after so long; whoever comes back registers again.
KEEP_UNUSED_MS = 30 * 24 * 3_600_000
#: And, where there are too many, after so long: it may be about to be used.
KEEP_FRESH_MS = 3_600_000
#: Clients forgotten with one registration.
MAX_FORGOTTEN = 100


@dataclass(frozen=True, slots=True)
class RegisteredClient:
    """A client and its id."""

    client_id: str
    metadata: ClientMetadata


class Clients:
    """Every client that has registered."""

    def __init__(self, database: Database, limits: RateLimits, clock: Clock, entropy: Entropy) -> None:
        self._database = database
        self._limits = limits
        self._clock = clock
        self._entropy = entropy

    async def register(self, given: Mapping[str, Any], address: str) -> RegisteredClient:
        """Register a client (RFC 7591). Raises OAuthError, 429 M_LIMIT_EXCEEDED."""
        self._limits.check(OAUTH_CLIENTS, address)
        metadata = client_metadata.read(given)
        text = orjson.dumps(metadata.told(), option=orjson.OPT_SORT_KEYS)
        digest, fresh_id = hashlib.sha256(text).digest(), self._entropy.token(CLIENT_ID_LENGTH)

        def store(tx: WriteTx) -> str | None:
            now = self._clock.now_ms()
            stored.forget_clients(tx, now - KEEP_UNUSED_MS, MAX_FORGOTTEN)
            if stored.count_clients(tx) >= MAX_CLIENTS and not stored.forget_clients(
                tx, now - KEEP_FRESH_MS, MAX_FORGOTTEN
            ):
                return None
            return stored.put_client(tx, fresh_id, digest, text.decode(), now)

        client_id = await self._database.write(store)
        if client_id is None:
            raise OAuthError("temporarily_unavailable", "Too many clients are registered here", 503)
        return RegisteredClient(client_id, metadata)

    async def find(self, client_id: str) -> RegisteredClient | None:
        """The client of that id."""
        if len(client_id) > MAX_CLIENT_ID_CHARACTERS or "\0" in client_id:
            return None
        text = await self._database.look_up(lambda tx: stored.client(tx, client_id))
        return None if text is None else RegisteredClient(client_id, read_stored(text))

    async def of_user(self, user_id: str) -> dict[str, ClientMetadata]:
        """device id -> the client that runs on it, of the devices that were logged in by OAuth 2.0."""
        found = await self._database.look_up(lambda tx: stored.clients_of_user(tx, user_id))
        return {device_id: read_stored(text) for device_id, text in found.items()}


def read_stored(text: str) -> ClientMetadata:
    """A client as it is kept."""
    return client_metadata.read(orjson.loads(text))

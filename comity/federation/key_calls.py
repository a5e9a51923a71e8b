"""What comity asks of a server itself: its version and its keys (server-server §Retrieving server keys)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comity.federation.answers import (
    EVENTS_BYTES,
    KEY_SECONDS,
    KEYS,
    KEYS_V1,
    MAX_KEY_DOCUMENTS,
    NOTARY_SECONDS,
    QUICK_SECONDS,
    SMALL_BYTES,
    V1,
    json_object,
    json_objects,
    malformed,
)
from comity.federation.client import FederationClient


class KeyCalls:
    """The calls. Each raises FederationError, also when the answer is not of its shape."""

    def __init__(self, client: FederationClient) -> None:
        self._client = client

    async def version(self, server: str) -> dict[str, Any]:
        """GET version: `{"name": …, "version": …}`, whatever of it is there."""
        data = await self._client.request(
            server, "GET", f"{V1}/version", signed=False, timeout=QUICK_SECONDS, max_bytes=SMALL_BYTES
        )
        told = json_object(server, data).get("server")
        return told if isinstance(told, dict) else {}

    async def server_keys(self, server: str, *, even_if_backing_off: bool = False) -> dict[str, Any]:
        """GET /_matrix/key/v2/server: the key document, its signatures unchecked."""
        data = await self._client.request(
            server,
            "GET",
            f"{KEYS}/server",
            signed=False,
            timeout=KEY_SECONDS,
            max_bytes=SMALL_BYTES,
            even_if_backing_off=even_if_backing_off,
        )
        return json_object(server, data)

    async def server_keys_v1(
        self, server: str, *, even_if_backing_off: bool = False
    ) -> tuple[dict[str, Any], bytes]:
        """GET /_matrix/key/v1, of 2014: the document, unchecked, and the connection's certificate (DER)."""
        answer = await self._client.ask(
            server,
            "GET",
            KEYS_V1,
            signed=False,
            timeout=KEY_SECONDS,
            max_bytes=SMALL_BYTES,
            even_if_backing_off=even_if_backing_off,
        )
        if answer.peer_certificate is None:
            raise malformed(server, "there is no certificate to hold its keys against")
        return json_object(server, answer.body), answer.peer_certificate

    async def query_keys(self, notary: str, wanted: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
        """POST /_matrix/key/v2/query: key documents, their signatures unchecked.

        `wanted` is server -> key id -> the time (ms) until which it should be valid.
        """
        content = {
            "server_keys": {
                server: {key_id: {"minimum_valid_until_ts": until} for key_id, until in keys.items()}
                for server, keys in wanted.items()
            }
        }
        data = await self._client.request(
            notary,
            "POST",
            f"{KEYS}/query",
            content=content,
            signed=False,
            timeout=NOTARY_SECONDS,
            max_bytes=EVENTS_BYTES,
        )
        return json_objects(notary, json_object(notary, data).get("server_keys"), MAX_KEY_DOCUMENTS)

"""What comity asks other servers about their users (server-server §Querying for information)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from comity.federation.answers import (
    MAX_PROFILE_FIELDS,
    QUICK_SECONDS,
    SMALL_BYTES,
    V1,
    json_object,
    malformed,
)
from comity.federation.client import FederationClient
from comity.protocol.identifiers import is_user_id, server_of

#: A thousand devices, with the signatures of many others.
DEVICES_BYTES = 16 * 1024 * 1024
#: A large file over a slow line.
MEDIA_SECONDS = 120.0


class UserCalls:
    """The calls. Each raises FederationError, also when the answer is not of its shape."""

    def __init__(self, client: FederationClient) -> None:
        self._client = client

    async def query_profile(self, server: str, user_id: str, field: str | None) -> dict[str, Any]:
        """GET query/profile: the user's profile, or the one field of it."""
        query = [("user_id", user_id)]
        if field is not None:
            query.append(("field", field))
        data = await self._client.request(
            server, "GET", f"{V1}/query/profile", query=query, timeout=QUICK_SECONDS, max_bytes=SMALL_BYTES
        )
        profile = json_object(server, data)
        if len(profile) > MAX_PROFILE_FIELDS:
            raise malformed(server, f"a profile of more than {MAX_PROFILE_FIELDS} fields")
        return profile

    async def devices(self, server: str, user_id: str) -> dict[str, Any]:
        """GET user/devices: the whole list of a user's devices (server-server §Device Management)."""
        data = await self._client.request(
            server, "GET", f"{V1}/user/devices/{quote(user_id, safe='')}",
            timeout=QUICK_SECONDS, max_bytes=DEVICES_BYTES,
        )  # fmt: skip
        return json_object(server, data)

    async def query_keys(
        self, server: str, wanted: Mapping[str, list[str]], timeout: float
    ) -> dict[str, Any]:
        """POST user/keys/query: user id -> device ids (none: all). `timeout` in seconds."""
        data = await self._client.request(
            server, "POST", f"{V1}/user/keys/query", content={"device_keys": dict(wanted)},
            timeout=timeout, max_bytes=DEVICES_BYTES,
        )  # fmt: skip
        return json_object(server, data)

    async def claim_keys(
        self, server: str, wanted: Mapping[str, Mapping[str, str]], timeout: float
    ) -> dict[str, Any]:
        """POST user/keys/claim: user id -> device id -> algorithm. `timeout` in seconds."""
        content = {"one_time_keys": {user_id: dict(devices) for user_id, devices in wanted.items()}}
        data = await self._client.request(
            server, "POST", f"{V1}/user/keys/claim", content=content,
            timeout=timeout, max_bytes=DEVICES_BYTES,
        )  # fmt: skip
        return json_object(server, data)

    async def openid_userinfo(self, server: str, token: str) -> str:
        """GET openid/userinfo: the user of that server whom a token stands for."""
        data = await self._client.request(
            server, "GET", f"{V1}/openid/userinfo", query=[("access_token", token)], signed=False,
            timeout=QUICK_SECONDS, max_bytes=SMALL_BYTES,
        )  # fmt: skip
        user_id = json_object(server, data).get("sub")
        if not isinstance(user_id, str) or not is_user_id(user_id) or server_of(user_id) != server:
            raise malformed(server, "sub is not a user of that server")
        return user_id

    async def download_media(self, server: str, media_id: str, max_bytes: int) -> bytes:
        """GET media/download: the multipart body as it came, of at most `max_bytes`."""
        return await self._client.request(
            server, "GET", f"{V1}/media/download/{quote(media_id, safe='')}",
            timeout=MEDIA_SECONDS, max_bytes=max_bytes,
        )  # fmt: skip

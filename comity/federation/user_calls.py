"""What comity asks other servers about their users (server-server §Querying for information)."""

from __future__ import annotations

from typing import Any

from comity.federation.answers import (
    MAX_PROFILE_FIELDS,
    QUICK_SECONDS,
    SMALL_BYTES,
    V1,
    json_object,
    malformed,
)
from comity.federation.client import FederationClient


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

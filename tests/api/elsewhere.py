"""The rest of the network, as a server of users alone sees it: profiles, and nobody else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

import orjson

from comity.federation.availability import Availability
from comity.federation.client import FederationClient
from comity.federation.discoverer import Discoverer
from comity.federation.user_calls import UserCalls
from comity.ports import Answer, Clock, Endpoint, Entropy, ResolverError, SrvRecord, TransportError
from comity.protocol.signing import SigningKey


class Elsewhere:
    """`ports.Transport` and `ports.Resolver` where every server knows the profiles in `profiles`.

    One that is an error is what the server says with 403.
    """

    def __init__(self, profiles: Mapping[str, dict[str, Any]]) -> None:
        self._profiles = profiles

    async def request(
        self,
        method: str,
        endpoint: Endpoint,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        timeout: float,
        max_bytes: int,
    ) -> Answer:
        path, _, query = target.partition("?")
        if path != "/_matrix/federation/v1/query/profile":
            raise TransportError("Nobody is there")
        profile = self._profiles.get(parse_qs(query)["user_id"][0])
        if profile is None:
            return Answer(404, {}, orjson.dumps({"errcode": "M_NOT_FOUND", "error": "There is no such user"}))
        return Answer(403 if "errcode" in profile else 200, {}, orjson.dumps(profile))

    async def get_url(self, url: str, *, timeout: float, max_bytes: int) -> Answer:
        raise TransportError("There is no other network")

    async def srv(self, name: str) -> list[SrvRecord]:
        raise ResolverError("There is no network")


def user_calls(
    profiles: Mapping[str, dict[str, Any]], clock: Clock, entropy: Entropy, server_name: str
) -> UserCalls:
    """The calls of a server of that name to all those elsewhere."""
    there = Elsewhere(profiles)
    discoverer = Discoverer(there, there, clock, entropy)
    key = SigningKey("1", bytes(32))
    availability = Availability(clock, entropy)
    return UserCalls(FederationClient(discoverer, there, clock, server_name, key, availability))

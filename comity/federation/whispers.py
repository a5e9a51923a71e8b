"""What passes: EDUs that are worth something now or never (typing, presence), newest of each alone.

In memory; one that cannot be sent at once is dropped, for it would tell of a moment that is over.
"""

from __future__ import annotations

from collections.abc import Collection

from comity.federation.transactions import MAX_PASSING_EDUS, edu

PRESENCE = "m.presence"
#: Servers for which something is kept, and for each of them: in a busy second more than that is noise.
MAX_SERVERS = 20_000
MAX_PER_SERVER = 200
#: Presences in one EDU.
MAX_PRESENCES = 50


class Whispers:
    """The newest of each kind and key, for each server, until it is taken."""

    def __init__(self) -> None:
        self._of: dict[str, dict[tuple[str, str], bytes]] = {}

    def put(self, servers: Collection[str], edu_type: str, key: str, content: bytes) -> None:
        """Keep `content` for these servers in the place of what was there under that type and key."""
        for server in servers:
            held = self._of.get(server)
            if held is None:
                if len(self._of) >= MAX_SERVERS:
                    continue
                held = self._of[server] = {}
            held.pop((edu_type, key), None)
            if len(held) >= MAX_PER_SERVER:
                del held[next(iter(held))]
            held[edu_type, key] = content

    def __contains__(self, server: str) -> bool:
        return server in self._of

    def take(self, server: str) -> list[bytes]:
        """EDUs for one transaction, oldest first, as JSON; they are gone from here."""
        held = self._of.get(server)
        if held is None:
            return []
        edus: list[bytes] = []
        presences: list[bytes] = []
        for edu_type, key in list(held):
            if len(edus) >= MAX_PASSING_EDUS - 1 or len(presences) >= MAX_PRESENCES:
                break
            content = held.pop((edu_type, key))
            if edu_type == PRESENCE:
                presences.append(content)
            else:
                edus.append(edu(edu_type, content))
        if presences:
            edus.append(edu(PRESENCE, b'{"push":[' + b",".join(presences) + b"]}"))
        if not held:
            del self._of[server]
        return edus

    def drop(self, server: str) -> None:
        """The server is away: what was to be told it is over."""
        self._of.pop(server, None)

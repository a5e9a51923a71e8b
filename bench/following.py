"""Two ways to follow rooms and be told of what happens at once: /sync, and sliding sync as apps use it.

Owns the requests of one who waits; `bench.rooms` measures those who do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from urllib.parse import quote

from bench import load

#: Milliseconds that a long poll waits.
POLL_MS = 20_000
SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
_NEXT = re.compile(rb'"next_batch":\s?"([^"]+)"')
_FILTER = {
    "room": {"timeline": {"limit": 50}, "state": {"lazy_load_members": True}},
    "presence": {"types": []},
}
_EXTENSIONS = ("to_device", "e2ee", "account_data", "receipts", "typing")
_LIST = {
    "ranges": [[0, 19]],
    "timeline_limit": 10,
    "required_state": [["m.room.name", ""], ["m.room.encryption", ""], ["m.room.member", "$LAZY"]],
}


class BySync:
    """/sync, with a filter as apps send it."""

    title = ""

    def __init__(self) -> None:
        self._since = ""

    def request(self, port: int, headers: dict[str, str]) -> bytes:
        """The next request: one that waits, but for the first."""
        path = f"/_matrix/client/v3/sync?filter={quote(json.dumps(_FILTER), safe='')}"
        if self._since:
            path += f"&timeout={POLL_MS}&since={quote(self._since, safe='')}"
        return load.request_bytes("GET", path, port, headers)

    def take(self, body: bytes) -> None:
        """Go on from an answer."""
        found = _NEXT.search(body)
        self._since = found[1].decode() if found else self._since


class BySliding:
    """Sliding sync: one list, and the extensions that an app needs."""

    title = " by sliding sync"

    def __init__(self) -> None:
        self._pos = ""
        self._messages: str | None = None

    def request(self, port: int, headers: dict[str, str]) -> bytes:
        """The next request: one that waits, but for the first."""
        extensions: dict[str, dict[str, object]] = {name: {"enabled": True} for name in _EXTENSIONS}
        if self._messages is not None:
            extensions["to_device"]["since"] = self._messages
        body = json.dumps({"lists": {"all": _LIST}, "extensions": extensions, "conn_id": "list"}).encode()
        path = f"{SLIDING}?pos={quote(self._pos, safe='')}&timeout={POLL_MS}" if self._pos else SLIDING
        return load.request_bytes("POST", path, port, headers, body)

    def take(self, body: bytes) -> None:
        """Go on from an answer."""
        answer = json.loads(body)
        self._pos = answer["pos"]
        told = answer.get("extensions", {}).get("to_device", {})
        self._messages = told.get("next_batch", self._messages)


Way = Callable[[], BySync | BySliding]

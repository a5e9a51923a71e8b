"""A front before a homeserver: it passes requests on as they are, and does not know what a test hides.

Owns a server's public port, and remembers some of what came in by it. With the second version of the
requests about memberships hidden, the server behind it looks from outside like one of 2018, and whoever
talks to it must use the first.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from yarl import URL

from tests.interop.client import REQUEST_TIMEOUT
from tests.interop.listener import listening
from tests.interop.servers import Homeserver

_VERSIONED = re.compile(r"/_matrix/federation/(v[12])/(send_join|send_leave|invite)/")
#: Headers of one connection alone, and those that the body's own length or coding stands in.
_OF_THE_CONNECTION = {
    "connection", "content-encoding", "content-length", "date", "host", "keep-alive", "server",
    "transfer-encoding",
}  # fmt: skip


@dataclass
class Front:
    """What stands before one server."""

    server: Homeserver
    http: aiohttp.ClientSession
    #: What has no second version here: "send_join", "send_leave", "invite".
    hidden: set[str] = field(default_factory=set)
    #: ("v1", "send_join", status): what was asked of memberships, and what came of it, in order.
    seen: list[tuple[str, str, int]] = field(default_factory=list)
    #: (path, status) of all that was asked of media.
    media: list[tuple[str, int]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        raw = request.rel_url.raw_path_qs
        answer: web.StreamResponse
        found = _VERSIONED.match(raw)
        if found is None:
            answer = await self._pass_on(request, raw)
            if "/media/" in request.path:
                self.media.append((request.path, answer.status))
            return answer
        version, what = found.groups()
        if version == "v2" and what in self.hidden:
            answer = web.json_response(
                {"errcode": "M_UNRECOGNIZED", "error": "Unrecognized request"}, status=404
            )
        else:
            answer = await self._pass_on(request, raw)
        self.seen.append((version, what, answer.status))
        return answer

    async def _pass_on(self, request: web.Request, raw: str) -> web.StreamResponse:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _OF_THE_CONNECTION}
        url = URL(self.server.base_url + raw, encoded=True)
        body = await request.read()
        async with self.http.request(
            request.method, url, data=body or None, headers=headers, timeout=REQUEST_TIMEOUT
        ) as answer:
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _OF_THE_CONNECTION}
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)


#: The fronts by the names of their servers.
Fronts = dict[str, Front]


@asynccontextmanager
async def fronted(server: Homeserver) -> AsyncIterator[Front]:
    """Answer at the port in the server's name until the block ends."""
    port = int(server.name.rpartition(":")[2])
    connector = aiohttp.TCPConnector(ssl=server.authority.client_context(), limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=True) as http:
        front = Front(server, http)
        async with listening(server.authority, port, front.handle):
            yield front

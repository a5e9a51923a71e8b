"""A TLS listener on loopback in the test's own process.

Owns the socket and its end: whoever still holds a connection is cut off, since nobody waits for a
farewell. What is answered is the handler's affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

from aiohttp import web

from tests.interop.authority import Authority

#: Larger than any answer or transaction that a test sends.
BODY_LIMIT = 64 * 1024 * 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def listening(authority: Authority, port: int, handler: Handler) -> AsyncIterator[None]:
    """Serve every path at `https://localhost:PORT` until the block ends."""
    app = web.Application(client_max_size=BODY_LIMIT)
    transports: set[asyncio.BaseTransport] = set()

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            transports.add(request.transport)
        return await handler(request)

    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=authority.server_context()).start()
    try:
        yield
    finally:
        for transport in transports:
            cast(asyncio.WriteTransport, transport).abort()
        await runner.cleanup()
        await asyncio.sleep(0)

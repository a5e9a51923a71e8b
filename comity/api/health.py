"""`GET /health`: whether the server can do its work, for whoever watches over it. Not of Matrix."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from comity.api.router import Call, Router, json_response
from comity.ports import Response
from comity.protocol.errors import MatrixError

#: Seconds that the database is given to answer.
PATIENCE_SECONDS = 3.0
#: What a watcher is told to wait.
RETRY_AFTER_SECONDS = 2


def routes(router: Router, check: Callable[[], Awaitable[object]]) -> None:
    """Add the route. `check` raises MatrixError when the database cannot be used."""
    # One question at a time, however many ask: a database that hangs is not asked again and again.
    asking: list[asyncio.Task[str | None]] = []

    async def ask() -> str | None:
        try:
            await check()
        except MatrixError as error:
            return error.text
        return None

    async def health(_: Call) -> Response:
        if not asking or asking[0].done():
            asking[:] = [asyncio.get_running_loop().create_task(ask())]
        done, _pending = await asyncio.wait(asking, timeout=PATIENCE_SECONDS)
        trouble = asking[0].result() if done else "The database does not answer"
        if trouble is None:
            return json_response({"status": "ok"})
        response = json_response({"status": "unavailable", "reason": trouble}, 503)
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        return response

    router.add("GET", "/health", health, guard=None)

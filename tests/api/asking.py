"""A request asked as the HTTP server asks it: first without a task, then with one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from comity.api.router import Router
from comity.ports import Request, Response


class Waits:
    """`ports.Waiter` for a test; `pursued` tells whether it took a task."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.pursued: asyncio.Task[None] | None = None

    def settle(self, response: Response) -> None:
        self.answer.set_result(response)

    def pursue(self, answering: Callable[[], Awaitable[Response]]) -> None:
        async def pursue() -> None:
            self.answer.set_result(await answering())

        assert self.pursued is None and not self.answer.done()
        self.pursued = asyncio.create_task(pursue())


async def answered(router: Router, request: Request) -> Response:
    """The answer, however it comes about. Whoever is cancelled is a client that went away."""
    waits = Waits()
    outcome = router.at_once(request, waits)
    if outcome is None:
        return await router.handle(request)
    if isinstance(outcome, Response):
        return outcome
    try:
        return await waits.answer
    except asyncio.CancelledError:
        if waits.pursued is None:
            outcome.cancel()
        else:
            waits.pursued.cancel()
        raise

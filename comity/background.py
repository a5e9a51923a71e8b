"""Work beside requests: a task that runs from the start to the end of the server.

Owns its beginning and its end. What is done, and that nothing of it is lost when it is cut off
anywhere, is the affair of each worker: what it did not come to, the next run finds again.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod


class Worker(ABC):
    """Does `_work` from `start` to `stop`."""

    _task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin, and take up what an earlier run left."""
        self._task = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """Leave the rest for the next run."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @abstractmethod
    async def _work(self) -> None:
        """Work for ever; cancelled at the end."""

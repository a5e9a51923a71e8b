"""Doors of `comity.ports` that a test turns by hand: time, chance, names, and a scripted network."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Mapping

from comity.ports import Answer, Endpoint, ResolverError, SrvRecord, TransportError

#: Seconds after which a test that waits for something real has failed.
PATIENCE = 20.0


class ManualClock:
    """A clock that stands still until `advance`."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms
        self._monotonic = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = itertools.count()
        self._slept = asyncio.Event()

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._count), future))
        self._slept.set()
        await future

    def advance(self, seconds: float) -> None:
        """Let time pass at once; those whose sleep ends wake in order."""
        self._monotonic += seconds
        self._now_ms += round(seconds * 1000)
        while self._sleepers and self._sleepers[0][0] <= self._monotonic + 1e-6:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)

    def sleeps(self) -> list[float]:
        """For how many seconds from now each sleeper will sleep, the next to wake first."""
        return sorted(at - self._monotonic for at, _, future in self._sleepers if not future.done())


class FixedEntropy:
    """Chance that always falls in the middle."""

    def bytes(self, count: int) -> bytes:
        return b"\x07" * count

    def token(self, length: int) -> str:
        return "x" * length

    def random(self) -> float:
        return 0.5


class TableResolver:
    """SRV records from a table; a name that is None there is one whose servers do not answer."""

    def __init__(self, records: Mapping[str, list[SrvRecord] | None] | None = None) -> None:
        self.records = dict(records or {})
        self.asked: list[str] = []

    async def srv(self, name: str) -> list[SrvRecord]:
        self.asked.append(name)
        found = self.records.get(name, [])
        if found is None:
            raise ResolverError("no answer")
        return found


class ScriptedTransport:
    """A network that answers from tables: documents by URL, and answers or errors by (host, port)."""

    def __init__(self) -> None:
        self.documents: dict[str, Answer] = {}
        self.answers: dict[tuple[str, int], Answer | TransportError] = {}
        self.fetched: list[str] = []
        self.asked: list[tuple[str, int]] = []
        #: While it is not set, documents are not answered.
        self.open = asyncio.Event()
        self.open.set()

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
        self.asked.append((endpoint.host, endpoint.port))
        answer = self.answers.get((endpoint.host, endpoint.port), TransportError("refused"))
        if isinstance(answer, TransportError):
            raise answer
        return answer

    async def get_url(self, url: str, *, timeout: float, max_bytes: int) -> Answer:
        self.fetched.append(url)
        await self.open.wait()
        if url not in self.documents:
            raise TransportError("refused")
        return self.documents[url]

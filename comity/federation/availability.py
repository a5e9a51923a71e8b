"""Which servers do not answer at present, and when each may be tried again.

One view for everybody who talks to other servers, in memory alone: what must survive a restart
is stored by the outbox and handed in again. It sends nothing and never waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from comity.ports import Clock, Entropy
from comity.protocol import pacing
from comity.protocol.pacing import Retry
from comity.store.cache import Bounded

#: Failing servers that are remembered; about 300 bytes each. One that is forgotten costs a try.
MAX_REMEMBERED = 50_000
#: A failing server that talks to us is tried at once, but not more often than this: it may be
#: able to reach us while we cannot reach it.
HEARD_PAUSE_MS = 10_000


class Availability:
    """The retry schedule of each server that fails."""

    def __init__(self, clock: Clock, entropy: Entropy) -> None:
        self._clock = clock
        self._entropy = entropy
        self._failing: Bounded[str, Retry] = Bounded(MAX_REMEMBERED)
        self._heard: Bounded[str, int] = Bounded(MAX_REMEMBERED)
        #: Servers that have answered since the start, and not failed since.
        self._answering: Bounded[str, bool] = Bounded(MAX_REMEMBERED)
        #: Called with a server that failed and now answers again.
        self.on_back: list[Callable[[str], None]] = []

    def retry(self, server: str) -> Retry | None:
        """The schedule of a server that fails, else None."""
        return self._failing.get(server)

    def may_try(self, server: str) -> bool:
        """Whether the server is not known to be down just now."""
        return pacing.may_try(self._failing.get(server), self._clock.now_ms())

    def is_answering(self, server: str) -> bool:
        """Whether the server has answered us since the start, the last time that it was asked."""
        return self._answering.get(server) is not None

    def remember(self, server: str, retry: Retry) -> None:
        """Take up a schedule that was stored before."""
        self._failing.put(server, retry)

    def failed(self, server: str) -> Retry:
        """The server could not be reached: its schedule from here on."""
        retry = pacing.after_failure(self._failing.get(server), self._clock.now_ms(), self._entropy.random())
        self._failing.put(server, retry)
        self._answering.drop(server)
        return retry

    def succeeded(self, server: str) -> None:
        """The server answered."""
        self._answering.put(server, True)
        if self._failing.get(server) is None:
            return
        self._failing.drop(server)
        self._heard.drop(server)
        for notify in self.on_back:
            notify(server)

    def heard(self, server: str) -> bool:
        """The server made a request to us. True if it was failing and may be tried at once now."""
        retry = self._failing.get(server)
        now = self._clock.now_ms()
        if retry is None or pacing.may_try(retry, now):
            return retry is not None
        last = self._heard.get(server)
        if last is not None and 0 <= now - last < HEARD_PAUSE_MS:
            return False
        self._heard.put(server, now)
        self._failing.put(server, replace(retry, retry_at_ms=now))
        return True

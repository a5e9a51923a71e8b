"""One destination of the outbox in memory: how far it has come, and how it fails.

Holds values and turns them into what is stored and back; the outbox changes them.
"""

from __future__ import annotations

from enum import Enum

from comity.federation.transactions import MAX_PDUS, Batch
from comity.protocol import pacing
from comity.protocol.pacing import Retry
from comity.store.queues import Destination

#: A destination that fails but talks to us is tried at once. If that fails, this long must pass
#: until its talking counts again, and twice as long each time, up to the longest.
SPOKE_PAUSE_MS = 10_000
MAX_SPOKE_PAUSE_MS = 3_600_000


class State(Enum):
    """What a line does: nothing, wait for a place, send, wait for its time."""

    IDLE = "idle"
    READY = "ready"
    SENDING = "sending"
    WAITING = "waiting"


class Line:
    """One destination that has, or had, something to do."""

    __slots__ = (
        "batch",
        "delivered",
        "failure",
        "is_fresh",
        "limit",
        "loaded",
        "looked",
        "read_upto",
        "retry",
        "sending_upto",
        "server",
        "spoke_at",
        "spoke_pause",
        "state",
        "timer_at",
        "woken",
    )

    def __init__(self, server: str) -> None:
        self.server = server
        self.state = State.IDLE
        self.loaded = False
        #: Nothing was sent since it was loaded: what comes first may have been under way before.
        self.is_fresh = False
        #: Something new is owed since what is owed was last looked at.
        self.woken = False
        #: Everything up to here is delivered, and up to there nothing (more) is owed.
        self.delivered = 0
        self.looked = 0
        #: How far what is owed was on disk when it was last read.
        self.read_upto = 0
        self.retry: Retry | None = None
        #: What the last failure was: in words, and its kind.
        self.failure: tuple[str, str] | None = None
        #: What must be sent as it is until it is taken; from before a restart, its last position.
        self.batch: Batch | None = None
        self.sending_upto: int | None = None
        #: PDUs in a transaction; fewer when the server finds them too large.
        self.limit = MAX_PDUS
        #: The entry of the timer that counts (ms), when its talking last led to a try, and how
        #: long it must then be.
        self.timer_at = 0
        self.spoke_at = 0
        self.spoke_pause = SPOKE_PAUSE_MS

    @property
    def has_everything(self) -> bool:
        """Whether what was owed at the last reading is delivered, and nothing new has been since.

        Then another reading would find nothing; who is owed something later is woken.
        """
        return not self.woken and self.looked >= self.read_upto

    def may_try_because_it_spoke(self, now: int) -> bool:
        """Whether its talking counts now (ms since the epoch); if so, that is noted."""
        if 0 <= now - self.spoke_at < self.spoke_pause:
            return False
        if self.spoke_at:
            self.spoke_pause = min(self.spoke_pause * 2, MAX_SPOKE_PAUSE_MS)
        self.spoke_at = now
        return True

    def succeeded(self, upto: int) -> None:
        """The transaction arrived: everything up to a position is delivered."""
        self.batch = self.retry = self.failure = None
        self.spoke_at, self.spoke_pause = 0, SPOKE_PAUSE_MS
        self.delivered = self.looked = max(self.looked, upto)

    def load(self, stored: Destination) -> None:
        """Take up what is stored."""
        self.loaded = self.is_fresh = True
        self.delivered = self.looked = stored.delivered
        self.sending_upto = stored.sending_upto
        self.retry = stored_retry(stored)
        if stored.failure is not None:
            self.failure = (stored.failure, stored.failure_kind or "")

    def to_store(self) -> Destination:
        """What is to be stored."""
        retry, batch = self.retry, self.batch
        return Destination(
            self.server,
            self.delivered,
            None if retry is None else retry.failing_since_ms,
            None if retry is None else retry.retry_at_ms,
            None if retry is None else retry.interval_ms,
            batch.last_position if batch is not None else self.sending_upto,
            *(self.failure or (None, None)),
        )


def stored_retry(stored: Destination) -> Retry | None:
    """The schedule of a destination that failed when it was stored."""
    if stored.failing_since is None or stored.retry_at is None:
        return None
    return Retry(stored.failing_since, stored.retry_at, stored.interval_ms or pacing.MIN_RETRY_MS)

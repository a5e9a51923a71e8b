"""What one /sync asks, as every part of its answer needs it."""

from __future__ import annotations

from dataclasses import dataclass, field

from comity.protocol.filters import NO_FILTER, Filter
from comity.rooms.read.tokens import SyncToken
from comity.store.events import StoredEvent


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """A client's wish (client-server, GET /sync). `timeout` is in seconds."""

    user_id: str
    device_id: str
    since: SyncToken | None = None
    wanted: Filter = NO_FILTER
    timeout: float = 0.0
    full_state: bool = False
    use_state_after: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """One look at the log for a request: what happened at `after < position <= now`.

    `after` is 0 for a client that knows nothing yet.
    """

    request: SyncRequest
    now: int
    typing_serial: int
    ignored: frozenset[str] = frozenset()
    #: Whether they want no invites (client-server §Invite permission).
    blocks_invites: bool = False

    @property
    def user_id(self) -> str:
        """Who asks."""
        return self.request.user_id

    @property
    def wanted(self) -> Filter:
        """The filter."""
        return self.request.wanted

    @property
    def is_initial(self) -> bool:
        """Whether the client knows nothing yet."""
        return self.request.since is None

    @property
    def after(self) -> int:
        """The position up to which the client knows everything."""
        return 0 if self.request.since is None else min(self.request.since.position, self.now)


@dataclass(frozen=True, slots=True)
class Stretch:
    """One room's timeline as a client gets it, oldest first.

    `before` is the line below it, for `prev_batch`; `hidden` tells that there were events that
    the user may not see.
    """

    events: list[StoredEvent] = field(default_factory=list)
    limited: bool = False
    before: int = 0
    hidden: bool = False

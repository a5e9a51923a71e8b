"""What one /sync asks, as every part of its answer needs it."""

from __future__ import annotations

from dataclasses import dataclass, field

from comity.protocol.filters import NO_FILTER, Filter
from comity.rooms.read.tokens import SyncToken
from comity.store.events import StoredEvent


@dataclass(slots=True)
class SyncRequest:
    """A client's wish (client-server, GET /sync). `timeout` is in seconds.

    Never changed; but what is made for every request is not frozen, which takes three times as long.
    """

    user_id: str
    device_id: str
    since: SyncToken | None = None
    wanted: Filter = NO_FILTER
    timeout: float = 0.0
    full_state: bool = False
    use_state_after: bool = False


@dataclass(slots=True, init=False)
class Asked:
    """One look at the log for a request: what happened at `after < position <= now`. Never changed."""

    request: SyncRequest
    now: int
    typing_serial: int
    ignored: frozenset[str]
    #: Whether they want no invites (client-server §Invite permission).
    blocks_invites: bool
    #: Who asks, and with which filter.
    user_id: str = field(init=False)
    wanted: Filter = field(init=False)
    #: Whether the client knows nothing yet, and the position up to which it knows everything: 0 if so.
    is_initial: bool = field(init=False)
    after: int = field(init=False)

    def __init__(
        self,
        request: SyncRequest,
        now: int,
        typing_serial: int,
        ignored: frozenset[str] = frozenset(),
        blocks_invites: bool = False,
    ) -> None:
        # By hand: one is made for every answer, and a __post_init__ costs as much again.
        self.request = request
        self.now = now
        self.typing_serial = typing_serial
        self.ignored = ignored
        self.blocks_invites = blocks_invites
        self.user_id, self.wanted = request.user_id, request.wanted
        since = request.since
        self.is_initial = since is None
        self.after = 0 if since is None else since.position if since.position < now else now


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

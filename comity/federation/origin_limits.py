"""How much work other servers may make for us: per server, and per address what is not signed validly.

Pressure goes back to whoever presses: a request that would be too much is answered with 429 and
the time after which it fits (client-server §Rate limiting), before anything of it is acknowledged.
A server is charged only for what it has surely sent, so nobody can spend another's budget; what
turns out to be forged is charged to the address that it came from. Nothing here verifies anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from comity.ports import Clock
from comity.protocol.errors import MatrixError
from comity.protocol.pacing import Bucket, Rate, take
from comity.store.cache import Bounded

#: Buckets kept of servers, and of addresses; about 200 bytes each. A forgotten bucket is a full one.
MAX_ORIGINS = 50_000
MAX_ADDRESSES = 50_000
#: Requests of one server that are worked on at once: as many as a busy peer has connections for.
MAX_CONCURRENT = 32
#: Requests of one server that may wait for that.
MAX_WAITING = 64
#: Seconds that a request waits for its turn. Less than the time after which a peer gives up asking.
MAX_WAIT_SECONDS = 20.0
#: Seconds that a transaction may be held back instead of being refused: it will come again anyway,
#: and meanwhile its sender sends no other (server-server §Transactions: one at a time).
MAX_HOLD_SECONDS = 10.0
#: Requests from one address whose signatures did not hold: each may have made us look for keys.
FORGED = Rate(per_second=1, burst=100)
#: What one PDU of a transaction costs beside the request. 50 of them are 2.5 requests more.
PDU_COST = 0.05
#: What a request costs that costs more than an ordinary one: by the name of the endpoint, the
#: segment behind `/_matrix/federation/v1`. Whole states are the dearest things we give.
COSTS: Mapping[str, float] = {
    "state": 20,
    "send_join": 20,
    "state_ids": 10,
    "event_auth": 5,
    "backfill": 5,
    "get_missing_events": 5,
    "make_join": 3,
    "make_knock": 3,
    "hierarchy": 5,
    "timestamp_to_event": 3,
    "publicRooms": 3,
}


def cost_of(path: str, content: object) -> float:
    """What a request costs, in ordinary requests; `content` is its JSON body, if it has one."""
    segments = path.split("/", 5)
    name = segments[4] if len(segments) > 4 else ""
    if name == "send":
        pdus = content.get("pdus") if isinstance(content, dict) else None
        return 1 + PDU_COST * (len(pdus) if isinstance(pdus, list) else 0)
    return COSTS.get(name, 1)


def _too_much(wait_ms: int, detail: str) -> MatrixError:
    return MatrixError(
        429,
        "M_LIMIT_EXCEEDED",
        "Your server asks for more than this server can give it at once: wait a little and try again",
        extra={"retry_after_ms": wait_ms},
        detail=detail,
    )


class _Turns:
    """The requests of one server that are worked on, and how many more wait."""

    __slots__ = ("places", "users")

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(MAX_CONCURRENT)
        self.users = 0


class OriginLimits:
    """Every other server's budget in this process."""

    def __init__(self, clock: Clock, *, per_second: int, burst: int, enabled: bool = True) -> None:
        """`per_second` ordinary requests of one server in the long run, `burst` at once."""
        self._clock = clock
        self._rate = Rate(per_second, burst)
        self._enabled = enabled
        self._origins: Bounded[str, Bucket] = Bounded(MAX_ORIGINS)
        self._forged: Bounded[str, Bucket] = Bounded(MAX_ADDRESSES)
        #: (server, address) of valid requests: many servers may share an address (a proxy's).
        self._proven: Bounded[tuple[str, str], bool] = Bounded(MAX_ORIGINS)
        self._turns: dict[str, _Turns] = {}

    def _now_ms(self) -> int:
        # The monotonic clock: a wall clock that jumps would lock servers out.
        return int(self._clock.monotonic() * 1000)

    # -- before the signature is verified

    def check_address(self, address: str, claimed: str) -> None:
        """Whether a request that claims to be of a server is to be looked at at all.

        An address that forges is not listened to for a while, but for servers that have proven
        themselves from there: behind a proxy all come from one address. Raises 429.
        """
        if not self._enabled or self._proven.get((claimed, address)):
            return
        _, wait_ms = take(FORGED, self._forged.get(address), self._now_ms())
        if wait_ms:
            raise _too_much(wait_ms, f"unproven requests from {address}")

    def note_forged(self, address: str) -> None:
        """A request from that address was not signed validly."""
        if self._enabled:
            bucket, _ = take(FORGED, self._forged.get(address), self._now_ms())
            self._forged.put(address, bucket)

    # -- after it

    async def admit(self, origin: str, address: str, path: str, content: object) -> Callable[[], None]:
        """Let a request of `origin`, who surely made it, have its turn. Raises 429.

        What is returned is to be called once the request is answered.
        """
        if not self._enabled:
            return _nothing
        self._proven.put((origin, address), True)
        turns = await self._wait_for_turn(origin)
        try:
            held = MAX_HOLD_SECONDS if "/send/" in path else 0.0
            await self._pay(origin, cost_of(path, content), held)
        except BaseException:
            self._end(origin, turns)
            raise
        return lambda: self._end(origin, turns)

    async def _wait_for_turn(self, origin: str) -> _Turns:
        turns = self._turns.get(origin)
        if turns is None:
            turns = self._turns[origin] = _Turns()
        if turns.users >= MAX_CONCURRENT + MAX_WAITING:
            raise _too_much(1000, f"{turns.users} requests of {origin} are under way")
        turns.users += 1
        try:
            async with asyncio.timeout(MAX_WAIT_SECONDS):
                await turns.places.acquire()
        except BaseException as error:
            self._leave(origin, turns)
            if isinstance(error, TimeoutError):
                raise _too_much(1000, f"requests of {origin} take long") from None
            raise
        return turns

    def _end(self, origin: str, turns: _Turns) -> None:
        turns.places.release()
        self._leave(origin, turns)

    def _leave(self, origin: str, turns: _Turns) -> None:
        turns.users -= 1
        if turns.users == 0:
            self._turns.pop(origin, None)

    async def _pay(self, origin: str, cost: float, held_seconds: float) -> None:
        """Take the cost from the server's budget, waiting for it at most so long. Raises 429."""
        while True:
            bucket, wait_ms = take(self._rate, self._origins.get(origin), self._now_ms(), cost)
            self._origins.put(origin, bucket)
            if not wait_ms:
                return
            if wait_ms > held_seconds * 1000:
                raise _too_much(wait_ms, f"requests of {origin}")
            held_seconds -= wait_ms / 1000
            await self._clock.sleep(wait_ms / 1000)


def _nothing() -> None:
    pass

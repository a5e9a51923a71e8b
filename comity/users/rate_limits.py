"""Rate limits: how often one person may do what costs much or annoys others.

A token bucket for each limit and whom it counts (client-server §Rate limiting); the
arithmetic is `comity.protocol.pacing`. Nothing here knows what it holds back.
"""

from __future__ import annotations

from dataclasses import dataclass

from comity.ports import Clock
from comity.protocol.errors import MatrixError
from comity.protocol.pacing import Bucket, Rate, take
from comity.store.cache import Bounded

#: Buckets kept, over all limits, about 200 bytes each. A forgotten bucket is a full one: to empty
#: the memory, an attacker would need this many addresses or accounts.
MAX_BUCKETS = 100_000


@dataclass(frozen=True, slots=True)
class Limit:
    """One thing that is limited, and how."""

    name: str
    rate: Rate


#: Log-in attempts from one address: a family behind one address starts its apps at once.
LOGIN_BY_ADDRESS = Limit("login by address", Rate(per_second=0.2, burst=20))
#: Log-in attempts at one account, from anywhere: too few to guess a password.
LOGIN_BY_ACCOUNT = Limit("login by account", Rate(per_second=0.1, burst=10))
#: Accounts made, and asked for, from one address.
REGISTRATION = Limit("registration", Rate(per_second=0.1, burst=10))
#: Questions whether a user name or a registration token is good, from one address.
REGISTRATION_QUESTIONS = Limit("registration questions", Rate(per_second=1, burst=20))
#: Nonces for the operators' tools from one address: a script that makes many users is not held up.
NONCES = Limit("nonces", Rate(per_second=20, burst=200))
#: Passwords and other proofs asked for again, by one user.
PROOFS = Limit("proofs", Rate(per_second=0.1, burst=10))
#: Events that one user sends: faster than anybody types, slower than a flood.
MESSAGES = Limit("messages", Rate(per_second=10, burst=50))
#: Joins, knocks and invites of one user: each may cost work on many servers.
JOINS = Limit("joins", Rate(per_second=0.5, burst=20))
#: Changes of one user's profile: each is an event in every room that they are in.
PROFILE_CHANGES = Limit("profile changes", Rate(per_second=0.2, burst=10))
#: What is done with one delayed event, by whoever knows its id: clients restart each every few seconds.
DELAYED_ACTIONS = Limit("delayed event actions", Rate(per_second=2, burst=20))
#: Searches of one user: each may be a tenth of a second of work.
SEARCHES = Limit("searches", Rate(per_second=2, burst=20))
#: Searches for people of one user: apps search while somebody types.
PEOPLE_SEARCHES = Limit("searches for people", Rate(per_second=3, burst=50))
#: Questions of one user for the rooms shared with others: an app asks for each person that it shows.
MUTUAL_ROOMS = Limit("mutual rooms", Rate(per_second=2, burst=50))
#: Reports of one user: each is for a person to read.
REPORTS = Limit("reports", Rate(per_second=0.1, burst=20))


class RateLimits:
    """Every bucket of this process."""

    def __init__(self, clock: Clock, *, enabled: bool) -> None:
        self._clock = clock
        self._enabled = enabled
        self._buckets: Bounded[tuple[str, str], Bucket] = Bounded(MAX_BUCKETS)

    def check(self, limit: Limit, whom: str, *, cost: float = 1.0) -> None:
        """Count one doing of `whom` (a user id, an address). Raises 429 M_LIMIT_EXCEEDED."""
        if not self._enabled:
            return
        key = (limit.name, whom)
        # The monotonic clock: a wall clock that jumps would lock people out.
        now_ms = int(self._clock.monotonic() * 1000)
        bucket, wait_ms = take(limit.rate, self._buckets.get(key), now_ms, cost)
        self._buckets.put(key, bucket)
        if wait_ms:
            raise MatrixError(
                429,
                "M_LIMIT_EXCEEDED",
                "Too many requests: wait a little and try again",
                extra={"retry_after_ms": wait_ms},
                detail=f"{limit.name} of {whom}",
            )

"""Rate limits: how often one person may do what costs much or annoys others.

A token bucket for each limit and whom it counts (client-server §Rate limiting); the
arithmetic is `comity.protocol.pacing`. Beside the buckets, pauses that grow with every failed
attempt at a secret. Nothing here knows what it holds back.
"""

from __future__ import annotations

from dataclasses import dataclass

from comity.config import RateLimits as RateLimitsConfig
from comity.ports import Clock
from comity.protocol.errors import MatrixError
from comity.protocol.pacing import Bucket, Rate, take
from comity.store.cache import Bounded

#: Buckets kept, over all limits, about 200 bytes each. A forgotten bucket is a full one: to empty
#: the memory, an attacker would need this many addresses or accounts.
MAX_BUCKETS = 100_000
#: Accounts and addresses of which failed attempts are remembered, about 200 bytes each.
MAX_FAILURES = 100_000
#: Wrong passwords before there is a pause: people mistype, and many may share an address.
FREE_FAILURES_AT_ACCOUNT, FREE_FAILURES_OF_ADDRESS = 5, 25
#: The first pause; each further failure doubles it, up to the longest.
FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 2_000, 15 * 60_000
#: Without a failure for so long, all is forgotten.
FAILURES_FORGOTTEN_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class _Failures:
    """Failures in a row, the last one, and until when there is a pause (monotonic ms)."""

    count: int
    last_ms: int
    again_at_ms: int


#: The limits, by their names in the configuration, which says what each is and how high.
LOGIN_BY_ADDRESS = "login_by_address"
LOGIN_BY_ACCOUNT = "login_by_account"
REFRESHES = "refreshes"
UPSTREAM = "upstream"
LOGIN_TOKENS = "login_tokens"
PROOFS = "proofs"
OAUTH_CLIENTS = "oauth_clients"
DEVICE_CODES = "device_codes"
REGISTRATION = "registration"
REGISTRATION_QUESTIONS = "registration_questions"
EMAILS_ASKED_FOR = "emails_asked_for"
EMAILS_TO_ONE = "emails_to_one"
IDENTITY_SERVERS = "identity_servers"
NONCES = "nonces"
MESSAGES = "messages"
JOINS = "joins"
PROFILE_CHANGES = "profile_changes"
DELAYED_ACTIONS = "delayed_actions"
SEARCHES = "searches"
PEOPLE_SEARCHES = "people_searches"
MUTUAL_ROOMS = "mutual_rooms"
REPORTS = "reports"
KEYS = "keys"
TO_DEVICE = "to_device"
KEY_BACKUP = "key_backup"
ACCOUNT = "account"
ACCOUNT_DATA = "account_data"
EPHEMERAL = "ephemeral"
READING = "reading"
VISITORS = "visitors"


class RateLimits:
    """Every bucket of this process, and what is known of failed attempts."""

    def __init__(self, clock: Clock, config: RateLimitsConfig) -> None:
        self._clock = clock
        self._config = config
        self._buckets: Bounded[tuple[str, str], Bucket] = Bounded(MAX_BUCKETS)
        self._failures: Bounded[tuple[str, str], _Failures] = Bounded(MAX_FAILURES)

    def check(self, limit: str, whom: str, *, cost: float = 1.0) -> None:
        """Count one doing of `whom` (a user id, an address). Raises 429 M_LIMIT_EXCEEDED."""
        if not self._config.enabled:
            return
        key = (limit, whom)
        rate: Rate = getattr(self._config, limit)
        # The monotonic clock: a wall clock that jumps would lock people out.
        bucket, wait_ms = take(rate, self._buckets.get(key), self._now_ms(), cost)
        self._buckets.put(key, bucket)
        if wait_ms:
            raise _limit_exceeded(wait_ms, f"{limit} of {whom}")

    # -- guessing

    def check_attempt(self, *whose: tuple[str, str]) -> None:
        """Whether somebody may guess again: not while an earlier failure's pause lasts.

        `whose` are (account or "", address) under which failures are counted. Raises 429.
        """
        if not self._config.enabled:
            return
        now = self._now_ms()
        for key in whose:
            failures = self._failures.get(key)
            if failures is not None and failures.again_at_ms > now:
                raise _limit_exceeded(failures.again_at_ms - now, f"failed attempts at {key}")

    def note_attempt(self, *whose: tuple[str, str], failed: bool) -> None:
        """An attempt is over. Each further failure doubles the pause; success forgets them."""
        now = self._now_ms()
        for key in whose:
            before = self._failures.get(key)
            if not failed:
                # An address is not cleared by one good account: an attacker may have one of their own.
                if before is not None and key[0]:
                    self._failures.drop(key)
                continue
            if before is None or now - before.last_ms > FAILURES_FORGOTTEN_MS:
                before = _Failures(0, now, now)
            count = before.count + 1
            beyond = count - (FREE_FAILURES_AT_ACCOUNT if key[0] else FREE_FAILURES_OF_ADDRESS)
            pause = 0 if beyond < 0 else min(FIRST_PAUSE_MS << min(beyond, 20), LONGEST_PAUSE_MS)
            self._failures.put(key, _Failures(count, now, now + pause))

    def _now_ms(self) -> int:
        return int(self._clock.monotonic() * 1000)


def _limit_exceeded(wait_ms: int, detail: str) -> MatrixError:
    return MatrixError(
        429,
        "M_LIMIT_EXCEEDED",
        "Too many requests: wait a little and try again",
        extra={"retry_after_ms": wait_ms},
        detail=detail,
    )

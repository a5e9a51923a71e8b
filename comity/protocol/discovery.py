"""Server discovery: from a server name to where to connect (server-server §Resolving server names).

A `Discovery` says what to look up next and is fed the answers; it looks nothing up itself and
knows no time. How long to remember the result comes with the result; remembering is the caller's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from itertools import groupby
from typing import NamedTuple

from comity.protocol import canonical_json, identifiers

#: Where a server listens if nothing says otherwise.
DEFAULT_PORT = 8448
#: A well-known document is one short property; a larger answer is not one.
MAX_WELL_KNOWN_BYTES = 51_200
#: As many places of an SRV answer are kept. An answer over TCP could hold thousands.
MAX_TARGETS = 32
#: The weight that a record of weight 0 counts with beside others: RFC 2782 wants "a very small chance".
ALMOST_NO_WEIGHT = 0.01

HOUR_MS = 3_600_000
#: How long a result is good for when no header says (recommended: 24 hours).
DEFAULT_CACHE_MS = 24 * HOUR_MS
#: And at most (recommended: 48 hours).
MAX_CACHE_MS = 48 * HOUR_MS
#: And at least: `max-age=0` must not cost a look-up before every request.
MIN_CACHE_MS = 300_000
#: Errors: the first is remembered this long, each one more in a row twice as long, up to an hour.
FIRST_ERROR_CACHE_MS = 300_000
MAX_ERROR_CACHE_MS = HOUR_MS

# An underscore is in no host name by the rules, but in some SRV targets by custom.
_LABEL = re.compile(r"[0-9A-Za-z_-]{1,63}", re.ASCII)
_MAX_DNS_NAME = 253
_MAX_AGE = re.compile(r"max-age\s*=\s*\"?([0-9]{1,18})\"?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Target:
    """One place to connect to.

    `host` is a DNS name or a bare IP literal (no brackets); `tls_name` is what the certificate
    must be valid for (likewise bare); `host_header` is the value of `Host`. `priority` and `weight`
    are the SRV record's (RFC 2782); `draw` makes an order of them.
    """

    host: str
    port: int
    tls_name: str
    host_header: str
    priority: int = 0
    weight: int = 0


@dataclass(frozen=True, slots=True)
class LookUpWellKnown:
    """GET `url`, following redirects, at most MAX_WELL_KNOWN_BYTES; answer with WellKnownAnswer."""

    host: str

    @property
    def url(self) -> str:
        """The address of the document."""
        return f"https://{self.host}/.well-known/matrix/server"


@dataclass(frozen=True, slots=True)
class LookUpSrv:
    """Ask for the SRV records of `name`; answer with SrvAnswer."""

    name: str


@dataclass(frozen=True, slots=True)
class Found:
    """Where to connect (`draw` says in which order), and for how long to remember it.

    `errors` is how many discoveries in a row, this one included, met an error on the way:
    hand it to the next Discovery of the same server as `errors_before`.
    """

    targets: tuple[Target, ...]
    cache_ms: int
    errors: int = 0


@dataclass(frozen=True, slots=True)
class Unreachable:
    """There is nowhere to connect to, why, and for how long to believe it."""

    reason: str
    cache_ms: int
    errors: int = 0


@dataclass(frozen=True, slots=True)
class WellKnownAnswer:
    """The HTTP answer: `status` is None if there was none. Header names are lower case.

    `received_ms` (since the epoch) serves an `Expires` without a `Date` beside it.
    """

    status: int | None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    received_ms: int | None = None


class SrvPlace(NamedTuple):
    """One SRV record: where, and how it is ranked (RFC 2782)."""

    host: str
    port: int
    priority: int = 0
    weight: int = 0


@dataclass(frozen=True, slots=True)
class SrvAnswer:
    """Every record; none if there is no record.

    `failed` says that the name servers gave no answer, which is not the same.
    """

    records: tuple[SrvPlace, ...] = ()
    failed: bool = False


Step = LookUpWellKnown | LookUpSrv | Found | Unreachable
Answer = WellKnownAnswer | SrvAnswer


class Discovery:
    """The discovery of one server: `next()` until it is Found or Unreachable, `feed` in between."""

    __slots__ = ("_cache_ms", "_errors_before", "_host", "_host_header", "_step", "server_name")

    def __init__(self, server_name: str, *, errors_before: int = 0) -> None:
        """`errors_before` is `errors` of the last result for this server (0 if there is none)."""
        self.server_name = server_name
        self._errors_before = errors_before
        #: How long the result may be kept; None once something on the way has failed.
        self._cache_ms: int | None = MAX_CACHE_MS
        self._host = ""
        self._host_header = ""
        self._step = self._start()

    def next(self) -> Step:
        """What to do now. Stays the same until it is answered."""
        return self._step

    def feed(self, answer: Answer) -> None:
        """Give the answer to the question that `next` asked. Raises ValueError for any other."""
        if isinstance(self._step, LookUpWellKnown) and isinstance(answer, WellKnownAnswer):
            self._step = self._after_well_known(answer)
        elif isinstance(self._step, LookUpSrv) and isinstance(answer, SrvAnswer):
            self._step = self._after_srv(self._step, answer)
        else:
            raise ValueError(f"{type(answer).__name__} does not answer {type(self._step).__name__}")

    def _start(self) -> Step:
        if not identifiers.is_server_name(self.server_name):
            return self._unreachable("It is not a server name")
        step = self._explicit(self.server_name)  # steps 1 and 2
        if step is not None:
            return step
        self._host = self._host_header = self.server_name
        return LookUpWellKnown(_bare(self.server_name))  # step 3

    def _explicit(self, name: str) -> Step | None:
        """Where `name` says itself where to connect: an IP literal or a port (1, 2, 3.1, 3.2).

        Also ends the discovery of a name that no name server can know.
        """
        host, port = identifiers.parse_server_name(name)
        literal = identifiers.ip_literal(host)
        if literal is not None:
            return self._found((Target(literal, port or DEFAULT_PORT, literal, name),))
        if not _is_dns_name(host):
            return self._unreachable(f"{host} is not a name that DNS can hold")
        if port is not None:
            return self._found((Target(_bare(host), port, _bare(host), name),))
        return None

    def _after_well_known(self, answer: WellKnownAnswer) -> Step:
        delegated = _delegated_name(answer)
        if delegated is None:  # steps 4 to 6, for the server name itself
            self._cache_ms = None
        else:
            self._cache_ms = _lifetime_ms(answer)
            step = self._explicit(delegated)
            if step is not None:
                return step
            self._host = self._host_header = delegated
        return LookUpSrv(f"_matrix-fed._tcp.{_bare(self._host)}")  # 3.3, 4

    def _after_srv(self, question: LookUpSrv, answer: SrvAnswer) -> Step:
        host = _bare(self._host)
        if answer.records and not answer.failed:
            targets = tuple(
                Target(_bare(place.host), place.port, host, self._host_header, place.priority, place.weight)
                for place in answer.records
                if 0 < place.port < 65536 and _is_dns_name(place.host)
            )
            if targets:
                return self._found(targets[:MAX_TARGETS])
            # RFC 2782: the target "." says that the service is decidedly not offered.
            return self._unreachable(f"The SRV records of {question.name} name no usable host")
        if answer.failed:
            # No answer is not "no record", but the certificate is checked for the same name
            # wherever we go: going on can only help. Do not believe the result for long.
            self._cache_ms = None
        if question.name.startswith("_matrix-fed."):
            return LookUpSrv(f"_matrix._tcp.{host}")  # 3.4, 5 (deprecated)
        return self._found((Target(host, DEFAULT_PORT, host, self._host_header),))  # 3.5, 6

    def _found(self, targets: tuple[Target, ...]) -> Found:
        if self._cache_ms is None:
            return Found(targets, error_cache_ms(self._errors_before), self._errors_before + 1)
        return Found(targets, self._cache_ms)

    def _unreachable(self, reason: str) -> Unreachable:
        return Unreachable(reason, error_cache_ms(self._errors_before), self._errors_before + 1)


def draw(targets: Sequence[Target], chance: Callable[[], float]) -> list[Target]:
    """An order to try the targets in: by priority, and within one priority by weighted chance (RFC 2782).

    `chance` gives numbers in [0, 1). Drawn anew for each request, the load is shared as the weights say.
    """
    drawn: list[Target] = []
    for _, group in groupby(sorted(targets, key=_priority), key=_priority):
        waiting = list(group)
        while len(waiting) > 1:
            drawn.append(waiting.pop(_chosen(waiting, chance())))
        drawn += waiting
    return drawn


def _priority(target: Target) -> int:
    return target.priority


def _chosen(waiting: Sequence[Target], chance: float) -> int:
    """The index of the target that `chance` falls on."""
    if not any(target.weight for target in waiting):
        return int(chance * len(waiting))  # the RFC leaves the order open: share the load
    shares = [target.weight or ALMOST_NO_WEIGHT for target in waiting]
    left = chance * sum(shares)
    for index, share in enumerate(shares):
        left -= share
        if left < 0:
            return index
    return len(waiting) - 1  # rounding


def error_cache_ms(errors_before: int) -> int:
    """How long to believe an error that follows `errors_before` others in a row."""
    return min(FIRST_ERROR_CACHE_MS << min(max(errors_before, 0), 16), MAX_ERROR_CACHE_MS)


def _bare(host: str) -> str:
    """A DNS name without the dot that ends a fully qualified one (certificates have none)."""
    return host.removesuffix(".")


def _is_dns_name(host: str) -> bool:
    """Whether a resolver can be asked for `host` at all: labels of 1 to 63 characters."""
    bare = _bare(host)
    return len(bare) <= _MAX_DNS_NAME and all(_LABEL.fullmatch(label) for label in bare.split("."))


def _delegated_name(answer: WellKnownAnswer) -> str | None:
    """`m.server` of a valid well-known document, else None."""
    if answer.status != 200 or len(answer.body) > MAX_WELL_KNOWN_BYTES:
        return None
    try:
        document = canonical_json.parse_object(answer.body)
    except canonical_json.CanonicalJsonError:
        return None
    name = document.get("m.server")
    return name if isinstance(name, str) and identifiers.is_server_name(name) else None


def _lifetime_ms(answer: WellKnownAnswer) -> int:
    """How long a valid document may be kept, by its headers (RFC 9111 §4.2.1) and our bounds."""
    headers = answer.headers
    control = headers.get("cache-control", "")
    max_age = _MAX_AGE.search(control)
    directives = {part.strip().partition("=")[0].strip().lower() for part in control.split(",")}
    if directives & {"no-store", "no-cache"}:
        lifetime = 0
    elif max_age is not None:
        lifetime = int(max_age[1]) * 1000 - _age_ms(headers)
    elif "expires" in headers:
        since = _date_ms(headers.get("date", ""))
        since = answer.received_ms if since is None else since
        expires = _date_ms(headers["expires"])
        if expires is None:  # RFC 9111 §5.3: an Expires that is no date, like "0", is in the past
            lifetime = 0
        else:
            lifetime = DEFAULT_CACHE_MS if since is None else expires - since - _age_ms(headers)
    else:
        lifetime = DEFAULT_CACHE_MS
    return max(MIN_CACHE_MS, min(lifetime, MAX_CACHE_MS))


def _age_ms(headers: Mapping[str, str]) -> int:
    age = headers.get("age", "").strip()
    return int(age) * 1000 if age.isascii() and age.isdecimal() and len(age) <= 12 else 0


def _date_ms(text: str) -> int | None:
    """An HTTP date as milliseconds since the epoch."""
    try:
        date = parsedate_to_datetime(text)
        return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None

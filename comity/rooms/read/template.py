"""Events written once for many readers: all but their ages and the reader's membership is finished.

What `format` writes for one reader at one time is cut open at the two places that differ for the next:
`unsigned.age`, which runs on, and `unsigned.membership` (client-server §Room event format, UnsignedData).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from comity.rooms.read.format import ClientFormat, Reading, membership_part
from comity.store.database import Tx
from comity.store.events import StoredEvent

_BETWEEN = b',"unsigned":{"age":'
#: What stands of each event in a template: its body, what is between, the age, the membership, the rest.
_PLACES = 5


@dataclass(frozen=True, slots=True)
class Template:
    """A list of events. `times` are when they were sent (ms), `lines` where those stand that tell the
    reader's membership (None: those that do not); `size` is in bytes.
    """

    pieces: tuple[bytes, ...]
    times: tuple[int, ...]
    lines: tuple[int | None, ...]
    joined: tuple[bytes, ...]
    size: int

    def fill(self, now_ms: int, membership: Callable[[int], str] | None = None) -> bytes:
        """The list as it is at a time; `membership` tells the reader's at a line, None: joined at all."""
        pieces = list(self.pieces)
        pieces[3::_PLACES] = [b"%d" % (now_ms - time) for time in self.times]
        pieces[4::_PLACES] = (
            self.joined
            if membership is None
            else [b"" if line is None else membership_part(membership(line)) for line in self.lines]
        )
        return b"".join(pieces)


def template(
    tx: Tx, form: ClientFormat, listed: Sequence[StoredEvent], reading: Callable[[StoredEvent], Reading]
) -> Template:
    """The template of a list of events, each read as `reading` says."""
    pieces, lines, joined = [b"["], list[int | None](), []
    for stored in listed:
        how = reading(stored)
        body, rest = form.halves(tx, stored, how)
        if len(pieces) > 1:
            pieces[-1] += b","
        pieces += [body, _BETWEEN, b"", b"", b"%b}}" % rest]
        is_told = how.in_context and stored.state_after is not None
        lines.append(stored.line if is_told else None)
        joined.append(membership_part("join") if is_told else b"")
    pieces[-1] += b"]"
    times = tuple(stored.event.origin_server_ts for stored in listed)
    return Template(tuple(pieces), times, tuple(lines), tuple(joined), sum(map(len, pieces)))

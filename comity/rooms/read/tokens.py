"""Tokens: places in the one log of everything that happened here, as clients carry them.

`s<position>_<typing serial>` is a place in the whole log (/sync), with `_<position>` behind it
while a device has not been given all its messages, and `p<presence serial>` if it was told of
presence; `t<line>` is a place between two events of a room's timeline: just above that line;
`<connection>/<serial>/<position>` is one of sliding sync. Lines and positions share one order (DESIGN §3),
so any of them may be given where a place in a timeline is asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from comity.protocol.errors import invalid_param
from comity.store.events import LINE_BITS, live_line

# Bounded in digits: a line, and the line of a position, must fit into the 64 bits that SQLite takes.
_SYNC = re.compile(r"s([0-9]{1,11})_([0-9]{1,18})(?:_([0-9]{1,11}))?(?:p([0-9]{1,18}))?", re.ASCII)
_SLIDING = re.compile(r"[0-9]{1,18}/[0-9]{1,18}/([0-9]{1,11})", re.ASCII)
_LINE = re.compile(r"t([0-9]{1,18})", re.ASCII)


@dataclass(slots=True)
class SyncToken:
    """A place in the log, and how much of who is typing was told (typing is not in the log).

    Never changed, but made for every request: to freeze it takes three times as long as to make it.
    """

    position: int
    typing: int = 0
    #: Up to where messages from other devices were given, if not up to `position`.
    device_position: int | None = None
    #: How much of who is present was told; 0: nothing. It is not in the log either.
    presence: int = 0

    @property
    def messages(self) -> int:
        """The position up to which the device has its messages."""
        return self.position if self.device_position is None else self.device_position

    def is_beyond(self, position: int) -> bool:
        """Whether a log that ends at `position` did not give this token."""
        return self.position > position or self.messages > position

    @classmethod
    def parse(cls, text: str) -> SyncToken:
        """A `since` or `next_batch`. Raises 400 M_INVALID_PARAM."""
        match = _SYNC.fullmatch(text)
        if match is None:
            raise invalid_param("The token is not one that /sync gave")
        device_position = None if match[3] is None else int(match[3])
        return cls(int(match[1]), int(match[2]), device_position, int(match[4] or 0))

    def __str__(self) -> str:
        rest = "" if self.device_position is None else f"_{self.device_position}"
        present = f"p{self.presence}" if self.presence else ""
        return f"s{self.position}_{self.typing}{rest}{present}"


def line_token(line: int) -> str:
    """The token of the place just above `line`."""
    return f"t{line}"


def sliding_token(connection: int, serial: int, position: int) -> str:
    """The token of an answer of sliding sync, which told what happened up to `position`."""
    return f"{connection}/{serial}/{position}"


def parse_line(text: str) -> int:
    """The line below the place that a token of any kind names. Raises 400 M_INVALID_PARAM."""
    match = _LINE.fullmatch(text)
    if match is not None:
        return int(match[1])
    match = _SYNC.fullmatch(text) or _SLIDING.fullmatch(text)
    if match is None:
        raise invalid_param("The token is not one that this server gave")
    return live_line(int(match[1]))


def position_below(line: int) -> int:
    """The last position whose live event is at or below `line`."""
    return line >> LINE_BITS

"""What a target is: a name, a check of one input, and how its inputs are written.

A check gives foreign bytes to a parser of comity. It swallows the exceptions that the parser
documents and nothing else, and raises Broken where a property does not hold; so whatever leaves
it is a finding. It returns a short label of the way that the input went, by which the plain
engine knows an input that is worth keeping.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: Seeds, by target: what every run begins with and `make test` replays.
CORPUS = Path(__file__).resolve().parent / "corpus"

Check = Callable[[bytes], str]


class Broken(AssertionError):
    """A property that must hold of every input does not."""


def require(condition: object, text: str) -> None:
    """Raise Broken with that sentence unless the condition holds."""
    if not condition:
        raise Broken(text)


@dataclass(frozen=True, slots=True)
class Target:
    """One parser, or a few that belong together.

    An input is raw bytes, or (`json`) a JSON text, behind a head and `separator` if there is one.
    """

    name: str
    check: Check
    json: bool = False
    separator: bytes = b""
    #: Heads that the check understands.
    heads: tuple[bytes, ...] = ()
    #: Words that mean something to the parser.
    words: tuple[str, ...] = ()
    max_bytes: int = 16_384
    #: Seconds of the processor that one input may take; more is a finding.
    seconds: float = 1.0
    #: Its part of the time, compared with others: more for what is wide, less for what is soon seen through.
    weight: float = 1.0

    def seeds(self) -> list[bytes]:
        """The seed inputs, in the order of their names."""
        folder = CORPUS / self.name
        return [path.read_bytes() for path in sorted(folder.glob("*.input"))]

    def split(self, data: bytes) -> tuple[bytes, bytes]:
        """An input as head and body; the head is empty where the target has none."""
        if not self.separator:
            return b"", data
        head, found, body = data.partition(self.separator)
        return (head, body) if found else (b"", data)

    def join(self, head: bytes, body: bytes) -> bytes:
        """The input of that head and body."""
        return head + self.separator + body if self.separator else body

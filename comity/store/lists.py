"""Long lists of values in statements: cut into parts, of few lengths.

Engines keep a statement prepared by its text; a list of three and one of four are two texts. So a
part is filled up to the next power of two with its last value again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, TypeVar

T = TypeVar("T")
#: Values in one statement.
MAX_LIST = 512


def parts(values: Iterable[T], mark: str = "?") -> Iterator[tuple[str, list[T]]]:
    """(marks for a statement, the values for them), until every value has been given.

    Some may be given twice: for IN (…) and for sets.
    """
    ordered = list(values)
    for start in range(0, len(ordered), MAX_LIST):
        part = ordered[start : start + MAX_LIST]
        length = 1 << (len(part) - 1).bit_length()
        part.extend(part[-1:] * (length - len(part)))
        yield ",".join([mark] * length), part


def row_parts(rows: Iterable[tuple[Any, ...]], width: int) -> Iterator[tuple[str, list[Any]]]:
    """The same for rows of `width` values each: the marks are for VALUES."""
    for marks, part in parts(rows, f"({','.join('?' * width)})"):
        yield marks, list(chain.from_iterable(part))

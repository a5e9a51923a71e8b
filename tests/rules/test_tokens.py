"""Tokens of places in the log and in timelines, as a stranger may write them."""

from __future__ import annotations

import pytest

from comity.protocol.errors import MatrixError
from comity.rooms.read.tokens import SyncToken, line_token, parse_line, position_below

#: The largest number that SQLite takes.
MOST = 2**63 - 1


@pytest.mark.parametrize(
    "text", ["s0_0", "s12_3", "s12_3_4", "s" + "9" * 11 + "_" + "9" * 18 + "_" + "9" * 11]
)
def test_a_sync_token_is_read_as_it_is_written(text: str) -> None:
    assert str(SyncToken.parse(text)) == text


@pytest.mark.parametrize("text", ["t" + "9" * 18, "s" + "9" * 11 + "_" + "9" * 18])
def test_the_farthest_place_is_one_that_the_store_can_be_asked_for(text: str) -> None:
    line = parse_line(text)
    assert 0 <= line < MOST  # one more than the line is asked for, too
    assert parse_line(line_token(min(line, 10**18 - 1))) == min(line, 10**18 - 1)
    assert position_below(line) <= MOST


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "s1",
        "t",
        "t-1",
        "s1_2_",
        "s1__2",
        "s1_2\n",
        "s١_٢",
        "t" + "9" * 19,
        "s" + "9" * 12 + "_1",
        "x1",
    ],
)
def test_what_is_no_token_is_refused(text: str) -> None:
    for parse in (SyncToken.parse, parse_line):
        with pytest.raises(MatrixError) as refused:
            parse(text)
        assert refused.value.status == 400

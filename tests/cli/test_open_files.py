"""How many files the server's process may open."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from comity.cli import serving


@pytest.fixture
def hard() -> Iterator[int]:
    """The limit that only the system raises; the other one is low, and as it was afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_low_limit_is_raised_as_far_as_the_system_allows(hard: int) -> None:
    serving.allow_open_files()
    expected = serving.MAX_OPEN_FILES if hard < 0 else min(serving.MAX_OPEN_FILES, hard)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (expected, hard)


def test_a_higher_limit_stays(hard: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MAX_OPEN_FILES", 256)
    serving.allow_open_files()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (512, hard)

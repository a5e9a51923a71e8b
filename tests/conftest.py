"""What holds for every test: in continuous integration nothing that should have run is passed over."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

#: Set by .ci/run: the programs that the interop suite speaks with are there, so a skip is a fault.
EVERYTHING_RUNS = os.environ.get("COMITY_CI") == "1"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if EVERYTHING_RUNS and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"{Path(item.path).name}: skipped in continuous integration: {reason}"
    return report

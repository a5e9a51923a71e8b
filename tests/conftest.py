"""What holds for every test: in continuous integration nothing that should have run is passed over."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from tests import engines, recording

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


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        os.environ[engines.RUN_FOLDER] = tempfile.mkdtemp(prefix="comity-run-")
    if recording.VARIABLE in os.environ:
        recording.begin()


def pytest_sessionfinish() -> None:
    # No later: once a worker has told that it finished, it may be ended.
    if recording.VARIABLE in os.environ:
        recording.end(Path(os.environ[recording.VARIABLE]))


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        folder = Path(os.environ.pop(engines.RUN_FOLDER))
        engines.stop_shared_server(folder)
        shutil.rmtree(folder, ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test that is about one engine is not run on the other."""
    unwanted = []
    for item in items:
        callspec = getattr(item, "callspec", None)
        engine = None if callspec is None else callspec.params.get("engine")
        marker = item.get_closest_marker("engine")
        if engine is not None and marker is not None and marker.args[0] != engine:
            unwanted.append(item)
    if unwanted:
        config.hook.pytest_deselected(items=unwanted)
        items[:] = [item for item in items if item not in unwanted]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many tests ran on which engine."""
    counts: dict[str, dict[str, int]] = {}
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(outcome, ()):
            engine = engine_of(getattr(report, "nodeid", ""))
            if engine is not None and getattr(report, "when", "call") in ("call", "setup"):
                of_engine = counts.setdefault(engine, {})
                of_engine[outcome] = of_engine.get(outcome, 0) + 1
    for engine in engines.ENGINES:
        if engine in counts:
            told = ", ".join(f"{count:,} {outcome}" for outcome, count in counts[engine].items())
            terminalreporter.write_line(f"with a database, on {engine}: {told}")
    if counts.get(engines.POSTGRESQL, {}).get("skipped"):
        terminalreporter.write_line(engines.HOW_TO_HAVE_IT)


def engine_of(nodeid: str) -> str | None:
    """The engine in a test's name, if it has a database."""
    parameters = nodeid.partition("[")[2].rstrip("]").split("-")
    return next((engine for engine in engines.ENGINES if engine in parameters), None)

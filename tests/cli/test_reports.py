"""`comity reports`: what users have reported is shown, and closed, beside a running server or without."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from comity.cli import main
from comity.config import load
from comity.store import reports
from comity.store.database import Tx
from comity.store.migrations import migrate
from comity.store.sqlite import SqliteDriver

AT = 1_700_000_000_000
WHEN = "2023-11-14 22:13:20 UTC"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration of a server with three reports, the second one closed."""
    file = tmp_path / "comity.toml"
    file.write_text('server_name = "example.org"\n')
    (tmp_path / "data").mkdir()
    driver = SqliteDriver(load(file).database_file)
    try:
        migrate(driver)
        driver.write_now(_fill)
    finally:
        driver.close_now()
    return file


def _fill(tx: Tx) -> None:
    alice, mallory = "@alice:example.org", "@mallory:elsewhere.example"
    reports.add(tx, alice, "He said\n\n\x1b[2Jit again", AT, room_id="!r", event_id="$e", user_id=mallory)
    reports.add(tx, alice, "", AT, room_id="!bad\x1b[0m:x")
    reports.add(tx, alice, "spam", AT, user_id=mallory)
    reports.close(tx, 2, AT + 60_000)


def run(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["reports", *arguments, "--config", str(config)])


def test_open_reports_are_listed_with_nothing_that_a_terminal_obeys(config: Path) -> None:
    result = run(config, "list")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        f"1  {WHEN}  @alice:example.org reported the event $e of @mallory:elsewhere.example in !r",
        "    He said",
        "    \\x1b[2Jit again",
        f"3  {WHEN}  @alice:example.org reported the user @mallory:elsewhere.example",
        "    spam",
    ]


def test_all_of_them(config: Path) -> None:
    lines = run(config, "list", "--all").output.splitlines()
    closed = "closed 2023-11-14 22:14:20 UTC"
    assert f"2  {WHEN}, {closed}  @alice:example.org reported the room !bad\\x1b[0m:x" in lines


def test_the_newest_alone(config: Path) -> None:
    output = run(config, "list", "--limit", "1").output
    assert output.startswith("1 older ones are not shown; --limit shows more.\n\n3  ")
    assert "$e" not in output


def test_closing(config: Path) -> None:
    result = run(config, "close", "1", "3", "3")
    assert (result.exit_code, result.output) == (0, "2 closed.\n")
    assert run(config, "list").output == ""
    assert len(re.findall(r"(?m), closed 20\d\d-", run(config, "list", "--all").output)) == 3


@pytest.mark.parametrize("number", ["2", "9"])
def test_closing_what_is_not_open_closes_nothing(config: Path, number: str) -> None:
    result = run(config, "close", "1", number)
    assert result.exit_code == 1
    assert f"There is no open report {number}" in result.stderr
    assert "$e" in run(config, "list").output

"""`comity reports`: what users have reported, for the operator to look into."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click

from comity.cli.administering import use_database
from comity.cli.options import config_option
from comity.cli.telling import moment, plain
from comity.config import Config
from comity.net.system import SystemClock, ThreadOffload
from comity.store.database import Database
from comity.store.reports import Report
from comity.users.reports import Reports

T = TypeVar("T")
#: Reports that are shown if it is not said how many.
SHOWN = 50
#: Reports that are shown at most: what is read is held in memory.
MAX_SHOWN = 10_000


@click.group("reports")
def command() -> None:
    """See what users have reported, and close what is done with. The server may be running."""


@command.command("list")
@click.option("--all", "closed", is_flag=True, help="Closed ones too.")
@click.option("--limit", type=click.IntRange(1, MAX_SHOWN), default=SHOWN, show_default=True,
              help="How many, of the newest.")  # fmt: skip
@config_option
def list_all(closed: bool, limit: int, path: Path | None) -> None:
    """The newest open reports, oldest first, each with the reporter's words."""

    async def work(reports: Reports) -> tuple[list[Report], int]:
        return await reports.newest(limit, closed=closed)

    found, count = _with_reports(path, work)
    if count > len(found):
        click.echo(f"{count - len(found)} older ones are not shown; --limit shows more.\n")
    for report in found:
        click.echo(_told(report))


@command.command("close")
@click.argument("numbers", metavar="NUMBER...", type=click.IntRange(1, 2**63 - 1), nargs=-1, required=True)
@config_option
def close(numbers: tuple[int, ...], path: Path | None) -> None:
    """Close reports that have been looked into. If one is not there, none is closed."""
    chosen = list(dict.fromkeys(numbers))

    async def work(reports: Reports) -> None:
        await reports.close(chosen)

    _with_reports(path, work)
    click.echo(f"{len(chosen)} closed.")


def _with_reports(path: Path | None, work: Callable[[Reports], Awaitable[T]]) -> T:
    async def with_database(config: Config, database: Database, offload: ThreadOffload) -> T:
        return await work(Reports(database, SystemClock()))

    return use_database(path, with_database)


def _told(report: Report) -> str:
    end = f", closed {moment(report.closed_at)}" if report.closed_at else ""
    if report.event_id:
        what = f"the event {report.event_id} of {report.user_id} in {report.room_id}"
    elif report.room_id:
        what = f"the room {report.room_id}"
    else:
        what = f"the user {report.user_id}"
    head = plain(f"{report.report_id}  {moment(report.at)}{end}  {report.reporter} reported {what}")
    words = [f"    {plain(line)}" for line in report.reason.splitlines() if line.strip()]
    return "\n".join([head, *words])

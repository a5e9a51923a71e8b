"""`comity trace`: what became of an event, on its way out or on its way in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import orjson

from comity.cli.administering import use_database
from comity.cli.options import config_option, exit_with
from comity.cli.telling import moment, plain, span
from comity.config import Config
from comity.net.system import SystemClock, ThreadOffload
from comity.protocol import identifiers
from comity.rooms.merge import Merger
from comity.rooms.room import Numbers, Rooms, know_all_rooms
from comity.rooms.trace import Delivery, Standing, Trace, Tracer, count
from comity.store.database import Database, Tx
from comity.store.events import Events
from comity.store.state import States

_NOT_HELD = (
    "{target} is not held here, and does not wait either. Either it never came, or it was dropped because "
    "its format or its signatures were not right; the log has told that."
)
#: Servers that are listed without --all; those with trouble come first.
TOLD_SERVERS = 20
#: The sign and the colour of each standing.
_SIGNS: dict[Standing, tuple[str, str | None]] = {
    "refused": ("✗", "red"),
    "dropped": ("✗", "red"),
    "backing off": ("✗", "red"),
    "failing": ("!", "yellow"),
    "queued": ("…", "yellow"),
    "sending": ("…", "yellow"),
    "delivered": ("✓", "green"),
}
_VERDICT_COLORS = {"accepted": "green", "soft-failed": "yellow", "rejected": "red"}
#: Columns of what is before the words of a line.
_LABEL = 12
_SERVER = 32


@click.command("trace")
@click.argument("event_id", metavar="EVENT_ID")
@click.option("--all", "tell_all", is_flag=True, help="List every server, however many there are.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@config_option
def command(event_id: str, tell_all: bool, as_json: bool, path: Path | None) -> None:
    """Tell the way of an event. For one of this server: when it was written, and for each server that
    is owed it whether it has it, has refused it, or why it cannot be given. For one of another
    server: when it came, from whom, and what was made of it, or what it waits for. Put quotes
    around the id, for the shell's sake. The server may be running.
    """
    if not identifiers.is_event_id(event_id):
        exit_with(
            [f"{plain(event_id[:255])} is not an event id: those begin with $, in quotes for the shell"], 1
        )
    now = SystemClock().now_ms()

    async def work(config: Config, database: Database, _: ThreadOffload) -> Trace | None:
        return database.read_now(lambda tx: _find(tx, database, config.server_name, event_id, now))

    trace = use_database(path, work)
    if trace is None:
        exit_with([_NOT_HELD.format(target=plain(event_id))], code=1)
    if as_json:
        click.echo(orjson.dumps(trace, option=orjson.OPT_INDENT_2))
        return
    click.echo("\n".join(_told(trace, now, tell_all=tell_all)))


def _find(tx: Tx, database: Database, server_name: str, event_id: str, now: int) -> Trace | None:
    events, states = Events(), States()
    know_all_rooms(tx, events)
    # Nothing is decided here, so no number is given out.
    rooms = Rooms(database, states, events, Numbers(0, 0))
    return Tracer(rooms, Merger(states, events), server_name, now).trace(tx, event_id)


def _told(trace: Trace, now: int, *, tell_all: bool) -> Iterator[str]:
    yield click.style(plain(trace.event_id), bold=True)
    yield ""
    yield _line("what", f"{trace.type} by {trace.sender}")
    yield _line("room", trace.room_id)
    yield from _way(trace, now)
    yield from _judgement(trace)
    if trace.deliveries is not None:
        yield ""
        yield from _deliveries(trace, trace.deliveries, now, tell_all=tell_all)


def _way(trace: Trace, now: int) -> Iterator[str]:
    at = "at a time that is forgotten" if trace.at is None else moment(trace.at)
    place = f", position {trace.position}" if trace.position else ", no position of its own in the log"
    if trace.ours:
        yield _line("written", f"{at}{place}" if trace.position else f"{moment(trace.said)}{place}")
        return
    yield _line("sent", f"{moment(trace.said)}, as it says itself")
    if trace.waits_for is not None:
        yield _line("came", f"{at}, from {trace.brought_by}")
        return
    late = ""
    if trace.at is not None and trace.at - trace.said >= 1000:
        late = f", {span(trace.at - trace.said)} later"
    came = "as history, or for authorization" if not trace.position else at
    whence = f", from {trace.brought_by}" if trace.brought_by is not None else ""
    yield _line("came", f"{came}{late}{place}{whence}")


def _judgement(trace: Trace) -> Iterator[str]:
    if trace.waits_for is not None:
        yield _line("now", "", click.style("waiting", fg="yellow", bold=True) + " for what it stands on")
        for wanted in trace.waits_for:
            yield _line("", f"{wanted.event_id} " + ("(waits too)" if wanted.waits_too else "(not here)"))
        if trace.missing > len(trace.waits_for):
            yield _line("", f"and {trace.missing - len(trace.waits_for)} more")
        if not trace.missing:
            yield _line("", "all of which is here: it is about to be judged")
        return
    verdict = trace.verdict
    if verdict is None or (trace.ours and verdict.verdict == "accepted"):
        return
    color = _VERDICT_COLORS.get(verdict.verdict)
    yield _line("now", "", click.style(verdict.verdict, fg=color, bold=True))
    for check in verdict.checks:
        if check.passed is False:
            yield _line("because", check.reason + (f" [{check.rule}]" if check.rule else ""))
            yield _line("", f"({check.question[:1].lower()}{check.question[1:].rstrip('?')}? no)")
    for note in verdict.notes:
        yield _line("note", note)
    if any(check.passed is False for check in verdict.checks):
        yield _line("", "`comity explain` tells each rule and the events it looked at.")


def _deliveries(trace: Trace, found: tuple[Delivery, ...], now: int, *, tell_all: bool) -> Iterator[str]:
    if not found:
        yield "No server is sent it from here: none is in the room, or it went through one that let us in."
        return
    counts = ", ".join(f"{number} {standing}" for standing, number in count(found).items())
    yield click.style(f"{len(found)} server{'' if len(found) == 1 else 's'}: {counts}", bold=True)
    yield ""
    order = list(_SIGNS)
    worst_first = sorted(found, key=lambda item: (order.index(item.standing), item.server))
    told = worst_first if tell_all else worst_first[:TOLD_SERVERS]
    for item in told:
        sign, color = _SIGNS[item.standing]
        yield f"  {click.style(sign, fg=color, bold=True)} {plain(item.server):<{_SERVER}} {_standing(item)}"
        for line in _trouble(item, now):
            yield f"    {'':<{_SERVER}} {plain(line)}"
    if len(told) < len(found):
        yield f"    … and {len(found) - len(told)} more: --all lists them."


def _standing(item: Delivery) -> str:
    text: str = item.standing
    if item.standing == "sending":
        text = "being sent"
    elif item.kind:
        text += f": {item.kind}"
    return text


def _trouble(item: Delivery, now: int) -> Iterator[str]:
    if item.text:
        yield item.text
    if item.at is not None:
        yield f"on {moment(item.at)}"
    if item.since is not None:
        yield f"since {moment(item.since)}"
    if item.retry_at is not None:
        yield f"tried again at {moment(item.retry_at)}, in {span(item.retry_at - now)}"
    elif item.standing == "failing":
        yield "to be tried again now"
    elif item.standing == "dropped":
        yield "not sent any more: it fetches what it missed when it is back"


def _line(label: str, text: str, styled: str = "") -> str:
    return f"  {label:<{_LABEL}}{styled}{plain(text)}".rstrip()

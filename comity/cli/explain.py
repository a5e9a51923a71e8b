"""`comity explain`: why an event is what it is, and what state resolution took back in a room."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import orjson

from comity.cli.administering import use_database
from comity.cli.options import config_option, exit_with
from comity.cli.telling import moment, plain
from comity.config import Config
from comity.net.system import ThreadOffload
from comity.rooms.explain import Check, Explainer, Verdict, Waiting
from comity.rooms.explain_state import Candidate, Contest, Reverted, Standing, StateExplainer, Told
from comity.rooms.merge import Merger
from comity.rooms.room import Numbers, Rooms, know_all_rooms
from comity.store.database import Database, Tx
from comity.store.events import Events
from comity.store.state import States

_NOT_HELD = (
    "{target} is not held here. Either it never came, or it was dropped because its format or its "
    "signatures were not right; the log has told that."
)


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What is known of an event; either it waits or it was judged."""

    waiting: Waiting | None
    verdict: Verdict | None
    standing: Standing | None


@click.command("explain")
@click.argument("target", metavar="EVENT_ID|ROOM_ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
@config_option
def command(target: str, as_json: bool, path: Path | None) -> None:
    """Tell why an event was accepted, soft-failed or rejected, with every rule that spoke; for a
    state event, also which step of state resolution chose it, or what it lost to. For a room id,
    tell what state resolution has taken back there. Put quotes around the id, for the shell's
    sake. The server may be running.
    """

    async def work(_: Config, database: Database, __: ThreadOffload) -> Answer | list[Reverted] | None:
        return database.read_now(lambda tx: _find(tx, database, target))

    answer = use_database(path, work)
    if answer is None:
        exit_with([_NOT_HELD.format(target=target)], code=1)
    if as_json:
        click.echo(orjson.dumps(answer, option=orjson.OPT_INDENT_2))
        return
    click.echo("\n".join(_answer(answer) if isinstance(answer, Answer) else _reversions(answer)))


def _find(tx: Tx, database: Database, target: str) -> Answer | list[Reverted] | None:
    events, states = Events(), States()
    know_all_rooms(tx, events)
    # Nothing is decided here, so no number is given out.
    rooms, merger = Rooms(database, states, events, Numbers(0, 0)), Merger(states, events)
    states_told = StateExplainer(rooms, merger)
    if target.startswith("!"):
        room = rooms.peek(tx, target)
        return None if room is None else states_told.reversions(tx, room)
    explainer = Explainer(rooms, merger)
    verdict, waiting = explainer.verdict(tx, target), explainer.waiting(tx, target)
    if verdict is None and waiting is None:
        return None
    return Answer(waiting, verdict, states_told.standing(tx, target))


def _answer(answer: Answer) -> Iterator[str]:
    if answer.waiting is not None:
        waiting = answer.waiting
        yield plain(
            f"{waiting.event_id} came from {waiting.origin} at {moment(waiting.received_at)} for "
            f"{waiting.room_id}, and waits for events that it stands on."
        )
    if answer.verdict is not None:
        yield from _verdict(answer.verdict)
    if answer.standing is not None:
        yield from _standing(answer.standing)


def _verdict(verdict: Verdict) -> Iterator[str]:
    yield _line(verdict.event)
    at = f"position {verdict.position}" if verdict.position else "no position of its own in the log"
    yield f"in {plain(verdict.room_id)}, room version {verdict.room_version}; {at}"
    color = {"accepted": "green", "rejected": "red", "soft-failed": "yellow"}.get(verdict.verdict)
    yield "verdict: " + click.style(verdict.verdict, fg=color, bold=True)
    yield ""
    for check in verdict.checks:
        yield from _check(check)
    if verdict.auth_events:
        yield "It cites as its auth events:"
        yield from _lines(verdict.auth_events)
    for note in verdict.notes:
        yield plain(f"Note: {note}")


def _check(check: Check) -> Iterator[str]:
    mark, color = {None: ("?  ", "yellow"), True: ("yes", "green"), False: ("no ", "red")}[check.passed]
    yield f"{click.style(mark, fg=color, bold=True)}  {check.question}  [{check.section}]"
    yield f"     {check.reason}" + (f" [{check.rule}]" if check.rule else "")
    if check.stood_on:
        yield "     judged by:"
        yield from _lines(check.stood_on)


def _standing(standing: Standing) -> Iterator[str]:
    yield ""
    if standing.is_current:
        yield "It stands in the room's current state."
    elif standing.current is None:
        yield "Nothing stands at its place in the room's current state."
    else:
        yield "It does not stand in the room's current state; this does:"
        yield from _lines([standing.current])
    if not standing.contests:
        yield "No state resolution had to decide about its place since it came."
    elif standing.count > len(standing.contests):
        yield f"{standing.count} state resolutions decided about its place; the newest:"
    for contest in standing.contests:
        yield from _contest(contest)
    if standing.reversions:
        yield ""
        yield "State resolution has taken back what stood at its place:"
        yield from _reversions(standing.reversions)


def _contest(contest: Contest) -> Iterator[str]:
    yield ""
    when = f"at position {contest.position}" if contest.position else "in history"
    yield f"State resolution {when} merged {contest.states} states, which had at its place:"
    for entry in contest.entries:
        yield "       nothing" if entry is None else f"       {_line(entry)}"
    step = None
    for candidate in contest.candidates:
        if candidate.step != step:
            step = candidate.step
            yield f"  {step}"
        yield from _candidate(candidate)
    yield "  came to: " + ("nothing" if contest.chosen is None else _line(contest.chosen))


def _candidate(candidate: Candidate) -> Iterator[str]:
    mark = click.style("took  ", fg="green") if candidate.taken else click.style("denied", fg="red")
    yield f"    {mark} {_line(candidate.event)} ({candidate.source})"
    yield f"           {candidate.reason}" + (f" [{candidate.rule}]" if candidate.rule else "")
    for event in candidate.stood_on:
        yield f"           judged by {_line(event)}"


def _reversions(reversions: Sequence[Reverted]) -> Iterator[str]:
    if not reversions:
        yield "State resolution has taken nothing back in this room."
    for item in reversions:
        yield plain(f"at position {item.position}: {item.key[0]} {item.key[1]!r}")
        yield "  was     " + ("nothing" if item.was is None else _line(item.was))
        yield "  became  " + ("nothing" if item.became is None else _line(item.became))
        yield plain(f"  because {item.cause}")


def _lines(events: Sequence[Told]) -> Iterator[str]:
    return (f"       {_line(event)}" for event in events)


def _line(event: Told) -> str:
    what = event.type
    if event.membership is not None:
        what += f" {event.membership} of {event.state_key}"
    elif event.state_key:
        what += f" {event.state_key!r}"
    rejected = ", rejected" if event.rejected else ""
    return plain(f"{event.event_id} {what} by {event.sender}, {moment(event.origin_server_ts)}{rejected}")

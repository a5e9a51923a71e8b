"""`python -m bench`: every measure on every server, in turns, as a table of ratios."""

from __future__ import annotations

import argparse
import asyncio
import os
import pstats
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import uvloop

from bench import load, machine
from bench.measures import Measure, Result, Subject, intake, sends, syncs
from tests.interop.authority import Authority, create_authority
from tests.interop.peer_service import serve_peer
from tests.interop.servers import make_server, missing
from tests.postgres_server import PostgresServer

#: Transactions a measure sends: enough for some seconds of work on each.
FIFTIES = {"comity": 100, "synapse": 10}
ONES = {"comity": 1500, "synapse": 150}
#: Lines of a profile that are worth reading.
PROFILE_LINES = 45


def measures(seconds: float) -> dict[str, Measure]:
    return {
        "sends/s, 1 at a time": sends(1, seconds),
        "sends/s, 32 at a time": sends(32, seconds),
        "remote events/s, 50 a transaction": intake(50, FIFTIES),
        "remote events/s, 1 a transaction": intake(1, ONES),
        "initial syncs/s": syncs(seconds, initial=True),
        "incremental syncs/s": syncs(seconds, initial=False),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--servers",
        default="comity,synapse",
        help="which, the first is compared with the others; with -postgresql behind its name on that engine",
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="how often each measure is taken (median counts)"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="how long a measure of sends lasts")
    parser.add_argument("--only", default="", help="only measures whose name contains this")
    parser.add_argument("--dir", type=Path, help="where the databases go (default: the temporary folder)")
    parser.add_argument(
        "--cpus", default="0", help='CPUs for the servers, e.g. "0" or "0,1"; "" leaves them free'
    )
    parser.add_argument("--profile", type=Path, help="run comity under cProfile and write its profile here")
    return parser.parse_args()


@asynccontextmanager
async def subject(
    name: str,
    postgres: PostgresServer | None,
    directory: Path,
    authority: Authority,
    http: aiohttp.ClientSession,
    options: argparse.Namespace,
) -> AsyncIterator[Subject]:
    """A running server of this make, on its own CPU, and a peer."""
    software, _, engine = name.partition("-")
    database = postgres.make_database(name.replace("-", "_")) if engine and postgres is not None else ""
    server = make_server(software, directory / name, authority, plain=True, database=database)
    if software == "comity" and options.profile:
        server.process.run_under("-m", "cProfile", "-o", str(options.profile.absolute()))
    await asyncio.to_thread(server.process.start)
    try:
        if options.cpus:
            machine.pin(server.process.pid, {int(cpu) for cpu in options.cpus.split(",")})
        async with serve_peer(authority) as peer:
            yield Subject(name, server, http, peer)
    finally:
        await asyncio.to_thread(server.process.stop)


async def compare(names: list[str], directory: Path, options: argparse.Namespace) -> None:
    authority = create_authority(directory / "authority")
    chosen = {name: measure for name, measure in measures(options.seconds).items() if options.only in name}
    results: dict[tuple[str, str], list[Result]] = {}
    async with AsyncExitStack() as stack:
        postgres = None
        if any("-" in name for name in names):
            # As it is installed, but for the memory that its own documentation advises.
            postgres = PostgresServer(settings={"shared_buffers": "512MB"})
            stack.callback(postgres.stop)
            postgres.start()
        connector = aiohttp.TCPConnector(ssl=authority.client_context())
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        subjects = [
            await stack.enter_async_context(subject(name, postgres, directory, authority, http, options))
            for name in names
        ]
        for number in range(options.rounds):
            for measure_name, measure in chosen.items():
                for one in subjects:
                    await machine.quiet([other.server.process.pid for other in subjects])
                    result = await measure(one)
                    results.setdefault((measure_name, one.name), []).append(result)
                    print(
                        f"round {number + 1}: {one.name:18} {measure_name:36} {result.rate:9.1f}",
                        file=sys.stderr, flush=True,
                    )  # fmt: skip
        memory = {s.name: machine.memory_mib(s.server.process.pid) for s in subjects}
    print(table(list(chosen), names, results))
    print("\nresident memory at the end: " + ", ".join(f"{n} {mib:.0f} MiB" for n, mib in memory.items()))


def table(chosen: list[str], names: list[str], results: dict[tuple[str, str], list[Result]]) -> str:
    """A table in Markdown: a line for each measure and server, ratios of rates to the first server's."""
    lines = [
        "| measure | server | per second | ratio | CPU ms each | median ms | 99 % ms | rounds |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for measure in chosen:
        first = load.median([r.rate for r in results[measure, names[0]]])
        for name in names:
            taken = results[measure, name]
            rate = load.median([r.rate for r in taken])
            ratio = "" if name == names[0] else f"{first / rate:.1f}x"
            cells = [
                measure, name, f"{rate:.1f}", ratio,
                f"{load.median([r.cpu_ms for r in taken]):.2f}",
                f"{load.median([r.median_ms for r in taken]):.1f}",
                f"{load.median([r.slow_ms for r in taken]):.1f}",
                " ".join(f"{r.rate:.0f}" for r in taken),
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    options = arguments()
    names = options.servers.split(",")
    for name in names:
        reason = missing(name.partition("-")[0])
        if reason is not None:
            print(reason, file=sys.stderr)
            return 1
    cores = os.sched_getaffinity(0)
    if options.cpus:
        rest = cores - {int(cpu) for cpu in options.cpus.split(",")}
        machine.pin(0, rest or cores)
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="bench-") as folder:
        print(f"{machine.describe(Path(folder))}\n")
        uvloop.run(compare(names, Path(folder), options))
    if options.profile and options.profile.exists():
        pstats.Stats(str(options.profile)).sort_stats("tottime").print_stats(PROFILE_LINES)
    return 0


if __name__ == "__main__":
    sys.exit(main())

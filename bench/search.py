"""`python -m bench.search`: what indexing costs for each event, and a search among 100,000.

One server in this process, asked without a socket: a room in which people say things in words that are as
unequally common as those of languages. The index is made after all was said, so that it is measured alone.
Times are CPU of this process: on PostgreSQL, without the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from itertools import accumulate
from pathlib import Path
from typing import Any

from tests import engines
from tests.api.support_rooms import Client, Place, place
from tests.engines import ENGINES, RUN_FOLDER, running_on, stop_shared_server

WORDS_IN_LANGUAGE = 20_000
#: Words of a message, at least and at most.
WORDS = (3, 17)
#: Messages on their way at the same time, which are committed together.
AT_ONCE = 200
RUNS = 20


def word(number: int) -> str:
    """A word of a language; the common ones are short."""
    letters = ""
    while True:
        number, letter = divmod(number, 20)
        letters += "etaoinshrdlucmfwypvb"[letter]
        if not number:
            return letters


async def talk(client: Client, room_id: str, count: int) -> None:
    """Say so much."""
    chance = random.Random(1)
    language = [word(number) for number in range(WORDS_IN_LANGUAGE)]
    weights = list(accumulate(1 / (number + 1) for number in range(WORDS_IN_LANGUAGE)))
    for start in range(0, count, AT_ONCE):
        texts = [
            " ".join(chance.choices(language, cum_weights=weights, k=chance.randint(*WORDS)))
            for _ in range(min(AT_ONCE, count - start))
        ]
        await asyncio.gather(*(client.say(room_id, text) for text in texts))


async def index(server: Place) -> float:
    """Have everything indexed; the seconds of CPU that it took in this process."""
    follower = server.app._rooms.search_index
    began = time.process_time()
    before = -1
    while follower._reached.newest != before:
        before = follower._reached.newest
        await follower.catch_up()
    return time.process_time() - began


async def search(client: Client, term: str, **asked: object) -> tuple[list[float], Any]:
    """(milliseconds of CPU of each search in this process, what the last one found)"""
    took: list[float] = []
    answer = None
    for _ in range(RUNS):
        body = {"search_categories": {"room_events": {"search_term": term, **asked}}}
        began = time.process_time()
        answer = await client.ask("POST", "/search", body)
        took.append((time.process_time() - began) * 1000)
    assert answer is not None
    return took, answer.ok()["search_categories"]["room_events"]


async def measure(folder: Path, engine: str, count: int, rooms: int) -> None:
    """All of it, told on standard output."""
    async with place(folder) as server:
        (alice,) = await server.clients("alice")
        listed = [await alice.create() for _ in range(rooms)]
        began = time.process_time()
        for room_id in listed:
            await talk(alice, room_id, count // rooms)
        said = time.process_time() - began
        indexed = await index(server)
        sizes = server.database.read_now(server.database.driver.table_sizes)
        rows, size = sizes["search_words"]
        print(f"{engine}: {count:,} messages in {rows / count:.1f} different words each, {rooms} room(s)")
        print(f"  said in {said:.1f} s; indexed in {indexed:.1f} s, {indexed / count * 1e6:.0f} us a message")
        print(f"  the index has {size / count:.0f} bytes a message, events {sizes['events'][1] / count:.0f}")
        common, rare = word(1), word(WORDS_IN_LANGUAGE - 7)
        for name, term in (
            ("a rare word", rare),
            ("a word of four in ten messages", common),
            ("two common words", f"{common} {word(2)}"),
            ("a common and a rare word", f"{common} {word(3_000)}"),
            ("a word that nobody said", "nobodysaidthis"),
        ):
            for order in ("recent", "rank"):
                took, found = await search(alice, term, order_by=order)
                print(
                    f"  {name}, {order}: {statistics.median(took):.1f} ms, at most {max(took):.1f} ms, "
                    f"{found['count']} counted"
                )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rooms", type=int, default=1)
    parser.add_argument("--engine", choices=ENGINES, default=engines.SQLITE)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ[RUN_FOLDER] = name
        try:
            with running_on(options.engine):
                asyncio.run(measure(folder, options.engine, options.events, options.rooms))
        finally:
            stop_shared_server(folder)


if __name__ == "__main__":
    main()

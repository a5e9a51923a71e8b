"""`python -m tests.model --histories 10000 --first 0 --processes 2`: any range of seeds, with progress."""

from __future__ import annotations

import argparse
import sys
import time
from multiprocessing import get_context

from tests.model.play import play_alone

#: Histories a process lives for: it holds on to some memory of each.
HISTORIES_OF_PROCESS = 200
PROGRESS_SECONDS = 10.0


def main() -> int:
    """The number of differences is told, and the first of each history with what happened."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--histories", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--brief", action="store_true", help="without the histories")
    options = parser.parse_args()
    began = told_at = time.monotonic()
    differences = 0
    seeds = range(options.first, options.first + options.histories)
    with get_context("spawn").Pool(options.processes, maxtasksperchild=HISTORIES_OF_PROCESS) as pool:
        for done, (seed, told, history) in enumerate(pool.imap(play_alone, seeds), 1):
            if told:
                differences += 1
                if not options.brief:
                    print("\n".join(history))
                print(f"seed {seed}: {told}", flush=True)
            if time.monotonic() - told_at > PROGRESS_SECONDS or done == len(seeds):
                told_at = time.monotonic()
                print(f"{done} histories, {differences} differences, {told_at - began:.0f} s", flush=True)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())

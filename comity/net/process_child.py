"""A process of `comity.net.processes`: does one job after the other, until its standard input ends.

A job and its outcome are pickles of our own making, each behind its length in 4 bytes.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys

#: Bytes of a job's length.
LENGTH = 4


def main() -> None:
    """Serve whoever started this process."""
    # The one who started us ends us: an interrupt of the terminal is theirs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jobs, outcomes = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what a job prints is no outcome
    while len(length := jobs.read(LENGTH)) == LENGTH:
        function, arguments = pickle.loads(jobs.read(int.from_bytes(length)))  # noqa: S301 - our own
        try:
            outcome: tuple[bool, object] = True, function(*arguments)
        except Exception as error:  # noqa: BLE001 - it is whoever asked for the job who is to know
            outcome = False, error
        data = pickle.dumps(outcome, pickle.HIGHEST_PROTOCOL)
        try:
            outcomes.write(len(data).to_bytes(LENGTH) + data)
            outcomes.flush()
        except BrokenPipeError:
            os._exit(0)  # whoever asked has ended


if __name__ == "__main__":
    main()

"""Client programs of another make, run as processes: bounded in time, their words kept.

Owns starting them and judging how they ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

CLIENTS = Path(__file__).parent / "clients"
#: A whole conversation takes a few seconds.
WITHIN = 120.0


async def run_program(command: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Run a client program to its end; the lines it printed. It must end with 0 within `WITHIN`."""
    process = await asyncio.create_subprocess_exec(
        *command, env=dict(environment), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(WITHIN):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        out, err = await process.communicate()
        told = f"{out.decode()}\n{err.decode()[-4000:]}"
        raise AssertionError(f"{command[1]} did not end within {WITHIN:g} s:\n{told}") from None
    told = f"{out.decode()}\n{err.decode()[-4000:]}"
    assert process.returncode == 0, f"{command[1]} ended with {process.returncode}:\n{told}"
    return out.decode().splitlines()

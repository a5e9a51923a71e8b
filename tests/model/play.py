"""One history from its seed: played, and what is wrong with it told."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import traceback
from pathlib import Path

from tests.model.followers import DifferenceError
from tests.model.steps import run
from tests.model.world import World

#: A folder in memory, where there is one: nothing here is about the disk.
MEMORY = Path("/dev/shm")


async def play(folder: Path, seed: int) -> tuple[str, list[str]]:
    """('' or the first difference, what happened)."""
    world = World(folder, seed)
    told = ""
    try:
        await run(world)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told with its history
        told = str(error) if isinstance(error, DifferenceError) else traceback.format_exc()
    finally:
        await world.close()
    return told, world.history


def play_alone(seed: int) -> tuple[int, str, list[str]]:
    """One history in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="comity-model-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        told, history = asyncio.run(play(folder / "a", seed))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return seed, told, history

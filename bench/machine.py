"""The machine of a run: which CPU does what, what a process has used, what to tell the reader."""

from __future__ import annotations

import asyncio
import os
import platform
from importlib import metadata
from pathlib import Path

#: A process is quiet when it uses less than this share of a CPU for so many seconds.
QUIET_SHARE, QUIET_SECONDS = 0.05, 0.5
QUIET_LOOKS = 20
TICKS = os.sysconf("SC_CLK_TCK")


def pin(pid: int, cpus: set[int]) -> None:
    """Keep every thread of a process (0: this one) on these CPUs."""
    for thread in Path(f"/proc/{pid or 'self'}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cpus)


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def quiet(pids: list[int]) -> None:
    """Return when none of these processes works any more, or after a while."""
    for _ in range(QUIET_LOOKS):
        before = [cpu_seconds(pid) for pid in pids]
        await asyncio.sleep(QUIET_SECONDS)
        if all(
            cpu_seconds(pid) - was < QUIET_SHARE * QUIET_SECONDS
            for pid, was in zip(pids, before, strict=True)
        ):
            return


def memory_mib(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def describe(directory: Path) -> str:
    """One line: processor, cores, Python, file system of the databases."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    resolved = directory.resolve()
    best = max((m for m in mounts if resolved.is_relative_to(m[1])), key=lambda m: len(m[1]))
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, databases on {best[2]}"


def installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "?"

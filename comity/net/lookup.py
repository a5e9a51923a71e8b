"""Addresses of names, from the system's resolver (so a hosts file counts).

`getaddrinfo` blocks, for half a minute when a name server is dead, and a homeserver asks
for thousands of names that no longer exist. Owns the threads that wait for it and their
bound. Never judges an address (`addresses` does, when it is connected to).
"""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Protocol

#: Threads waiting for the system's resolver at once.
MAX_LOOKUP_THREADS = 32

#: Lookups waiting for a thread; one more fails at once instead of after its time is up.
MAX_WAITING_LOOKUPS = 1000

#: Addresses of one family that are tried for a name; more would only be more attempts.
MAX_ADDRESSES_PER_FAMILY = 4


class Lookup(Protocol):
    """Names to addresses."""

    async def resolve(self, host: str, port: int) -> list[tuple[str, int]]:
        """The IP literals of a name, the preferred first, each with the port that it has there.

        Raises OSError.
        """


class SystemLookup:
    """`Lookup` by `getaddrinfo`, in threads that do not outlive the process.

    The threads are daemons and not an executor's: one that hangs in `getaddrinfo` must not
    hold up the end of the process.
    """

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(MAX_LOOKUP_THREADS)
        self._waiting = 0

    async def resolve(self, host: str, port: int) -> list[tuple[str, int]]:
        """The IP literals of `host`, in the system's order of preference. Raises OSError."""
        if self._waiting >= MAX_WAITING_LOOKUPS:
            raise OSError(f"{MAX_WAITING_LOOKUPS} other names wait for the system's resolver")
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()

        def finish(found: list[str] | OSError) -> None:
            self._places.release()
            if answer.done():
                return  # whoever asked has gone
            if isinstance(found, OSError):
                answer.set_exception(found)
            else:
                answer.set_result(found)

        def look_up() -> None:
            found = _addresses(host)
            try:
                loop.call_soon_threadsafe(finish, found)
            except RuntimeError:
                pass  # the loop ended while we waited

        threading.Thread(target=look_up, name="comity-lookup", daemon=True).start()
        return [(address, port) for address in await answer]


def _addresses(host: str) -> list[str] | OSError:
    try:
        found = socket.getaddrinfo(host, None, socket.AF_UNSPEC, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        return error
    except UnicodeError as error:  # an empty label or one over 63 characters
        return socket.gaierror(socket.EAI_NONAME, f"no valid host name: {error}")
    results: list[str] = []
    of_family = {socket.AF_INET: 0, socket.AF_INET6: 0}
    for family, _, _, _, address in found:
        if family not in of_family or of_family[family] == MAX_ADDRESSES_PER_FAMILY:
            continue
        of_family[family] += 1
        results.append(str(address[0]))
    return results or OSError(f"{host} has no address")

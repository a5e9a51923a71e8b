"""A way to PostgreSQL that a test can cut: in a thread of its own, for drivers wait for it at the start."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import threading
from collections.abc import Iterator


class Mode(enum.Enum):
    """What befalls the next that a client sends."""

    PASS = "pass"
    #: It arrives, and whatever the server answers is lost with the connection.
    SWALLOW_ANSWER = "swallow the answer"
    #: It is lost, with the connection.
    LOSE = "lose"
    #: Every connection is cut, and nobody gets through.
    CLOSED = "closed"


class Proxy:
    """Forwards connections from `port` to a server on loopback."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._mode = Mode.PASS
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))

    def set(self, mode: Mode) -> None:
        """From now on. CLOSED cuts who is connected."""
        asyncio.run_coroutine_threadsafe(self._set(mode), self._loop).result()

    async def _set(self, mode: Mode) -> None:
        self._mode = mode
        if mode is Mode.CLOSED:
            for writer in list(self._writers):
                writer.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()
        for writer in list(self._writers):
            writer.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode is Mode.CLOSED:
            writer.close()
            return
        there_reader, there = await asyncio.open_connection("127.0.0.1", self._server_port)
        self._writers |= {writer, there}
        answers = asyncio.ensure_future(self._forward(there_reader, writer))
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                mode = self._mode
                if mode is Mode.SWALLOW_ANSWER:
                    answers.cancel()
                    await asyncio.gather(answers, return_exceptions=True)
                    self._mode = Mode.PASS
                    there.write(data)
                    await there_reader.read(1 << 16)
                    break
                if mode is Mode.LOSE:
                    self._mode = Mode.PASS
                    break
                there.write(data)
        answers.cancel()
        for each in (writer, there):
            each.close()
            self._writers.discard(each)

    @staticmethod
    async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
            writer.close()

    @contextlib.contextmanager
    def running(self) -> Iterator[Proxy]:
        """Run it."""
        self._thread.start()
        self._ready.wait()
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()
            self._loop.close()

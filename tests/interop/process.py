"""One server process: start it, wait until it answers, stop it, kill it, start it again.

Owns the process and its log file. Everything here is synchronous, so that a server may
outlive any event loop; it ends only the process that it started, by its handle.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

#: A server that has not answered by then never will (a cold Synapse on a busy machine takes 15 s).
START_WITHIN = 90.0
#: After SIGTERM; then it is killed and the test fails.
STOP_WITHIN = 30.0
#: Ports are taken from below the range that the kernel hands to outgoing connections, so that
#: nobody slips into a server's port while it is down.
PORTS = range(20000, 30000)
#: Enough of a log to see a traceback and what came before it.
TAIL_BYTES = 8_000


#: A port stands in a server's name: given twice, the second would be taken for the first, with another key.
_given: set[int] = set()


def free_port() -> int:
    """A port on loopback that nobody listens on, out of reach of outgoing connections, never given before."""
    chooser = random.Random()
    for _ in range(200):
        port = chooser.choice(PORTS)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given.add(port)
            return port
    raise RuntimeError(f"no free port in {PORTS}")


class ServerProcess:
    """A command that serves `https://localhost:PORT`, its log beside its data."""

    def __init__(
        self,
        title: str,
        command: Sequence[str],
        *,
        port: int,
        log: Path,
        tls: ssl.SSLContext,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.title = title
        self.port = port
        self.log = log
        self._command = list(command)
        self._tls = tls
        self._environment = {**os.environ, **(environment or {})}
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.title} is not running"
        return self._process.pid

    def run_under(self, *arguments: str) -> None:
        """Put arguments between the interpreter and what it runs, such as a profiler's."""
        self._command[1:1] = arguments

    def start(self) -> None:
        """Start and return when `/_matrix/client/versions` answers."""
        assert self._process is None, f"{self.title} runs already"
        self.spawn()
        self.wait_ready()

    def spawn(self) -> None:
        """Start without waiting."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self._environment, cwd=self._cwd, start_new_session=True,
            )  # fmt: skip

    def wait_ready(self) -> None:
        process = self._process
        assert process is not None
        deadline = time.monotonic() + START_WITHIN
        while time.monotonic() < deadline:
            code = process.poll()
            if code is not None:
                self._process = None
                raise AssertionError(f"{self.title} ended with {code} while starting:\n{self.tail()}")
            if self._answers():
                return
            time.sleep(0.05)
        self.kill()
        raise AssertionError(f"{self.title} did not answer within {START_WITHIN:g} s:\n{self.tail()}")

    def _answers(self) -> bool:
        url = f"https://127.0.0.1:{self.port}/_matrix/client/versions"
        try:
            with urllib.request.urlopen(url, timeout=5, context=self._tls) as response:
                return bool(response.status == 200)
        except urllib.error.HTTPError as error:
            error.close()
            return False
        except OSError:
            return False

    def stop(self) -> None:
        """SIGTERM, and wait for a clean end."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{self.title} did not end on SIGTERM:\n{self.tail()}") from None
        # Synapse lets the signal end it; a process may also exit with 0 by itself.
        assert code in (0, -signal.SIGTERM), f"{self.title} ended with {code}:\n{self.tail()}"

    def kill(self) -> None:
        """SIGKILL: the process gets no chance to say goodbye."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def tail(self, since: int = 0) -> str:
        """The end of what was logged after byte `since`."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(since, size - TAIL_BYTES))
            return log.read().decode(errors="replace")

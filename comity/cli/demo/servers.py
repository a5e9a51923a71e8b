"""The two servers of the demonstration: each a `comity serve` of its own, configured by a file.

Owns folders, ports and processes; what is said between the servers is theirs.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from comity.cli.certificates import Certificate
from comity.cli.configuration_text import toml
from comity.cli.demo.transcript import StepFailed
from comity.ports import Clock, Endpoint, Entropy, Transport, TransportError

#: Ports are chosen from here: below what systems hand to outgoing connections, so that nobody
#: takes a server's port while it is stopped.
PORTS = range(20000, 30000)
#: Tries to find a free port; on a machine with thousands of them in use something else is wrong.
MAX_PORT_TRIES = 100
#: Seconds in which a server must answer, or be gone after SIGTERM, on a slow machine.
START_SECONDS = 60.0
STOP_SECONDS = 30.0
#: Seconds between two looks whether it answers.
LOOK_SECONDS = 0.05
#: Lines of a log that are shown when a step fails.
LOG_LINES = 15


class Server:
    """One homeserver: its folder, its ports, and its process while it runs."""

    def __init__(self, nickname: str, folder: Path, port: int, plain_port: int) -> None:
        """`port` speaks TLS to clients and servers; `plain_port` is for clients on this machine."""
        self.nickname = nickname
        self.name = f"localhost:{port}"
        self.port = port
        self.url = f"https://localhost:{port}"
        self.plain_url = f"http://localhost:{plain_port}"
        self.log = folder / "comity.log"
        self._plain_port = plain_port
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    def configure(self, authority_file: Path, certificate: Certificate, shared_secret: str) -> None:
        """Write the folder: configuration, certificate, private key."""
        self._folder.mkdir()
        (self._folder / "certificate.pem").write_bytes(certificate.certificate_pem)
        (self._folder / "private_key.pem").write_bytes(certificate.private_key_pem)
        (self._folder / "comity.toml").write_text(f"""\
server_name = {toml(self.name)}

[[listeners]]
bind = "127.0.0.1:{self.port}"
serves = ["client", "federation"]
tls = true

[[listeners]]
bind = "127.0.0.1:{self._plain_port}"
serves = ["client"]

[tls]
certificate = "certificate.pem"
private_key = "private_key.pem"

[registration]
shared_secret = {toml(shared_secret)}

[federation]
trusted_ca = [{toml(str(authority_file))}]
allow_ranges = ["127.0.0.0/8", "::1/128"]
trusted_key_servers = []

[public]
client_base_url = {toml(self.plain_url)}
""")

    async def start(self, transport: Transport, clock: Clock) -> None:
        """Start the process and return when it answers. Raises StepFailed."""
        arguments = ("-m", "comity", "serve", "--config", str(self._folder / "comity.toml"))
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        endpoint = Endpoint("localhost", self.port, "localhost", self.name)
        deadline = clock.monotonic() + START_SECONDS
        while clock.monotonic() < deadline:
            if self._process.returncode is not None:
                raise StepFailed(f"{self.nickname} ended at once, with exit code {self._process.returncode}")
            try:
                answer = await transport.request(
                    "GET",
                    endpoint,
                    "/_matrix/client/versions",
                    headers={},
                    timeout=START_SECONDS,
                    max_bytes=1 << 20,
                )
            except TransportError:
                await clock.sleep(LOOK_SECONDS)
                continue
            if answer.status == 200:
                return
            raise StepFailed(f"{self.nickname} answers /versions with {answer.status}")
        raise StepFailed(f"{self.nickname} does not answer after {START_SECONDS:.0f} s")

    async def stop(self) -> int | None:
        """End the process as an operator does, by SIGTERM; its exit code, None if it was not running.

        One that does not go is killed and the step fails.
        """
        process, self._process = self._process, None
        if process is None:
            return None
        if process.returncode is None:
            process.terminate()
        try:
            return await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise StepFailed(f"{self.nickname} did not end within {STOP_SECONDS:.0f} s of SIGTERM") from None

    def log_tail(self) -> list[str]:
        """The last lines of its log."""
        if not self.log.exists():
            return []
        return self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]


async def free_ports(count: int, entropy: Entropy) -> list[int]:
    """That many different ports of loopback on which nobody listens."""
    found: list[int] = []
    loop = asyncio.get_running_loop()
    for _ in range(MAX_PORT_TRIES):
        port = PORTS[int(entropy.random() * len(PORTS))]
        if port in found:
            continue
        try:
            probe = await loop.create_server(asyncio.Protocol, "127.0.0.1", port)
        except OSError:
            continue
        probe.close()
        await probe.wait_closed()
        found.append(port)
        if len(found) == count:
            return found
    raise StepFailed("no free ports on this machine")

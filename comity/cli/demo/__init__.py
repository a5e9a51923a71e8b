"""`comity demo`: two whole homeservers on this machine, and a room between them."""

from __future__ import annotations

import asyncio
import datetime
import io
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import click

from comity.cli import certificates
from comity.cli.demo.servers import Server, free_ports
from comity.cli.demo.story import Story
from comity.cli.demo.transcript import StepFailed, Transcript
from comity.net.http_client import HttpsTransport
from comity.net.system import SystemClock, SystemEntropy

LOOPBACK = ("127.0.0.0/8", "::1/128")
#: Characters of the secret that lets the demonstration make accounts on its servers.
SECRET_LENGTH = 43
#: As a shell shows a command that Ctrl-C ended.
INTERRUPTED = 130


@click.command("demo")
@click.option("--once", is_flag=True, help="End when all has been shown: exit code 0 if all of it came true.")
def command(once: bool) -> None:
    """Show two homeservers that share a room.

    Both run on this machine alone, with certificates by a private authority and databases in a
    temporary folder. Without --once they go on running until Ctrl-C, for you to log in.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Not every terminal can show a tick; a question mark instead of one is no reason to fail.
        sys.stdout.reconfigure(errors="replace")
    folder = Path(tempfile.mkdtemp(prefix="comity-demo-"))
    # What went wrong can be read in the logs; so the folder of a failure stays.
    code = asyncio.run(_perform(folder, once))
    if code in (0, INTERRUPTED):
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(code)


async def _perform(folder: Path, once: bool) -> int:
    """Play, and end when told to; both servers are gone when it returns."""
    loop = asyncio.get_running_loop()
    told_to_end = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told_to_end.set)
    demonstration = _Demonstration(folder, once)
    playing = asyncio.ensure_future(demonstration.play())
    ending = asyncio.ensure_future(told_to_end.wait())
    try:
        await asyncio.wait((playing, ending), return_when=asyncio.FIRST_COMPLETED)
        if not playing.done():
            return INTERRUPTED
        if not playing.result():
            return 1
        if not once:
            await ending
        return 0
    finally:
        playing.cancel()
        ending.cancel()
        await asyncio.gather(playing, ending, return_exceptions=True)
        await demonstration.close()


class _Demonstration:
    """The servers with their certificates, and the story that is played on them."""

    def __init__(self, folder: Path, once: bool) -> None:
        self._folder = folder
        self._once = once
        self._clock = SystemClock()
        self._transcript = Transcript(self._clock, live=sys.stdout.isatty())
        self._servers: list[Server] = []
        self._transport: HttpsTransport | None = None

    async def play(self) -> bool:
        """Whether all came true; if not, the transcript has said what did not."""
        transcript = self._transcript
        transcript.title("comity: two homeservers, one room")
        try:
            with transcript.step("A private certificate authority is made, and a certificate for localhost"):
                story = await self._prepare()
            await story.play()
        except StepFailed:
            self._tell_logs()
            return False
        transcript.plain()
        transcript.plain(f"All of it came true, in {transcript.seconds():.1f} seconds.")
        if not self._once:
            self._tell_how_to_log_in(story)
        return True

    async def _prepare(self) -> Story:
        entropy = SystemEntropy()
        now = datetime.datetime.fromtimestamp(self._clock.now_ms() / 1000, datetime.UTC)
        authority = certificates.authority("comity demo authority", now)
        authority_file = self._folder / "authority.pem"
        authority_file.write_bytes(authority.certificate_pem)
        secret = entropy.token(SECRET_LENGTH)
        ports = await free_ports(4, entropy)
        for nickname in ("north", "south"):
            server = Server(nickname, self._folder / nickname, ports.pop(), ports.pop())
            server.configure(authority_file, authority.issue(["localhost", "127.0.0.1", "::1"], now), secret)
            self._servers.append(server)
        self._transport = HttpsTransport(
            trusted_ca=(authority_file,),
            verify_certificates=True,
            allow_ranges=LOOPBACK,
            user_agent="comity demo",
        )
        await self._transport.open()
        north, south = self._servers
        return Story(self._transcript, self._transport, self._clock, entropy, north, south, secret)

    def _tell_logs(self) -> None:
        for server in self._servers:
            self._transcript.plain(f"\nThe last of {server.nickname}'s log ({server.log}):")
            for line in server.log_tail():
                self._transcript.plain(f"  {line}")

    def _tell_how_to_log_in(self, story: Story) -> None:
        plain = self._transcript.plain
        plain("\nBoth go on running. Log in with any Matrix client:\n")
        plain(f"  {'homeserver':<24}{'user':<28}password")
        for server, client in zip(self._servers, (story.alice, story.bob), strict=True):
            plain(f"  {server.plain_url:<24}{client.user_id:<28}{client.password}")
        plain(f"\nWith TLS: {' and '.join(server.url for server in self._servers)},")
        plain(f"which {self._folder / 'authority.pem'} vouches for. The logs are beside it.")
        plain("Ctrl-C ends both servers and removes all of it.")

    async def close(self) -> None:
        """End both servers."""
        if self._transport is not None:
            await self._transport.close()
        stopped = await asyncio.gather(*(server.stop() for server in self._servers), return_exceptions=True)
        for failure in stopped:
            if isinstance(failure, StepFailed):
                self._transcript.plain(str(failure))
            elif isinstance(failure, BaseException):
                raise failure

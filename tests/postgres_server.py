"""A PostgreSQL server of the tests' own, on loopback, in a folder that goes with it.

Debian's packages (`apt-get install postgresql`) or any others whose programs are found. The server
refuses to run as root: there the user `postgres` of the package runs it.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

#: Who connects: the only user, without a password, from this machine alone.
USER = "comity"
_PLACES = ("/usr/lib/postgresql", "/usr/local/pgsql", "/opt/homebrew/opt", "/usr/pgsql")
#: What makes a server forget its data when its machine fails, and quick.
THROWAWAY = {"fsync": "off", "full_page_writes": "off"}


def programs() -> Path | None:
    """The folder of the server's programs, the newest there is."""
    found = [path.parent for place in _PLACES for path in Path(place).glob("**/bin/initdb")]
    on_path = shutil.which("initdb")
    if on_path is not None:
        found.append(Path(on_path).resolve().parent)
    return max(found, key=lambda path: [int(part) for part in path.parts if part.isdigit()], default=None)


class PostgresServer:
    """One server. `start` makes it; `stop` ends it and removes everything."""

    def __init__(self, *, settings: dict[str, str] | None = None, connections: int = 200) -> None:
        """`settings` are of postgresql.conf; without them it is a server that keeps what it acknowledged."""
        found = programs()
        if found is None:
            raise FileNotFoundError("PostgreSQL's programs are not installed")
        self._bin = found
        self._user = pwd.getpwnam("postgres") if os.getuid() == 0 else None
        # A socket's path is short: not below pytest's own folders.
        self.folder = Path(tempfile.mkdtemp(prefix="comity-pg-"))
        self._data = self.folder / "data"
        self.port = _free_port()
        self._settings = {
            "listen_addresses": "'127.0.0.1'",
            "port": str(self.port),
            "unix_socket_directories": f"'{self.folder}'",
            "max_connections": str(connections),
            **(settings or {}),
        }
        if self._user is not None:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)

    @classmethod
    def at(cls, folder: Path) -> PostgresServer:
        """The server that another process has made in that folder."""
        server = cls()
        server.folder.rmdir()
        server.folder, server._data = folder, folder / "data"
        return server

    def url(self, database: str) -> str:
        """The URL of a database on it."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def make_database(self, name: str) -> str:
        """Make an empty database; its URL."""
        self._run(
            "createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "--encoding=UTF8",
            "--locale=C", "--template=template0", name,
        )  # fmt: skip
        return self.url(name)

    def start(self) -> None:
        """Make the server and wait until it answers."""
        self._run(
            "initdb", "-D", self._data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"
        )
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in self._settings.items())
        self.start_again()

    def start_again(self) -> None:
        """Start a server that was made and does not run."""
        log = self.folder / "log"
        self._run("pg_ctl", "-D", self._data, "-l", log, "-w", "-t", "60", "-s", "start")

    def restart(self) -> None:
        """As an operator restarts it: who is connected is cut off."""
        log = self.folder / "log"
        self._run("pg_ctl", "-D", self._data, "-l", log, "-w", "-t", "60", "-s", "-m", "fast", "restart")

    def kill(self) -> None:
        """End all of its processes without a word."""
        for process in self._processes():
            _signal(process, signal.SIGKILL)
        # Where nobody reaps the dead, they seem to live, and the server would not start again.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        (self.folder / f".s.PGSQL.{self.port}.lock").unlink(missing_ok=True)

    def pause(self) -> None:
        """Stop all of its processes in their tracks."""
        for process in self._processes():
            _signal(process, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let them go on."""
        for process in self._processes():
            _signal(process, signal.SIGCONT)

    def stop(self) -> None:
        """End the server and remove it."""
        if (self._data / "postmaster.pid").exists():
            self.go_on()
            self._run("pg_ctl", "-D", self._data, "-w", "-s", "-m", "immediate", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _processes(self) -> list[int]:
        postmaster = int((self._data / "postmaster.pid").read_text().splitlines()[0])
        return [postmaster, *_children(postmaster)]

    def _run(self, program: str, *arguments: str | Path) -> None:
        user = {} if self._user is None else {"user": self._user.pw_uid, "group": self._user.pw_gid}
        done = subprocess.run(  # type: ignore[call-overload]
            [self._bin / program, *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            extra_groups=[] if self._user is not None else None,
            start_new_session=True,
            **user,
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stdout}")


def _signal(process: int, number: signal.Signals) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        pass  # it has ended by itself


def _children(process: int) -> list[int]:
    """The processes that a process has started (Linux)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The name stands in parentheses and may hold anything; its parent comes two fields behind.
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue  # it has ended
        if parent == process:
            found.append(int(folder.name))
    return found


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])

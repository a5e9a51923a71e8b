"""`comity serve` as the operating system sees it: a real process, real sockets, real signals."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from comity.cli.demo.servers import free_ports
from comity.net.system import SystemEntropy
from tests.mailbox import mail_server

ROOT = Path(__file__).parents[2]
#: Seconds; a slow machine needs a few to start.
PATIENCE = 60


async def configuration(folder: Path, more: str = "") -> tuple[Path, int]:
    """A configuration with one plain listener, and its port."""
    (port,) = await free_ports(1, SystemEntropy())
    file = folder / "comity.toml"
    file.write_text(f"""\
server_name = "localhost:{port}"
[[listeners]]
bind = "127.0.0.1:{port}"
{more}
""")
    return file, port


async def start(config: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "comity", "serve", "--config", str(config), cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


@asynccontextmanager
async def serving(config: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[str]]]:
    """A server that listens, and the lines of its log until then."""
    process = await start(config)
    assert process.stderr is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(PATIENCE):
            while not any(" listening on " in line for line in lines):
                line = (await process.stderr.readline()).decode()
                assert line, f"it ended: {lines}"
                lines.append(line.rstrip())
        yield process, lines
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def refusal(config: Path) -> tuple[int | None, str]:
    """The exit code of a server that does not start, and what it says."""
    process = await start(config)
    async with asyncio.timeout(PATIENCE):
        _, said = await process.communicate()
    return process.returncode, said.decode()


async def request(port: int, path: str, body: bytes | None = None) -> bytes:
    """What the server answers to a GET, or to a POST of a body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    method, sent = ("GET", b"") if body is None else ("POST", body)
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: {len(sent)}\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n".encode() + sent)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_listens_answers_and_leaves_clean(tmp_path: Path, number: signal.Signals) -> None:
    config, port = await configuration(tmp_path)
    async with serving(config) as (process, lines):
        assert sum(f"listening on 127.0.0.1:{port}" in line for line in lines) == 1
        assert (await request(port, "/_matrix/client/versions")).startswith(b"HTTP/1.1 200")
        process.send_signal(number)
        async with asyncio.timeout(PATIENCE):
            _, said = await process.communicate()
        assert process.returncode == 0
        assert "Traceback" not in said.decode()
        assert "WARNING" not in said.decode()
    assert sorted(path.name for path in (tmp_path / "data").iterdir() if "-" not in path.name) == [
        "comity.db",
        "lock",
        "signing.key",
    ]


async def test_it_starts_again_as_who_it_was(tmp_path: Path) -> None:
    config, port = await configuration(tmp_path)
    answers = []
    for _ in range(2):
        async with serving(config) as (process, _lines):
            answers.append(await request(port, "/_matrix/key/v2/server"))
            process.terminate()
            await process.communicate()
    keys = [answer.partition(b'"verify_keys"')[2].partition(b"}")[0] for answer in answers]
    assert keys[0]
    assert keys[0] == keys[1]


async def test_two_servers_do_not_share_a_folder(tmp_path: Path) -> None:
    config, _ = await configuration(tmp_path)
    async with serving(config):
        code, said = await refusal(config)
    assert code == 1
    assert "another comity is running" in said
    assert "Traceback" not in said


async def test_a_killed_server_leaves_no_lock(tmp_path: Path) -> None:
    config, _ = await configuration(tmp_path)
    async with serving(config) as (process, _lines):
        process.kill()
        await process.communicate()
    async with serving(config):
        pass


async def test_a_wrong_configuration_is_told_whole(tmp_path: Path) -> None:
    config, _ = await configuration(tmp_path, '[federation]\nenable = true\n[log]\nlevel = "loud"')
    code, said = await refusal(config)
    assert code == 2
    assert "federation.enable: there is no such key; the nearest is federation.enabled" in said
    assert 'log.level: found the text "loud"' in said


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    config, port = await configuration(tmp_path)
    taken = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", port)
    try:
        code, said = await refusal(config)
    finally:
        taken.close()
        await taken.wait_closed()
    assert code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("more", "said_of_it"),
    [
        (
            '[[listeners]]\nbind = "127.0.0.1:0"\ntls = true\n[tls]\ncertificate = "a"\nprivate_key = "b"',
            "[tls]",
        ),
        ('[federation]\ntrusted_ca = ["gone.pem"]', "federation.trusted_ca"),
    ],
)
async def test_files_that_are_not_there(tmp_path: Path, more: str, said_of_it: str) -> None:
    config, _ = await configuration(tmp_path, more)
    code, said = await refusal(config)
    assert code == 1
    assert said_of_it in said
    assert "No such file" in said
    assert "Traceback" not in said


async def test_a_signing_key_that_is_gone(tmp_path: Path) -> None:
    config, _ = await configuration(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "comity.db").touch()
    code, said = await refusal(config)
    assert code == 1
    assert "put the key back from a backup" in said


async def test_a_signing_key_that_is_none(tmp_path: Path) -> None:
    config, _ = await configuration(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "signing.key").write_text("nonsense")
    code, said = await refusal(config)
    assert code == 2
    assert "is not a signing key" in said
    assert "Traceback" not in said


async def test_a_database_that_is_none(tmp_path: Path) -> None:
    config, _ = await configuration(tmp_path)
    async with serving(config) as (process, _lines):
        process.terminate()
        await process.communicate()
    for file in (tmp_path / "data").glob("comity.db*"):
        file.unlink()
    (tmp_path / "data" / "comity.db").write_text("this is no database\n" * 1000)
    code, said = await refusal(config)
    assert code == 1
    assert "comity.db cannot be used" in said
    assert "Traceback" not in said


async def test_letters_are_sent(tmp_path: Path) -> None:
    async with mail_server() as box:
        email = f"""
            [email]
            smtp_url = "smtp://127.0.0.1:{box.port}"
            from = "noreply@example.org"
            [registration]
            enabled = true
        """
        config, port = await configuration(tmp_path, email)
        async with serving(config):
            body = b'{"client_secret":"monkeys","email":"alice@example.org","send_attempt":1}'
            answer = await request(port, "/_matrix/client/v3/register/email/requestToken", body)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert f"https://localhost:{port}/_comity/email/confirm?sid=" in box.newest("alice@example.org")

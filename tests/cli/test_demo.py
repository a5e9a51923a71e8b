"""`comity demo`: the whole of comity from outside, and what is told when a part does not come true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from comity.cli.demo.servers import PORTS, Server, free_ports
from comity.cli.demo.transcript import StepFailed, Transcript
from comity.net.http_client import HttpsTransport
from comity.net.system import SystemClock, SystemEntropy

#: Seconds; a slow machine takes a minute.
PATIENCE = 240


@pytest.mark.slow
def test_all_of_it_comes_true(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "comity", "demo", "--once"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [line for line in done.stdout.splitlines() if re.match(r" *\d+\.\d s  ", line)]
    assert len(steps) == 10
    assert all("✓" in step for step in steps)
    assert "all 40 of Alice's earlier messages, in order" in done.stdout
    assert "All of it came true" in done.stdout
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == [], "the temporary folder is gone"


def told(live: bool, failure: BaseException | None) -> str:
    """The output of a transcript with one good step and one that ends with `failure`."""
    runner = CliRunner()
    with runner.isolation(color=live) as (output, *_):
        transcript = Transcript(SystemClock(), live=live)
        try:
            with transcript.step("The sun rises"):
                transcript.spoken("alice", "Good morning", 12.3)
            with transcript.step("The sun sets"):
                transcript.detail("in the west")
                if failure is not None:
                    raise failure
        except BaseException as raised:
            if raised is not failure:
                raise
        return output.getvalue().decode()


def test_a_step_that_comes_true() -> None:
    lines = told(live=False, failure=None).splitlines()
    assert lines[0].endswith("✓ The sun rises")
    assert lines[1].strip() == "alice  Good morning  12 ms"
    assert lines[2].endswith("✓ The sun sets")
    assert lines[3].strip() == "in the west"


def test_a_step_that_does_not_come_true() -> None:
    lines = told(live=False, failure=StepFailed("it is still up")).splitlines()
    assert lines[2].endswith("✗ The sun sets")
    assert lines[3].strip() == "in the west"
    assert lines[4].strip() == "it is still up"


def test_a_terminal_sees_the_step_under_way() -> None:
    output = told(live=True, failure=KeyboardInterrupt())
    assert "… The sun sets" in re.sub(r"\x1b\[\d+m", "", output)
    assert output.endswith("\r\x1b[K")


async def test_ports_are_free_and_out_of_the_way() -> None:
    ports = await free_ports(4, SystemEntropy())
    assert len(set(ports)) == 4
    assert set(ports) <= set(PORTS)


async def test_a_server_that_does_not_start(tmp_path: Path) -> None:
    server = Server("north", tmp_path / "north", *await free_ports(2, SystemEntropy()))
    (tmp_path / "north").mkdir()
    (tmp_path / "north" / "comity.toml").write_text("nonsense = true\n")
    transport = HttpsTransport(
        trusted_ca=(), verify_certificates=True, allow_ranges=("127.0.0.1",), user_agent="test"
    )
    await transport.open()
    try:
        with pytest.raises(StepFailed, match="north ended at once, with exit code 2"):
            await server.start(transport, SystemClock())
        assert any("nonsense: there is no such key" in line for line in server.log_tail())
        assert await server.stop() == 2
    finally:
        await transport.close()

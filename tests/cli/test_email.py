"""`comity email`: a letter to a real mail server, and what is said when it is not taken."""

from __future__ import annotations

import asyncio
from pathlib import Path

from click.testing import CliRunner, Result

from comity.cli import main
from tests.mailbox import Mailbox, mail_server, text_of

EMAIL = '[email]\nsmtp_url = "smtp://me:s3cret@127.0.0.1:{}"\nfrom = "noreply@example.org"\n'


async def sent(folder: Path, email: str, address: str = "admin@example.org") -> Result:
    config = folder / "comity.toml"
    config.write_text(f'server_name = "example.org"\n{email}')
    line = ["email", address, "--config", str(config)]
    return await asyncio.to_thread(CliRunner().invoke, main, line)


async def to_box(folder: Path, box: Mailbox, address: str = "admin@example.org") -> Result:
    return await sent(folder, EMAIL.format(box.port).replace("me:s3cret@", ""), address)


async def test_a_letter_is_sent(tmp_path: Path) -> None:
    async with mail_server() as box:
        result = await to_box(tmp_path, box)
    assert result.exit_code == 0 and "has taken the letter" in result.output
    ((receiver, letter),) = box.came
    assert receiver == "admin@example.org" and "example.org" in text_of(letter)


async def test_what_the_mail_server_says(tmp_path: Path) -> None:
    async with mail_server() as box:
        box.answer_to_receiver = "550 nobody"
        result = await to_box(tmp_path, box)
        assert result.exit_code == 1 and "the receiver is refused (550)" in result.output
        result = await to_box(tmp_path, box, "no address")
        assert result.exit_code == 1 and "not taken" in result.output
        port = box.port
    result = await sent(tmp_path, EMAIL.format(port))
    assert result.exit_code == 1 and f"127.0.0.1:{port}" in result.output and "s3cret" not in result.output


async def test_what_must_be_configured(tmp_path: Path) -> None:
    result = await sent(tmp_path, "")
    assert result.exit_code == 2 and "[email] is not set" in result.output
    text = EMAIL.format(25) + '[outbound]\ntrusted_ca = ["nowhere.pem"]\n'
    result = await sent(tmp_path, text)
    assert result.exit_code == 2 and "outbound.trusted_ca" in result.output

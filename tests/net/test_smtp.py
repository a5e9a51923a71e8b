"""Letters to a real mail server on loopback: what arrives, how privately, and what is said if it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from comity.config.contact import MailServer, Security
from comity.net import smtp
from comity.net.smtp import SmtpMail
from comity.ports import NO_MAIL, Letter, MailError
from tests.mailbox import mail_server, text_of
from tests.net.authority import Authority
from tests.net.peers import Connection, running_peer

LETTER = Letter("alice@example.org", "Grüße", "Hello,\n\nör äh.\n", "<p>Hello, <b>ör</b></p>")
LOGIN = ("comity", "s3cret:pass")


@asynccontextmanager
async def mail(server: MailServer, *trusted: Path) -> AsyncIterator[SmtpMail]:
    opened = SmtpMail(server, "Example Ltd. <noreply@example.org>", trusted)
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()


async def failure(server: MailServer, *trusted: Path) -> str:
    async with mail(server, *trusted) as way:
        with pytest.raises(MailError) as raised:
            await way.send(LETTER)
    assert "alice" not in str(raised.value) and "s3cret" not in str(raised.value)
    return str(raised.value)


async def test_a_letter_arrives_whole() -> None:
    async with mail_server() as box, mail(box.server()) as way:
        await way.send(LETTER)
    ((receiver, letter),) = box.came
    assert (receiver, box.senders) == ("alice@example.org", ["noreply@example.org"])
    assert (letter["From"], letter["To"]) == ('"Example Ltd." <noreply@example.org>', "alice@example.org")
    assert (letter["Subject"], letter["Auto-Submitted"]) == ("Grüße", "auto-generated")
    assert letter["Date"] and letter["Message-ID"].endswith("@example.org>")
    assert text_of(letter) == "Hello,\n\nör äh.\n"
    html = letter.get_body(("html",))
    assert html is not None and html.get_content().strip() == LETTER.html


async def test_an_address_in_any_script() -> None:
    letter = Letter("Strauß@example.org", "Grüße", "Hello", "<p>Hello</p>")
    async with mail_server() as box, mail(box.server()) as way:
        await way.send(letter)
    ((receiver, came),) = box.came
    assert (receiver, came["To"]) == ("Strauß@example.org", "Strauß@example.org")


@pytest.mark.parametrize(("security", "login"), [("tls", None), ("starttls", LOGIN)])
async def test_privately_and_by_name(
    authority: Authority, security: Security, login: tuple[str, str] | None
) -> None:
    async with (
        mail_server(security, authority.issue(["127.0.0.1"]), login) as box,
        mail(box.server(security, login), authority.ca) as way,
    ):
        await way.send(LETTER)
    assert box.private == [True]
    assert box.logins == ([] if login is None else [login])


@pytest.mark.parametrize("security", ["tls", "starttls"])
async def test_a_server_that_cannot_prove_itself_gets_nothing(
    authority: Authority, stranger: Authority, security: Security
) -> None:
    for issued in (stranger.issue(["127.0.0.1"]), authority.issue(["other.test"])):
        async with mail_server(security, issued, LOGIN if security == "starttls" else None) as box:
            text = await failure(box.server(security, LOGIN), authority.ca)
        assert "its certificate is not trusted" in text
        assert (box.came, box.logins) == ([], [])


async def test_no_letter_goes_without_tls_where_it_is_meant() -> None:
    async with mail_server() as box:
        assert "STARTTLS" in await failure(box.server("starttls", LOGIN))
    assert (box.came, box.logins) == ([], [])


async def test_refusals_are_told_without_names(authority: Authority) -> None:
    async with mail_server("starttls", authority.issue(["127.0.0.1"]), LOGIN) as box:
        wrong = box.server("starttls", ("comity", "s3cret"))
        assert "the user or the password is refused (535)" in await failure(wrong, authority.ca)
    async with mail_server() as box:
        box.answer_to_receiver = "550 no such user alice"
        assert "the receiver is refused (550)" in await failure(box.server())
        box.answer_to_receiver, box.answer_to_letter = "", "554 no spam, please"
        assert "refused (554 no spam, please)" in await failure(box.server())
        port = box.port
    assert f"127.0.0.1:{port}" in await failure(box.server())


async def test_a_silent_server_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(connection: Connection) -> None:
        await connection.reader.read()

    monkeypatch.setattr(smtp, "SILENCE_SECONDS", 0.05)
    async with running_peer(silent, None) as peer:
        assert "it did not answer in time" in await failure(
            MailServer("none", "127.0.0.1", peer.port, None, None)
        )


async def test_letters_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(connection: Connection) -> None:
        await connection.reader.read()

    monkeypatch.setattr(smtp, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(smtp, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(smtp, "MAX_WAITING", 1)
    async with running_peer(silent, None) as peer:
        server = MailServer("none", "127.0.0.1", peer.port, None, None)
        async with mail(server) as way:
            letters = [asyncio.ensure_future(way.send(LETTER)) for _ in range(3)]
            done, _ = await asyncio.wait(letters, return_when=asyncio.FIRST_COMPLETED)
            (refused,) = done
            assert "1 other letters wait" in str(refused.exception())
            outcomes = await asyncio.gather(*letters, return_exceptions=True)
    assert all(isinstance(outcome, MailError) for outcome in outcomes)


async def test_what_cannot_be_a_header_is_not_sent() -> None:
    async with mail_server() as box, mail(box.server()) as way:
        for to in ("alice@example.org\r\nBcc: eve@example.org", "", "alice", "a@b, c@d", "ß@b\nBcc: c@d"):
            with pytest.raises(MailError):
                await way.send(Letter(to, "Hello", "text", "<p>text</p>"))
        with pytest.raises(MailError):
            await way.send(Letter("alice@example.org", "Hello\r\nBcc: eve@example.org", "text", ""))
    assert box.came == []


async def test_a_server_without_mail_sends_none() -> None:
    with pytest.raises(MailError):
        await NO_MAIL.send(LETTER)

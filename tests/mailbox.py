"""A mail server on loopback that keeps what it is given: aiosmtpd, which speaks real SMTP."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword

from comity.config.contact import MailServer, Security
from comity.net.http_server import server_ssl_context
from tests.net.authority import Issued


@dataclass
class Mailbox:
    """What came, and what is refused."""

    port: int = 0
    #: Of each letter: to whom, and the letter.
    came: list[tuple[str, EmailMessage]] = field(default_factory=list)
    senders: list[str] = field(default_factory=list)
    #: (user, password) of each attempt to log in.
    logins: list[tuple[str, str]] = field(default_factory=list)
    #: Whether each letter came over TLS.
    private: list[bool] = field(default_factory=list)
    #: Answers to RCPT and to the end of DATA, in the place of "250 OK".
    answer_to_receiver: str = ""
    answer_to_letter: str = ""

    def server(self, security: Security = "none", login: tuple[str, str] | None = None) -> MailServer:
        """Where it is, for the configuration."""
        user, password = login or (None, None)
        return MailServer(security, "127.0.0.1", self.port, user, password)

    def newest(self, to: str) -> str:
        """The text of the last letter to an address."""
        letters = [letter for receiver, letter in self.came if receiver == to]
        assert letters, f"no letter to {to}"
        return text_of(letters[-1])

    # -- aiosmtpd's names

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Any, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.answer_to_receiver:
            return self.answer_to_receiver
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Envelope) -> str:  # noqa: N802
        if self.answer_to_letter:
            return self.answer_to_letter
        assert isinstance(envelope.content, bytes)
        letter = message_from_bytes(envelope.content, policy=policy.default)
        self.came += [(receiver, letter) for receiver in envelope.rcpt_tos]
        self.senders.append(str(envelope.mail_from))
        assert server.transport is not None
        self.private.append(server.transport.get_extra_info("ssl_object") is not None)
        return "250 OK"


def text_of(letter: EmailMessage) -> str:
    """The plain text of a letter."""
    part = letter.get_body(("plain",))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


@asynccontextmanager
async def mail_server(
    security: Security = "none", issued: Issued | None = None, login: tuple[str, str] | None = None
) -> AsyncIterator[Mailbox]:
    """A mail server on a free port of loopback, until the block ends; `login` is what it asks for."""
    box = Mailbox()
    context: ssl.SSLContext | None = None
    if issued is not None:
        context = server_ssl_context(issued.certificate, issued.private_key)

    def check(server: SMTP, session: Any, envelope: Envelope, mechanism: str, given: Any) -> AuthResult:
        assert isinstance(given, LoginPassword)
        box.logins.append((given.login.decode(), given.password.decode()))
        return AuthResult(success=box.logins[-1] == login, handled=False)

    made: list[SMTP] = []

    def protocol() -> SMTP:
        made.append(
            SMTP(
                box, hostname="mail.test", enable_SMTPUTF8=True,
                tls_context=context if security == "starttls" else None,
                require_starttls=security == "starttls",
                authenticator=check, auth_required=login is not None, auth_require_tls=security == "starttls",
            )
        )  # fmt: skip
        return made[-1]

    server = await asyncio.get_running_loop().create_server(
        protocol, "127.0.0.1", 0, ssl=context if security == "tls" else None
    )
    box.port = server.sockets[0].getsockname()[1]
    try:
        yield box
    finally:
        server.close()
        for connection in made:
            if connection.transport is not None:
                connection.transport.close()
        await server.wait_closed()

"""Letters to a mail server: `ports.Mail` on smtplib.

Owns the connection, its TLS and its threads, and how a letter is put together. Never decides who is
written to, nor what; and never tells a password, an address or the text of a letter.
"""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid, parseaddr
from pathlib import Path

from comity.config import MailServer
from comity.net.tls_context import client_ssl_context
from comity.net.urls import where_is
from comity.ports import Letter, MailError

#: Connections to the mail server at once, each with a thread: a letter takes a second or so.
MAX_CONNECTIONS = 4

#: Letters that wait for one; one more fails at once, instead of after its time is over.
MAX_WAITING = 64

#: Seconds that the mail server may be silent, and for one letter from its first byte to the last.
SILENCE_SECONDS = 15.0
LETTER_SECONDS = 60.0

_SILENT = "it did not answer in time"

#: Characters of what the mail server says that go into the log.
MAX_TOLD = 200


class SmtpMail:
    """`ports.Mail`: `open` before the first letter, `close` after the last."""

    def __init__(self, server: MailServer, sender: str, trusted_ca: Sequence[Path] = ()) -> None:
        """`sender` is the `From` of all letters; `trusted_ca` are PEM files to trust beside the system's."""
        self._server = server
        self._sender = parseaddr(sender)
        self._domain = self._sender[1].rpartition("@")[2]
        self._trusted_ca = list(trusted_ca)
        self._context: ssl.SSLContext | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._waiting = 0

    async def open(self) -> None:
        """Read the certificates and get ready. Raises OSError when a file cannot be used."""
        self._context = await asyncio.to_thread(client_ssl_context, self._trusted_ca, None)
        self._context.set_alpn_protocols([])
        self._threads = ThreadPoolExecutor(MAX_CONNECTIONS, thread_name_prefix="comity-mail")

    async def close(self) -> None:
        """Drop the letters that nobody has begun to send, and wait for the others."""
        threads, self._threads = self._threads, None
        if threads is not None:
            await asyncio.to_thread(threads.shutdown, wait=True, cancel_futures=True)

    async def send(self, letter: Letter) -> None:
        """See `ports.Mail.send`."""
        if self._threads is None:
            raise MailError("the way to the mail server is not open")
        if self._waiting >= MAX_CONNECTIONS + MAX_WAITING:
            raise MailError(f"{MAX_WAITING} other letters wait for the mail server")
        try:
            message = self._message(letter)
        except (ValueError, IndexError) as error:
            raise MailError(f"the letter cannot be written: {type(error).__name__}") from None
        self._waiting += 1
        sending = asyncio.get_running_loop().run_in_executor(
            self._threads, self._hand_over, letter.to, message
        )
        sending.add_done_callback(self._done)
        try:
            async with asyncio.timeout(LETTER_SECONDS):
                # A letter is not taken back because nobody waits for it any more.
                await asyncio.shield(sending)
        except TimeoutError:
            raise MailError(f"{self._where} took more than {LETTER_SECONDS:g} s") from None
        except asyncio.CancelledError:
            if sending.cancelled():
                raise MailError("the server is about to end") from None
            raise

    def _done(self, sending: asyncio.Future[None]) -> None:
        self._waiting -= 1
        if not sending.cancelled():
            sending.exception()  # told to whoever waits; if nobody does any more, nobody need know

    @property
    def _where(self) -> str:
        return f"the mail server {where_is(self._server.host, self._server.port)}"

    def _message(self, letter: Letter) -> EmailMessage:
        """The letter as it travels. Raises ValueError for what cannot be in a header."""
        message = EmailMessage(policy=SMTP)
        name, address = self._sender
        message["From"] = Address(name, addr_spec=address)
        # The library takes no other address apart; such a letter needs a mail server with SMTPUTF8.
        message["To"] = Address(addr_spec=letter.to) if letter.to.isascii() else letter.to
        message["Subject"] = letter.subject
        message["Date"] = formatdate(usegmt=True)
        message["Message-ID"] = make_msgid(domain=self._domain)
        # RFC 3834: no answering machine is to answer.
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(letter.text)
        message.add_alternative(letter.html, subtype="html")
        return message

    def _hand_over(self, to: str, message: EmailMessage) -> None:
        """In a thread. Raises MailError."""
        try:
            with self._connected() as connection:
                connection.send_message(message, self._sender[1], [to])
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise MailError(f"{self._where}: {_told(error)}") from None

    def _connected(self) -> smtplib.SMTP:
        """A connection that is private and known to the mail server, as far as is configured."""
        server, context = self._server, self._context
        connection: smtplib.SMTP
        if server.security == "tls":
            connection = smtplib.SMTP_SSL(
                server.host, server.port, self._domain, timeout=SILENCE_SECONDS, context=context
            )
        else:
            connection = smtplib.SMTP(server.host, server.port, self._domain, timeout=SILENCE_SECONDS)
        try:
            if server.security == "starttls":
                connection.starttls(context=context)
            if server.user is not None and server.password is not None:
                connection.login(server.user, server.password)
        except BaseException:
            connection.close()
            raise
        return connection


def _told(error: Exception) -> str:
    """What went wrong, for the operator: without anybody's address."""
    match error:
        case smtplib.SMTPAuthenticationError():
            return f"the user or the password is refused ({error.smtp_code})"
        case smtplib.SMTPRecipientsRefused():
            codes = sorted({code for code, _ in error.recipients.values()})
            return f"the receiver is refused ({', '.join(map(str, codes))})"
        case smtplib.SMTPSenderRefused():
            return f"email.from is refused as the sender ({error.smtp_code})"
        case smtplib.SMTPResponseException():
            text = (
                error.smtp_error
                if isinstance(error.smtp_error, str)
                else error.smtp_error.decode("ascii", "replace")
            )
            return f"refused ({error.smtp_code} {text[:MAX_TOLD]})"
        case smtplib.SMTPNotSupportedError():
            return str(error)[:MAX_TOLD]
        case smtplib.SMTPServerDisconnected():
            # So smtplib tells a silence, too.
            return _SILENT if "timed out" in str(error) else "the connection broke off"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message}"
        case TimeoutError():
            return _SILENT
        case OSError():
            return error.strerror or type(error).__name__
        case _:
            return type(error).__name__

"""One connection of ours to another server: TCP, TLS, and one HTTP/1.1 exchange after the other.

Owns the TLS of the connection (a pair of memory buffers and an object of OpenSSL's, so that nothing is
held for a connection at rest but what OpenSSL holds), the writing of requests and what it means when
the connection ends. It never chooses an address, and never decides whether something is asked again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

from comity.net.handshakes import Handshakes
from comity.net.http_answer import IncomingAnswer, NoHttp, TooLarge

#: Bytes that are read out of TLS at once; a record has 16 KiB at most.
_READ_BYTES = 64 * 1024

#: A body is handed over in pieces of this size, each after the one before has mostly gone: so that the loop
#: can do other things, and a peer that takes nothing costs no more than this beside the body.
PIECE_BYTES = 512 * 1024


class HandshakeFailed(Exception):
    """TLS could not be agreed on, or the certificate does not hold; `args[0]` is the reason."""


class Disconnected(Exception):
    """The connection ended before any byte of an answer; `args[0]` is why, if that is known."""


class BrokenOff(Exception):
    """The connection ended within the answer."""


class Connection(asyncio.Protocol):
    """One connection to one address. `ready` is done once a request may be written."""

    __slots__ = (
        "_answer",
        "_asked",
        "_context",
        "_drained",
        "_handshakes",
        "_incoming",
        "_is_full",
        "_is_shaking",
        "_loop",
        "_on_lost",
        "_outgoing",
        "_tls",
        "_tls_name",
        "_transport",
        "_why",
        "certificate",
        "is_over",
        "ready",
    )

    def __init__(
        self,
        context: ssl.SSLContext | None,
        tls_name: str,
        handshakes: Handshakes,
        on_lost: Callable[[Connection], None],
    ) -> None:
        """Without a context, plain HTTP is spoken.

        `on_lost` is called when the connection is no more.
        """
        self._loop = asyncio.get_running_loop()
        self._context, self._tls_name, self._on_lost = context, tls_name, on_lost
        self._handshakes = handshakes
        self._transport: asyncio.Transport | None = None
        self._tls: ssl.SSLObject | None = None
        self._incoming: ssl.MemoryBIO | None = None
        self._outgoing: ssl.MemoryBIO | None = None
        self._answer: IncomingAnswer | None = None
        self._asked: asyncio.Future[None] | None = None
        self._is_full = False
        #: Whether a thread has the object of TLS, which nobody else may touch then.
        self._is_shaking = False
        self._drained: asyncio.Future[None] | None = None
        #: What ended it while nobody waited for an answer.
        self._why: BaseException | None = None
        self.ready: asyncio.Future[None] = self._loop.create_future()
        #: The DER of what the peer proved itself with.
        self.certificate: bytes | None = None
        #: Whether nothing can be asked on it any more.
        self.is_over = False

    # -- for who asks

    async def ask(self, head: bytes, body: bytes, answer: IncomingAnswer) -> None:
        """Send a request and wait for its answer, which is whole then.

        A connection whose answer says that it may not go on, or on which anything went wrong, is over.
        Raises Disconnected, BrokenOff, NoHttp, TooLarge, ssl.SSLError.
        """
        if isinstance(self._why, ssl.SSLError):
            raise self._why
        if self.is_over or self._answer is not None:
            raise Disconnected(self._why)
        self._answer = answer
        asked = self._asked = self._loop.create_future()
        try:
            if len(body) <= PIECE_BYTES:
                self._write(head + body)
            else:
                self._write(head)
                await self._write_in_pieces(body, asked)
            await asked
        except BaseException:
            self.abort()
            raise
        finally:
            self._answer = self._asked = None
        if not answer.keep_alive:
            self.close()

    def close(self) -> None:
        """End the connection in good order."""
        transport = self._transport
        self.is_over = True
        if transport is None or transport.is_closing():
            return
        if self._tls is not None and not self._is_shaking:
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass  # it waits for the peer's farewell, and we do not
            self._flush()
        if transport.get_write_buffer_size():
            transport.abort()  # a peer that takes nothing would keep it open
        else:
            transport.close()

    def abort(self) -> None:
        """Cut the connection off."""
        self.is_over = True
        if self._transport is not None:
            self._transport.abort()

    # -- the transport's

    def connection_made(self, base: asyncio.BaseTransport) -> None:
        # uvloop's are none by their class.
        self._transport = cast("asyncio.Transport", base)
        if self._context is None:
            self.ready.set_result(None)
            return
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            self._tls = self._context.wrap_bio(self._incoming, self._outgoing, server_hostname=self._tls_name)
        except (ssl.SSLError, ValueError) as error:
            self._end(HandshakeFailed(error))
            self.abort()
            return
        self._shaken(_shake_hands(self._tls))

    def data_received(self, data: bytes) -> None:
        if self._incoming is None:
            self._take(data)
            return
        self._incoming.write(data)
        if self.ready.done():
            self._read()
        else:
            self._shake_hands_aside()

    def eof_received(self) -> bool:
        self._end(None)
        return False

    def connection_lost(self, error: BaseException | None) -> None:
        self._end(error)
        self._transport = self._tls = self._incoming = self._outgoing = None
        self._on_lost(self)

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # -- TLS

    def _shake_hands_aside(self) -> None:
        """Go on with the handshake in a thread."""
        assert self._tls is not None and self._transport is not None
        self._is_shaking = True
        self._transport.pause_reading()
        self._handshakes.do(_shake_hands, self._tls, self._shaken_aside)

    def _shaken_aside(self, error: ssl.SSLError | None) -> None:
        self._is_shaking = False
        transport = self._transport
        if transport is None or transport.is_closing():
            return  # it ended meanwhile
        transport.resume_reading()
        self._shaken(error)
        if self.ready.done() and self._incoming is not None and self._incoming.pending:
            self._read()  # what came along with the end of the handshake

    def _shaken(self, error: ssl.SSLError | None) -> None:
        """A step of the handshake is done, or failed."""
        if error is not None:
            self._flush()  # also to tell the peer what went wrong
            if not isinstance(error, ssl.SSLWantReadError):
                self._end(HandshakeFailed(error))
                self.close()
        elif self._tls is not None and not self.ready.done():  # who waited may have given up just now
            self.certificate = self._tls.getpeercert(binary_form=True)
            self.ready.set_result(None)
            # Who waits for it has its turn first: its request goes out along with our last words.
            self._loop.call_soon(self._flush)

    def _read(self) -> None:
        """Hand on what can be read.

        Without asking for more than has come: to be told so by an exception takes longer than to decrypt a
        short answer.
        """
        assert self._tls is not None and self._incoming is not None
        try:
            while not self.is_over and (self._incoming.pending or self._tls.pending()):
                plain = self._tls.read(_READ_BYTES)
                if not plain:  # the peer's farewell
                    self._end(None)
                    self.close()
                    return
                self._take(plain)
        except ssl.SSLWantReadError:
            pass  # a part of a record, or no news for us
        except ssl.SSLError as error:
            self._flush()
            self._end(error)
            self.abort()
        self._flush()

    def _write(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            raise Disconnected(None)
        if self._tls is None:
            transport.write(data)
            return
        written = self._tls.write(data)
        while written < len(data):  # TLS may take a record at a time
            written += self._tls.write(memoryview(data)[written:])
        self._flush()

    def _flush(self) -> None:
        if self._outgoing is not None and self._outgoing.pending and self._transport is not None:
            self._transport.write(self._outgoing.read())

    # -- HTTP

    async def _write_in_pieces(self, body: bytes, asked: asyncio.Future[None]) -> None:
        view = memoryview(body)
        for start in range(0, len(body), PIECE_BYTES):
            if self._is_full:
                self._drained = self._loop.create_future()
                await asyncio.wait((self._drained, asked), return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                # It has answered before it had everything, and may have stopped reading.
                self.is_over = True
                return
            self._write(bytes(view[start : start + PIECE_BYTES]))

    def _take(self, plain: bytes) -> None:
        answer, asked = self._answer, self._asked
        if answer is None or asked is None or asked.done():
            self.abort()  # nothing was asked
            return
        try:
            answer.feed(plain)
        except (NoHttp, TooLarge) as failure:
            self._end(failure)
            self.abort()
            return
        if answer.whole:
            if not answer.keep_alive:
                self.is_over = True
            asked.set_result(None)

    def _end(self, error: BaseException | None) -> None:
        """Nothing more comes; tell who waits."""
        self.is_over = True
        if not self.ready.done():
            self.ready.set_exception(error or ConnectionResetError("it was closed within the TLS handshake"))
            self.ready.exception()  # nobody need wait for it
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        answer, asked = self._answer, self._asked
        if answer is None or asked is None or asked.done():
            self._why = self._why or error
            return
        if isinstance(error, NoHttp | TooLarge | ssl.SSLError):
            asked.set_exception(error)
            return
        try:
            if answer.end():
                asked.set_result(None)
            elif answer.received:
                asked.set_exception(BrokenOff())
            else:
                asked.set_exception(Disconnected(error))
        except NoHttp as failure:
            asked.set_exception(failure)


def _shake_hands(tls: ssl.SSLObject) -> ssl.SSLError | None:
    """A step of the handshake; why it is not the last one."""
    try:
        tls.do_handshake()
    except ssl.SSLError as error:
        return error
    return None

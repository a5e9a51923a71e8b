"""One connection to PostgreSQL: statements sent in a pipeline, answers awaited where they are needed.

Uses the library's own layer (`psycopg.pq`), always in pipeline mode: what returns no rows is sent
along with the next that does, so that a write of eight statements waits for the server once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import pq
from psycopg.adapt import Transformer
from psycopg.conninfo import make_conninfo

from comity.ports import Pausing
from comity.store.database import EarlierWriteError, ExhaustedError, Row, StatementError

#: Statements that are prepared on one connection; past it, all are forgotten.
MAX_PREPARED = 1_000
#: Statements that are sent before their answers are looked at.
MAX_UNANSWERED = 500
#: Seconds that the server is given for one answer.
ANSWER_SECONDS = 15.0
#: Types of parameters by their number in every PostgreSQL (pg_type): int8, text, bytea, float8.
_TYPES: dict[type, int] = {int: 20, bool: 20, str: 25, bytes: 17, float: 701, type(None): 0}
#: PostgreSQL stores every character but NUL; a user may send one. It is written as two characters that
#: Unicode keeps for a program's own use, and so is the first of these.
_ESCAPE = "\ufdd0"
_BINARY = int(pq.Format.BINARY)
_SYNC, _FATAL, _ABORTED = (
    int(status)
    for status in (
        pq.ExecStatus.PIPELINE_SYNC,
        pq.ExecStatus.FATAL_ERROR,
        pq.ExecStatus.PIPELINE_ABORTED,
    )
)
_LOST = ("08", "57P")
#: Classes of errors that are the server's own trouble (PostgreSQL, Appendix A): transaction rollback,
#: insufficient resources, operator intervention, system error, internal error.
_EXHAUSTED = ("40", "53", "57", "58", "XX")


class ConnectionLostError(Exception):
    """The connection is gone, or the server does not answer."""


def _escaped(text: str) -> str:
    return text.replace(_ESCAPE, _ESCAPE + "1").replace("\0", _ESCAPE + "0")


def _unescaped(text: str) -> str:
    return text.replace(_ESCAPE + "0", "\0").replace(_ESCAPE + "1", _ESCAPE)


def _encode_text(text: str) -> bytes:
    if "\0" in text or _ESCAPE in text:
        text = _escaped(text)
    return text.encode()


def _encode_integer(value: int) -> bytes:
    try:
        return value.to_bytes(8, "big", signed=True)
    except OverflowError:
        raise StatementError("22003", f"{value} is no 64-bit integer") from None


#: How a parameter of each type is written in PostgreSQL's binary format.
_ENCODERS: Mapping[type, Callable[[Any], bytes | None]] = {
    type(None): lambda _: None,
    bytes: lambda value: value,
    str: _encode_text,
    int: _encode_integer,
    bool: _encode_integer,
    float: lambda value: struct.pack(">d", value),
}


def _encode(value: Any) -> bytes | None:
    """A parameter in PostgreSQL's binary format. Raises StatementError for what it cannot hold."""
    encoder = _ENCODERS.get(type(value))
    if encoder is None:
        # A subclass: an enumeration, a text of its own kind.
        encoder = next((own for kind, own in _ENCODERS.items() if isinstance(value, kind)), None)
        if encoder is None:
            raise StatementError("22000", f"A {type(value).__name__} cannot be stored")
    return encoder(value)


def _oid_of(kind: type) -> int:
    return next((oid for known, oid in _TYPES.items() if issubclass(kind, known)), 0)


def _plain(row: Row) -> Row:
    return tuple(_unescaped(item) if isinstance(item, str) else item for item in row)


def _rows(answer: pq.abc.PGresult, transformer: Any) -> list[Row]:
    count = answer.ntuples
    if not count:
        return []
    transformer.set_pgresult(answer)
    rows: list[Row] = transformer.load_rows(0, count, tuple)
    for index, row in enumerate(rows):
        for item in row:
            if type(item) is str and _ESCAPE in item:
                rows[index] = _plain(row)
                break
    return rows


def to_postgres(sql: str) -> str:
    """A statement with PostgreSQL's numbered parameters."""
    first, *others = sql.split("?")
    return first + "".join(f"${number}{part}" for number, part in enumerate(others, start=1))


class Connection:
    """An open connection. One function uses it at a time."""

    def __init__(self, handle: pq.abc.PGconn, pausing: Pausing) -> None:
        """`handle` is connected; `connect` makes one."""
        self._handle = handle
        self._watch = pausing.watch(handle.socket, self._unasked)
        #: Called when the server hangs up while nobody uses the connection.
        self.on_lost: Callable[[], None] | None = None
        self._transformer = Transformer()
        self._prepared: dict[tuple[str, tuple[type, ...]], bytes] = {}
        #: Those of them that the server has not confirmed yet.
        self._unconfirmed: list[tuple[str, tuple[type, ...]]] = []
        #: For each statement on its way: what to do with its answer.
        self._unanswered: list[Callable[[pq.abc.PGresult], None] | None] = []
        #: How many of them were sent by an earlier part of the transaction.
        self._earlier = 0
        self._serial = 0
        self.is_broken = False
        self.answer_seconds = ANSWER_SECONDS
        handle.nonblocking = 1
        handle.enter_pipeline_mode()

    @property
    def process_id(self) -> int:
        """The server's process behind this connection."""
        return self._handle.backend_pid

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, be it failed."""
        status = self._handle.transaction_status
        return status in (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR)

    @property
    def is_idle(self) -> bool:
        """Whether it is whole, and nothing is open or on its way."""
        return not self.is_broken and self._handle.transaction_status == pq.TransactionStatus.IDLE

    # -- statements

    def send(
        self,
        sql: str,
        parameters: Sequence[Any] = (),
        take: Callable[[pq.abc.PGresult], None] | None = None,
    ) -> None:
        """Send a statement; its answer comes with the next `wait`. Raises StatementError at once for
        a parameter that cannot be stored, ConnectionLostError."""
        values = [_encode(value) for value in parameters]
        if self.is_broken:
            raise ConnectionLostError("The connection is closed")
        try:
            name = self._prepare(sql, tuple(map(type, parameters)))
            if values:
                self._handle.send_query_prepared(name, values, [_BINARY] * len(values), _BINARY)
            else:
                self._handle.send_query_prepared(name, None, result_format=_BINARY)
        except psycopg.Error as error:
            raise self._lose(str(error)) from error
        self._unanswered.append(take)
        if len(self._unanswered) >= MAX_UNANSWERED:
            self.wait()

    def _prepare(self, sql: str, types: tuple[type, ...]) -> bytes:
        key = (sql, types)
        name = self._prepared.get(key)
        if name is None:
            # In a transaction that has failed the server refuses to forget any.
            failed = self._handle.transaction_status == pq.TransactionStatus.INERROR
            if len(self._prepared) >= MAX_PREPARED and not failed:
                self._prepared.clear()
                self._handle.send_query_params(b"DEALLOCATE ALL", None)
                self._unanswered.append(None)
            self._serial += 1
            name = b"s%d" % self._serial
            self._handle.send_prepare(name, to_postgres(sql).encode(), [_oid_of(kind) for kind in types])
            self._unanswered.append(None)
            self._prepared[key] = name
            self._unconfirmed.append(key)
        return name

    def begin_part(self) -> None:
        """What was sent so far is another's: if that fails, `wait` raises EarlierWriteError."""
        self._earlier = len(self._unanswered)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Every row of a query."""
        found: list[Row] = []
        self.send(sql, parameters, lambda answer: found.extend(_rows(answer, self._transformer)))
        self.wait()
        return found

    def changed(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """The number of rows that a statement changed."""
        counts: list[int] = []
        self.send(sql, parameters, lambda answer: counts.append(answer.command_tuples or 0))
        self.wait()
        return counts[0]

    # -- waiting

    def wait(self) -> None:
        """Wait for the answers to everything that was sent.

        Raises StatementError for the first statement that failed, EarlierWriteError if that is of an
        earlier part, ConnectionLostError.
        """
        if self.is_broken:
            raise ConnectionLostError("The connection is closed")
        if not self._unanswered:
            return
        taking, self._unanswered = self._unanswered, []
        earlier, self._earlier = self._earlier, 0
        try:
            failure = self._take(taking)
        except TimeoutError:
            raise self._lose(f"no answer within {self.answer_seconds:.0f} seconds") from None
        except psycopg.Error as error:
            raise self._lose(str(error)) from error
        except BaseException:
            # Answers that nobody has taken would be the next one's.
            self.close()
            raise
        if failure is not None:
            self._raise(*failure, earlier)
        self._unconfirmed.clear()

    def _take(
        self, taking: list[Callable[[pq.abc.PGresult], None] | None]
    ) -> tuple[pq.abc.PGresult, int] | None:
        """Hand every answer to whoever wants it; the first failure, and the place of its statement."""
        handle, watch, seconds = self._handle, self._watch, self.answer_seconds
        get_result, is_busy, consume_input = handle.get_result, handle.is_busy, handle.consume_input
        handle.pipeline_sync()
        while handle.flush():
            watch.wait(seconds, writing=True)
            consume_input()
        failure: tuple[pq.abc.PGresult, int] | None = None
        taken, expected = 0, len(taking)
        while True:
            while is_busy():
                watch.wait(seconds)
                consume_input()
            answer = get_result()
            if answer is None:
                if handle.status != pq.ConnStatus.OK:
                    raise self._lose("the server hung up")
                continue
            status = answer.status
            if status == _SYNC:
                return failure
            if status == _FATAL:
                failure = failure or (answer, taken)
                if handle.status != pq.ConnStatus.OK:
                    return failure
            elif failure is None and taken < expected:
                take = taking[taken]
                if take is not None and status != _ABORTED:
                    take(answer)
            taken += 1

    def _raise(self, failure: pq.abc.PGresult, place: int, earlier: int) -> None:
        state = (failure.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        # Without the details: they repeat what users stored.
        field = failure.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or failure.error_message
        text = field.decode(errors="replace").strip()
        for key in self._unconfirmed:
            self._prepared.pop(key, None)
        self._unconfirmed.clear()
        if not state or state.startswith(_LOST) or self._handle.status != pq.ConnStatus.OK:
            raise self._lose(text)
        if place < earlier and not state.startswith(_EXHAUSTED):
            raise EarlierWriteError(f"{text} ({state})")
        raise (ExhaustedError if state.startswith(_EXHAUSTED) else StatementError)(state, text)

    def _unasked(self) -> None:
        """The server says something while nobody waits: a notice, or that it goes."""
        try:
            self._handle.consume_input()
        except psycopg.Error:
            self.close()
            if self.on_lost is not None:
                self.on_lost()

    def _lose(self, why: str) -> ConnectionLostError:
        self.close()
        return ConnectionLostError(why)

    def close(self) -> None:
        """Close the connection."""
        if not self.is_broken:
            self.is_broken = True
            self._watch.close()
            self._handle.finish()


def _resolved(settings: Mapping[str, str], pausing: Pausing) -> dict[str, str]:
    """The settings with the addresses of a host that is a name: libpq would look it up while all wait."""
    host = settings.get("host", "")
    is_name = host and not host.startswith("/") and "," not in host and "hostaddr" not in settings
    if not is_name:
        return dict(settings)
    try:
        found = pausing.addresses(host)
    except OSError as error:
        raise ConnectionLostError(f"{host} has no address: {error}") from None
    # One after the other, as libpq does with its own.
    return {**settings, "host": ",".join([host] * len(found)), "hostaddr": ",".join(found)}


def connect(settings: Mapping[str, str], pausing: Pausing, seconds: float) -> Connection:
    """A new connection. Raises ConnectionLostError with the server's or the system's own words."""
    try:
        handle = pq.PGconn.connect_start(make_conninfo(**_resolved(settings, pausing)).encode())
    except psycopg.Error as error:
        raise ConnectionLostError(str(error).strip()) from None
    until = pausing.monotonic() + seconds
    try:
        state = pq.PollingStatus.WRITING
        while state not in (pq.PollingStatus.OK, pq.PollingStatus.FAILED):
            # The socket may be another one after each step.
            watch = pausing.watch(handle.socket)
            try:
                watch.wait(until - pausing.monotonic(), writing=state == pq.PollingStatus.WRITING)
            finally:
                watch.close()
            state = pq.PollingStatus(handle.connect_poll())
        if state == pq.PollingStatus.FAILED:
            raise ConnectionLostError(handle.get_error_message().strip())
        return Connection(handle, pausing)
    except TimeoutError:
        handle.finish()
        raise ConnectionLostError(f"no answer within {seconds:.0f} seconds") from None
    except BaseException:
        handle.finish()
        raise

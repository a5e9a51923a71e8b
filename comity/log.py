"""Logs: one line a record, with the request it belongs to, and no secret in it.

    2026-01-31T12:00:00.123Z INFO comity.net.http_server [3fa9c1-2b] listening on … key=value

Owns the shape of the lines and the redaction. Decides nothing about what is logged; a
record's extras (`logger.info("joined", extra={"room": room})`) become `room=…` at its end.
A traceback follows its line, each line of it indented: a line that begins with a date is
always a new record.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import TextIO

from comity.ports import request_id

#: Characters of a message, and of a traceback, that are printed. A stranger's input may
#: find its way into either, and must not fill the disk.
MAX_TEXT_LENGTH = 16 * 1024

#: What stands in the place of a secret.
REDACTED = "<redacted>"

LEVELS = ("debug", "info", "warning", "error", "critical")

#: A value: quoted (in the manner of Python, of JSON, of JSON within JSON) or up to the next
#: space or `&`; after a quote that never closes, all that follows. What is redacted already
#: stays as it is, for a text may come by twice.
_VALUE = r"""(?:<redacted>|b?"(?:[^"\\]|\\.)*"|b?'(?:[^'\\]|\\.)*'|\\"[^"]*"|[^\s&"']+|["'].*)"""

_SECRETS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # Names that end so hold secrets wherever they stand: a query, a form, JSON, prose.
        r"(?P<kept>(?:(?:access|refresh|login|as|hs)_?token|pass(?:word|phrase)|secret|cookie"
        r"|(?:private|signing)_?key)\\*[\"']?\s*[=:]\s*)" + _VALUE,
        # Short names only as `name=value`: X-Matrix (server-server §Request Authentication)
        # and query parameters. `state_key=` and the like are another word.
        r"(?P<kept>(?<![a-z0-9_.-])(?:key|sig|token|mac)=)" + _VALUE,
        r"(?P<kept>\\?\"token\\?\"\s*:\s*)" + _VALUE,
        # The value of an Authorization header whatever its scheme, save what X-Matrix tells
        # in the open; and the schemes that carry a secret wherever they stand.
        (
            r"(?P<kept>authorization\\*[\"']?\s*[=:]\s*)(?!\s*[\"']?X-Matrix\s)"
            r"(?:<redacted>|\"[^\"]*\"|'[^']*'|.+)"
        ),
        r"(?P<kept>\bbearer\s+)[^\s\"',]{8,}",
        r"(?P<kept>\bbasic\s+)[a-z0-9+/]{4,}={0,2}",
    )
)

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

#: What every record has; anything else in one came through `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def redact(text: str) -> str:
    """`text` with the values of secrets replaced by REDACTED.

    A last net below the rule that secrets are not logged at all; it knows them by their names.
    """
    for pattern in _SECRETS:
        text = pattern.sub(rf"\g<kept>{REDACTED}", text)
    return text


class LineFormatter(logging.Formatter):
    """Records as lines; see the module's head."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, tz=UTC)
        request = request_id.get()
        line = (
            f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03d}Z {record.levelname} {record.name} "
            f"{f'[{request}] ' if request else ''}{_clean(_message(record) + _extras(record))}"
        )
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        for text in (record.exc_text, record.stack_info):
            if text:
                # The end of a traceback says most.
                lines = text[-MAX_TEXT_LENGTH:].splitlines()
                line += "".join(f"\n  | {_clean(part)}" for part in lines)
        return line


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        """Nothing: a log that cannot be written must not harm the request, and the library
        would print the record's arguments as they are."""


def configure(level: str | int, stream: TextIO | None = None) -> None:
    """Send all records from `level` on to `stream` (standard error), replacing an earlier call's.

    `level` is one of LEVELS, or a number of `logging`. Raises ValueError on another name.
    """
    if isinstance(level, str):
        if level.lower() not in LEVELS:
            raise ValueError(f"{level!r} is no log level; there are {', '.join(LEVELS)}")
        level = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _Handler):
            root.removeHandler(handler)
    handler = _Handler(sys.stderr if stream is None else stream)
    handler.setFormatter(LineFormatter())
    root.addHandler(handler)
    root.setLevel(level)
    for library in ("aiohttp", "asyncio"):  # their debug lines help nobody but their authors
        logging.getLogger(library).setLevel(max(level, logging.INFO))


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg} (its arguments do not fit)"


def _extras(record: logging.LogRecord) -> str:
    parts = []
    for name, value in vars(record).items():
        if name not in _STANDARD:
            text = redact(str(value))  # before the quoting, which would hide quotes from it
            plain = text and text.isprintable() and not any(mark in text for mark in " \"'=")
            parts.append(f" {name}={text if plain else json.dumps(text, ensure_ascii=False)}")
    return "".join(parts)


def _clean(text: str) -> str:
    """One line of bounded length, without secrets and control characters."""
    if len(text) > MAX_TEXT_LENGTH:
        text = text[:MAX_TEXT_LENGTH] + "…"
    return _CONTROL.sub(_escape, redact(text))


def _escape(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode()

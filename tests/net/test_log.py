"""Log lines: their shape, and no secret in them."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator

import pytest

from comity.log import MAX_TEXT_LENGTH, REDACTED, LineFormatter, configure, redact
from comity.ports import request_id

logger = logging.getLogger("comity.test")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """The log, configured for this test alone."""
    root = logging.getLogger()
    before = (root.level, list(root.handlers), [logging.getLogger(n).level for n in ("aiohttp", "asyncio")])
    text = io.StringIO()
    configure("debug", text)
    yield text
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    for name, level in zip(("aiohttp", "asyncio"), before[2], strict=True):
        logging.getLogger(name).setLevel(level)


def test_a_line(stream: io.StringIO) -> None:
    logger.info("joined %s in %d ms", "!a:b", 5)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO comity\.test joined !a:b in 5 ms\n", stream.getvalue()
    )


def test_a_line_of_a_request(stream: io.StringIO) -> None:
    token = request_id.set("3fa9c1-2b")
    logger.info("joined")
    request_id.reset(token)
    logger.info("left")
    assert " comity.test [3fa9c1-2b] joined\n" in stream.getvalue()
    assert " comity.test left\n" in stream.getvalue()


def test_fields_stand_at_the_end(stream: io.StringIO) -> None:
    logger.warning("sent", extra={"room": "!a:b", "count": 3, "why": 'it "said" so', "empty": ""})
    assert stream.getvalue().endswith(' sent room=!a:b count=3 why="it \\"said\\" so" empty=""\n')


def test_a_record_is_one_line_whatever_is_in_it() -> None:
    # Formatted here and not logged: what collects the logs of tests cannot take a lone surrogate.
    record = logging.makeLogRecord(
        {"msg": "one\ntwo\r\x1b[31m\u2028%s", "args": ("\udcff",), "field": "3\n4"}
    )
    (line,) = LineFormatter().format(record).splitlines()
    assert line.endswith(' one\\ntwo\\r\\x1b[31m\\u2028\\udcff field="3\\n4"')
    line.encode()


def test_a_traceback_follows_indented(stream: io.StringIO) -> None:
    try:
        raise LookupError("access_token=abc\nsecond line")
    except LookupError:
        logger.exception("it failed")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("ERROR comity.test it failed")
    assert all(line.startswith("  | ") for line in rest)
    assert rest[0] == "  | Traceback (most recent call last):"
    assert rest[-2:] == [f"  | LookupError: access_token={REDACTED}", "  | second line"]


def test_a_record_is_bounded(stream: io.StringIO) -> None:
    logger.info("a" * 1_000_000)
    assert len(stream.getvalue()) < MAX_TEXT_LENGTH + 200


def test_arguments_that_do_not_fit_harm_nobody() -> None:
    record = logging.makeLogRecord({"msg": "%d things", "args": ("no number",), "name": "comity.test"})
    assert LineFormatter().format(record).endswith(" comity.test %d things (its arguments do not fit)")


def test_a_log_that_cannot_be_written_harms_nobody(
    stream: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    stream.close()
    logger.info("password=hunter2")
    assert capsys.readouterr().err == ""


def test_levels(stream: io.StringIO) -> None:
    configure("WARNING", stream)
    logger.info("quiet")
    logger.warning("loud")
    configure(logging.DEBUG, stream)
    logger.debug("all")
    logging.getLogger("asyncio").debug("theirs")
    lines = stream.getvalue().splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["loud", "all"]  # and each only once
    with pytest.raises(ValueError, match="no log level"):
        configure("verbose")


S = "hunter2/+=é"


@pytest.mark.parametrize(
    "text",
    [
        f"GET /sync?access_token={S}&since=s1",
        f"GET /sync?since=s1&access_token={S}",
        f"Authorization: Bearer {S}",
        f"headers {{'authorization': 'Bearer {S}', 'host': 'kept'}}",
        f"(b'Authorization', b'Bearer {S}')",
        f"authorization: Custom {S} {S}",
        f'Authorization: X-Matrix origin="kept",destination="d",key="ed25519:{S}",sig="{S}"',
        f"X-Matrix origin=kept,key={S},sig={S}",
        f"Proxy-Authorization=Basic {S}",
        f"basic {S}aaaa",
        f'{{"type":"m.login.password","password":"{S}"}}',
        f'{{"password": "{S} \\" {S}", "user": "kept"}}',
        f"{{'new_password': '{S}'}}",
        f'"{{\\"password\\":\\"{S}\\",\\"user\\":\\"kept\\"}}"',
        f"password={S}",
        f"password='{S} {S}' kept",
        f"PASSWORD = {S}",
        f"registration_shared_secret: {S}",
        f"client_secret={S}&kept=1",
        f'"refresh_token":"{S}"',
        f"as_token={S}",
        f"loginToken={S}",
        f"key={S}",
        f"?token={S}",
        f'"token": "{S}"',
        f"macaroon cookie: session={S}",
        f'password="{S} and the quote never closes',
        f"signing_key=ed25519 a_1 {S}".replace("ed25519 a_1 ", ""),
    ],
)
def test_secrets_are_redacted(stream: io.StringIO, text: str) -> None:
    logger.info("before %s after", text)
    logger.info("field", extra={"field": text})
    for line in stream.getvalue().splitlines():
        assert REDACTED in line
        assert "hunter2" not in line
        assert ("kept" in line) is ("kept" in text)
    assert redact(redact(text)) == redact(text)
    assert "before " in stream.getvalue()


def test_a_field_with_a_secret_name_is_redacted(stream: io.StringIO) -> None:
    logger.info("field", extra={"password": "hunter2 and more", "access_token": "hunter2"})
    assert "hunter2" not in stream.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "state_key=@a:b",
        "unknown key: listners in comity.toml",
        "session_key changed",
        "PUT /_matrix/client/v3/account/password 200 3.1 ms",
        "the bearer was missing",
        "unknown token",
        "room=!a:b since=s1_2 sender_key=abc",
        "X-Matrix origin=a.test",
        "https://a.test:8448/path?x=1",
    ],
)
def test_what_is_no_secret_is_kept(text: str) -> None:
    assert redact(text) == text

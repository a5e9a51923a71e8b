"""How PostgreSQL is connected to, and which databases comity can use."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import psycopg
from psycopg.conninfo import conninfo_to_dict

from comity.store.database import EngineError
from comity.store.postgres_connection import Connection

_log = logging.getLogger(__name__)
#: The oldest server that has everything which is used.
LEAST_VERSION = 130_000
#: Milliseconds after which the server itself ends a transaction that we no longer use.
ABANDONED_MS = 60_000


def settings_of(url: str) -> dict[str, str]:
    """libpq's settings of a URL, with ours. Raises EngineError."""
    who, _, database = url.partition("://")[2].partition("?")[0].partition("/")
    try:
        if who.count("@") > 1 or "@" in database:
            # The library would take the rest of a password for a host, or a database's name.
            raise psycopg.ProgrammingError("an @ too many")
        settings = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    except psycopg.Error:
        # Without the library's words: they repeat the password.
        raise EngineError(
            "database.url is no URL that PostgreSQL's library understands: in a user's name and password all "
            'but letters and digits is written as %XX, such as "%40" for "@"'
        ) from None
    settings.setdefault("application_name", "comity")
    settings["client_encoding"] = "UTF8"
    # Prepared statements are planned once; what a dead client left open, the server ends.
    own = f"-c jit=off -c timezone=UTC -c idle_in_transaction_session_timeout={ABANDONED_MS}"
    settings["options"] = f"{settings.get('options', '')} {own}".strip()
    for name, seconds in (
        ("keepalives_idle", "30"),
        ("keepalives_interval", "10"),
        ("keepalives_count", "3"),
    ):
        settings.setdefault(name, seconds)
    return settings


def place_of(settings: Mapping[str, str]) -> str:
    """What the database is called in messages: no password in it."""
    where = settings.get("host") or settings.get("hostaddr") or "this machine"
    port = f":{settings['port']}" if "port" in settings else ""
    return f"{settings.get('dbname') or settings.get('user', '')} on {where}{port}"


def check(connection: Connection, place: str) -> str:
    """The server's version. Raises EngineError for a server or a database that cannot be used."""
    row = connection.rows(
        "SELECT current_setting('server_version_num')::bigint, current_setting('server_version'), "
        "current_setting('server_encoding'), "
        # Where the server does not sort by the system's locales, newer ones say so in columns of their own.
        "coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', datcollate::text), "
        "datctype::text, current_database()::text, "
        "current_setting('synchronous_commit'), current_setting('fsync') "
        "FROM pg_database AS d WHERE datname = current_database()"
    )[0]
    number, version, encoding, collation, classes, name, synchronous, fsync = row
    if number < LEAST_VERSION:
        raise EngineError(f"{place} is PostgreSQL {version}; comity needs {LEAST_VERSION // 10_000} or newer")
    if encoding != "UTF8" or collation not in ("C", "POSIX") or classes not in ("C", "POSIX"):
        raise EngineError(
            f"The database {name} has the encoding {encoding} and the locale "
            f"{' and '.join(dict.fromkeys((collation, classes)))}; comity needs "
            "UTF8 and C, so that text is stored and ordered alike everywhere. Make a new one with: "
            f"createdb --encoding=UTF8 --locale=C --template=template0 {name}"
        )
    if synchronous == "off":
        # A 200 means: on disk.
        connection.send("SET synchronous_commit = on")
        connection.wait()
    if fsync == "off":
        _log.warning("%s runs with fsync=off: it loses what it acknowledged when its machine fails", place)
    return str(version).split(" ", 1)[0]

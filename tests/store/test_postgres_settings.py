"""Which servers and databases are taken, and that no password is told where they are not."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import psycopg
import pytest

from comity.store.database import EngineError
from comity.store.postgres import PostgresDriver
from comity.store.postgres_settings import place_of, settings_of
from tests.engines import DATABASES, Pauses
from tests.store.trouble import aside

pytestmark = pytest.mark.engine("postgresql")


@contextlib.contextmanager
def a_strange_database(how: str) -> Iterator[str]:
    """The URL of a database that was made otherwise than comity wants it."""
    name = f"comity_strange_{os.getpid()}"
    with psycopg.connect(DATABASES.server(), autocommit=True) as operator:
        operator.execute(f"CREATE DATABASE {name} TEMPLATE template0 {how}")
        try:
            yield DATABASES.url(name)
        finally:
            operator.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize(
    "how",
    [
        "ENCODING 'SQL_ASCII' LOCALE 'C'",
        "ENCODING 'LATIN1' LOCALE 'C'",
        "ENCODING 'UTF8' LOCALE 'C.UTF-8'",
        "ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'",
        # Whose order the columns of old do not tell.
        "ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'en-US'",
    ],
)
def test_a_database_of_another_kind_is_refused(how: str) -> None:
    with a_strange_database(how) as url:
        with pytest.raises(
            EngineError, match="createdb --encoding=UTF8 --locale=C --template=template0"
        ) as caught:
            PostgresDriver(url, Pauses(), connections=1, exclusive=True)
        assert "comity_strange" in str(caught.value)
        with aside(url) as operator:
            assert operator.processes() == [], "nothing stays open"


def test_a_database_that_is_not_there() -> None:
    url = DATABASES.url("comity_nowhere")
    with pytest.raises(EngineError, match='"comity_nowhere" does not exist'):
        PostgresDriver(url, Pauses(), connections=1, exclusive=True)


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost:1", "two..points"])
def test_a_server_that_is_not_there(host: str) -> None:
    with pytest.raises(EngineError, match="PostgreSQL does not answer for comity on ") as caught:
        PostgresDriver(f"postgresql://comity:s3cret@{host}/comity", Pauses(), connections=1, exclusive=True)
    assert host.partition(":")[0] in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://comity:s3cret@db.example/comity",
        "postgresql://db.example/comity?user=comity&password=s3cret",
        "postgresql://:s3cret@db.example:5433/",
        "postgresql:///comity?password=s3cret&host=/run/postgresql",
        "postgresql://comity:%733cret@db.example/comity",
    ],
)
def test_a_place_names_no_password(url: str) -> None:
    settings = settings_of(url)
    assert settings["password"] == "s3cret"
    assert "s3cret" not in place_of(settings)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://comity:s3cr%et@db.example/comity",
        "postgresql://comity:s3cr@et@db.example/comity",
        "postgresql://comity:s3cr/et@db.example/comity",
        "postgresql://db.example/comity?password=s3cr%et",
        "postgresql://db.example/comity?password=s3cret&nonsense=1",
    ],
)
def test_a_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    """The commonest mistake is a password with a character that must be escaped."""
    with pytest.raises(EngineError, match=r"database\.url") as caught:
        settings_of(url)
    assert "s3cr" not in str(caught.value)
    assert "et@" not in str(caught.value)

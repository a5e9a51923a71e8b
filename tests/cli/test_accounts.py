"""`comity user` and `comity token`: on the database, whether a server is running or not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from comity.cli import main
from comity.config import load
from comity.net.system import SystemClock
from comity.store import accounts, sessions, upstream
from comity.store.database import GroupTx
from comity.store.sqlite import SqliteDriver
from comity.store.upstream import Link


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "comity.toml"
    file.write_text('server_name = "example.org"\n')
    return file


def run(config: Path, *arguments: str, given: str | None = None) -> Result:
    return CliRunner().invoke(main, [*arguments, "--config", str(config)], input=given)


def stored_user(config: Path, user_id: str) -> accounts.User | None:
    driver = SqliteDriver(load(config).database_file)
    try:
        return driver.read_now(lambda tx: accounts.user(tx, user_id))
    finally:
        driver.close_now()


def test_an_account_is_made(config: Path) -> None:
    result = run(config, "user", "add", "alice", "--password", "wonderland")
    assert (result.exit_code, result.output) == (0, "@alice:example.org is there.\n")
    user = stored_user(config, "@alice:example.org")
    assert user is not None
    assert not user.admin
    assert user.password_hash is not None
    assert user.password_hash.startswith("$argon2id$")
    assert "wonderland" not in user.password_hash


def test_an_administrator(config: Path) -> None:
    assert run(config, "user", "add", "root", "--password", "x", "--admin").exit_code == 0
    user = stored_user(config, "@root:example.org")
    assert user is not None
    assert user.admin
    assert run(config, "user", "list").output == "@root:example.org  admin\n"


def test_an_account_is_locked_and_suspended_and_neither(config: Path) -> None:
    assert run(config, "user", "add", "alice", "--password", "x").exit_code == 0
    assert run(config, "user", "lock", "alice").output == "@alice:example.org is locked.\n"
    assert run(config, "user", "suspend", "@alice:example.org").output == "@alice:example.org is suspended.\n"
    assert run(config, "user", "list").output == "@alice:example.org  suspended  locked\n"
    assert run(config, "user", "lock", "alice", "--undo").output == "@alice:example.org is unlocked.\n"
    undone = run(config, "user", "suspend", "alice", "--undo")
    assert undone.output == "@alice:example.org is not suspended any more.\n"
    assert run(config, "user", "list").output == "@alice:example.org\n"
    nobody = run(config, "user", "lock", "nobody")
    assert nobody.exit_code == 1
    assert "There is no user nobody on this server" in nobody.output


def test_an_account_gets_another_password(config: Path) -> None:
    run(config, "user", "add", "alice", "--password", "x")
    before = stored_user(config, "@alice:example.org")
    assert run(config, "user", "password", "alice", given="y\n").output == (
        "@alice:example.org has another password.\n"
    )
    after = stored_user(config, "@alice:example.org")
    assert before is not None and after is not None
    assert before.password_hash != after.password_hash
    logged_out = run(config, "user", "password", "alice", "--password", "z", "--log-out")
    assert logged_out.output == "@alice:example.org has another password and is logged out.\n"
    assert "devices are to be deleted" in run(config, "user", "show", "alice").output


def test_a_hash_from_elsewhere(config: Path) -> None:
    hashed = "$2b$04$" + "a" * 53
    assert run(config, "user", "add", "alice", "--hash", hashed).exit_code == 0
    user = stored_user(config, "@alice:example.org")
    assert user is not None
    assert user.password_hash == hashed
    other = "$2y$05$" + "b" * 53
    assert run(config, "user", "password", "alice", "--hash", other).exit_code == 0
    assert "bcrypt" in run(config, "user", "add", "bob", "--hash", "md5").stderr
    both = run(config, "user", "add", "bob", "--hash", hashed, "--password", "x")
    assert both.exit_code == 2
    assert run(config, "user", "list").output == "@alice:example.org\n"


def test_an_account_ends(config: Path) -> None:
    run(config, "user", "add", "alice", "--password", "x")
    assert run(config, "user", "deactivate", "alice", given="n\n").exit_code == 1
    assert run(config, "user", "list").output == "@alice:example.org\n"
    ended = run(config, "user", "deactivate", "alice", "--erase", given="y\n")
    assert "@alice:example.org is deactivated." in ended.output
    assert run(config, "user", "list").output == "@alice:example.org  deactivated\n"
    shown = run(config, "user", "show", "alice").output
    assert "no password lets in" in shown
    assert "what is kept for it is to be deleted since 20" in shown
    assert run(config, "user", "deactivate", "alice", "--yes").exit_code == 1


def test_an_administrator_is_made_and_unmade(config: Path) -> None:
    run(config, "user", "add", "alice", "--password", "x")
    assert run(config, "user", "admin", "alice").output == "@alice:example.org is an administrator.\n"
    assert run(config, "user", "list").output == "@alice:example.org  admin\n"
    undone = run(config, "user", "admin", "alice", "--undo").output
    assert undone == "@alice:example.org is no administrator any more.\n"
    assert run(config, "user", "list").output == "@alice:example.org\n"


def test_sessions_are_shown_harmless_and_ended(config: Path) -> None:
    run(config, "user", "add", "alice", "--password", "x")
    driver = SqliteDriver(load(config).database_file)

    def store(tx: GroupTx) -> None:
        accounts.insert_device(tx, "@alice:example.org", "PHONE", "My \x1b[31mphone", 1_700_000_000_000)
        accounts.insert_device(tx, "@alice:example.org", "DESK", None, 1_700_000_000_001)
        accounts.touch_device(tx, "@alice:example.org", "DESK", 1_700_000_100_000, "192.0.2.1")
        sessions.note_connection(
            tx, "@alice:example.org", "DESK", "192.0.2.1", "A program", 1_700_000_100_000, 10
        )

    driver.write_now(store)
    driver.close_now()
    assert run(config, "user", "sessions", "alice").output.splitlines() == [
        "PHONE  never seen  My \\x1b[31mphone",
        "DESK  seen 2023-11-14 22:15:00 UTC",
        "    2023-11-14 22:15:00 UTC  192.0.2.1  A program",
    ]
    assert run(config, "user", "log-out", "alice").output == "@alice:example.org is logged out.\n"
    assert run(config, "user", "sessions", "nobody").exit_code == 1


def test_links_to_providers_are_shown_and_ended(config: Path) -> None:
    assert run(config, "user", "add", "alice", "--password", "x").exit_code == 0
    issuer = "https://accounts.example.com"
    driver = SqliteDriver(load(config).database_file)
    driver.write_now(
        lambda tx: upstream.insert(tx, Link(issuer, "1", "@alice:example.org", "al\x1b[2Jice", 1))
    )
    driver.close_now()
    assert run(config, "user", "list").output == "@alice:example.org  linked\n"
    shown = run(config, "user", "show", "alice").output
    assert f"linked since 1970-01-01 00:00:00 UTC to al\\x1b[2Jice at {issuer}\n" in shown
    assert run(config, "user", "unlink", "alice", issuer).output == "@alice:example.org is unlinked.\n"
    again = run(config, "user", "unlink", "alice", issuer)
    assert again.output == f"@alice:example.org has no link to {issuer}.\n"
    assert run(config, "user", "list").output == "@alice:example.org\n"
    assert run(config, "user", "unlink", "nobody", issuer).exit_code == 1


def test_hashes_cost_what_is_configured(config: Path) -> None:
    config.write_text('server_name = "example.org"\n[passwords]\nmemory_kib = 64\niterations = 3\n')
    assert run(config, "user", "add", "alice", "--password", "x").exit_code == 0
    user = stored_user(config, "@alice:example.org")
    assert user is not None
    assert "m=64,t=3,p=1" in (user.password_hash or "")


def test_a_password_from_a_script(config: Path) -> None:
    assert run(config, "user", "add", "alice", given="wonderland\n").exit_code == 0
    assert run(config, "user", "list").output == "@alice:example.org\n"


@pytest.mark.parametrize(
    ("name", "password", "said"),
    [
        ("alice", "x", "taken"),
        ("not a name", "x", "made of"),
        ("bob", "", "password"),
        ("bob", "x" * 10_000, "password"),
    ],
)
def test_an_account_that_cannot_be(config: Path, name: str, password: str, said: str) -> None:
    run(config, "user", "add", "alice", "--password", "x")
    result = run(config, "user", "add", name, "--password", password)
    assert result.exit_code == 1
    assert said in result.stderr
    assert run(config, "user", "list").output == "@alice:example.org\n"


def test_beside_a_database_in_use(config: Path) -> None:
    run(config, "user", "add", "alice", "--password", "x")
    server = SqliteDriver(load(config).database_file)
    try:
        assert run(config, "user", "add", "bob", "--password", "x").exit_code == 0
        assert len(server.read_now(accounts.users)) == 2
    finally:
        server.close_now()


def test_tokens(config: Path) -> None:
    made_up = run(config, "token", "add").output.strip()
    assert re.fullmatch(r"[A-Za-z0-9]{20}", made_up)
    assert run(config, "token", "add", "spring", "--uses", "3", "--days", "2").output == "spring\n"
    listed = run(config, "token", "list").output.splitlines()
    assert f"{made_up}  used 0  without end" in listed
    assert any(
        re.fullmatch(r"spring  used 0 of 3  until 20\d\d-\d\d-\d\d \d\d:\d\d UTC", line) for line in listed
    )


def test_a_token_is_deleted(config: Path) -> None:
    run(config, "token", "add", "spring")
    assert run(config, "token", "delete", "spring").output == "The token is good no more.\n"
    assert run(config, "token", "list").output == ""
    assert run(config, "token", "delete", "spring").exit_code == 1


def test_a_token_ends_when_it_was_said(config: Path) -> None:
    before = SystemClock().now_ms()
    run(config, "token", "add", "spring", "--days", "0.5")
    driver = SqliteDriver(load(config).database_file)
    token = driver.read_now(lambda tx: accounts.registration_token(tx, "spring"))
    driver.close_now()
    assert token is not None
    assert token.is_valid(before + 11 * 3600 * 1000)
    assert not token.is_valid(before + 13 * 3600 * 1000)


@pytest.mark.parametrize(
    "arguments", [("spring",), ("a b",), ("spring2", "--uses", "0"), ("x", "--days", "0")]
)
def test_a_token_that_cannot_be(config: Path, arguments: tuple[str, ...]) -> None:
    run(config, "token", "add", "spring")
    assert run(config, "token", "add", *arguments).exit_code in (1, 2)
    assert len(run(config, "token", "list").output.splitlines()) == 1


def test_a_signing_key_is_made_with_the_database(config: Path) -> None:
    run(config, "user", "list")
    assert load(config).signing_key_file.stat().st_mode & 0o777 == 0o600


def test_a_database_without_its_key_is_left_alone(config: Path) -> None:
    run(config, "user", "list")
    load(config).signing_key_file.unlink()
    result = run(config, "user", "add", "alice", "--password", "x")
    assert result.exit_code == 1
    assert "put the key back from a backup" in result.stderr


def test_a_file_that_is_no_database(config: Path) -> None:
    run(config, "user", "list")
    database = load(config).database_file
    for file in database.parent.glob("comity.db*"):
        file.unlink()
    database.write_text("this is no database at all, whatever its name says\n" * 100)
    result = run(config, "user", "list")
    assert result.exit_code == 1
    assert "cannot be used" in result.stderr


def test_a_configuration_that_is_wrong(config: Path) -> None:
    config.write_text('server_name = "example.org"\n[rooms]\ndefault_verson = "12"\n')
    result = run(config, "user", "list")
    assert result.exit_code == 2
    assert "rooms.default_verson: there is no such key; the nearest is rooms.default_version" in result.stderr


def test_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["user", "list"])
    assert result.exit_code == 2
    assert "comity init" in result.stderr


def test_the_usual_place(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(config.parent)
    assert CliRunner().invoke(main, ["user", "add", "alice", "--password", "x"]).exit_code == 0


def test_a_notice_needs_somebody_to_speak_as(config: Path) -> None:
    run(config, "user", "add", "alice", "--password", "x")
    result = run(config, "notice", "alice", "Hello")
    assert result.exit_code == 1
    assert "server_notices.localpart" in result.output
    config.write_text(config.read_text() + '[server_notices]\nlocalpart = "notices"\n')
    assert run(config, "notice", "alice", "Hello").output.startswith(
        "The server will tell @alice:example.org "
    )
    result = run(config, "notice", "bob", "Hello")
    assert (result.exit_code, "There is no user bob" in result.output) == (1, True)

"""What the operator does at the command line, beside a server that runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comity.protocol.errors import MatrixError
from comity.store.database import Database
from comity.users.administration import Administration
from comity.users.interactive import MAX_SESSIONS, Interactive
from comity.users.passwords import Passwords
from tests.api.support_users import SERVER, InlineOffload, SeededEntropy, TurnedClock, UserServer, user_server
from tests.engines import a_driver_of


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[UserServer]:
    async with user_server(tmp_path) as built:
        yield built


@pytest.fixture
async def administration(server: UserServer, tmp_path: Path) -> AsyncIterator[Administration]:
    """The command line's own connection to the database of the server that runs."""
    database = Database(a_driver_of(tmp_path, exclusive=False), 0)
    yield Administration(database, InlineOffload(), TurnedClock(), SeededEntropy(2), SERVER)
    await database.close()


async def test_users_are_added_and_listed(server: UserServer, administration: Administration) -> None:
    assert await administration.add_user("alice", "secret", admin=True) == f"@alice:{SERVER}"
    assert await administration.add_user(f"@Bob:{SERVER}", "secret") == f"@bob:{SERVER}"
    listed = [(user.user_id, user.admin, user.deactivated) for user in await administration.users()]
    assert listed == [(f"@alice:{SERVER}", True, False), (f"@bob:{SERVER}", False, False)]
    # The server that runs knows them at once.
    token = await server.log_in("alice", password="secret")
    session = await server.sessions.authenticate(token, "192.0.2.1")
    assert session is not None
    assert session.admin
    for name, code in (
        ("alice", "M_USER_IN_USE"),
        ("a b", "M_INVALID_USERNAME"),
        ("@alice:other.org", "M_INVALID_USERNAME"),
    ):
        with pytest.raises(MatrixError) as caught:
            await administration.add_user(name, "secret")
        assert caught.value.code == code


async def test_registration_tokens(administration: Administration) -> None:
    made_up = await administration.add_registration_token()
    await administration.add_registration_token("invite", uses_allowed=3, expires_at=99)
    tokens = {
        token.token: (token.uses_allowed, token.used, token.expires_at)
        for token in await administration.registration_tokens()
    }
    assert tokens == {made_up: (None, 0, None), "invite": (3, 0, 99)}
    for token, uses in (("invite", None), ("not good", None), ("x" * 65, None), ("fine", 0)):
        with pytest.raises(MatrixError):
            await administration.add_registration_token(token, uses_allowed=uses)


async def test_a_registration_token_ends(administration: Administration) -> None:
    await administration.add_registration_token("invite")
    await administration.delete_registration_token("invite")
    assert await administration.registration_tokens() == []
    with pytest.raises(MatrixError) as caught:
        await administration.delete_registration_token("invite")
    assert caught.value.code == "M_NOT_FOUND"


async def test_passwords_at_their_real_cost() -> None:
    passwords = Passwords(InlineOffload(), SeededEntropy())
    one, two = await passwords.hash("secret"), await passwords.hash("secret")
    assert one != two
    assert one.startswith("$argon2id$")
    assert await passwords.matches(one, "secret")
    assert not await passwords.matches(one, "Secret")
    assert not await passwords.matches(None, "secret")
    assert not await passwords.matches("no hash at all", "secret")
    assert not passwords.is_outdated(one, "secret")


async def test_the_oldest_interactive_session_goes_when_there_are_too_many() -> None:
    interactive = Interactive(TurnedClock(), SeededEntropy())

    async def prove(stage: str, auth: object) -> None:
        return None

    async def session() -> str:
        with pytest.raises(MatrixError) as caught:
            await interactive.require("register", [["m.login.dummy"]], {}, prove)
        return str(caught.value.body()["session"])

    first, second = await session(), await session()
    for _ in range(MAX_SESSIONS - 1):
        await session()
    auth = {"type": "m.login.dummy"}
    proven = await interactive.require(
        "register", [["m.login.dummy"]], {"auth": {**auth, "session": second}}, prove
    )
    assert proven.session_id == second
    with pytest.raises(MatrixError) as caught:
        await interactive.require(
            "register", [["m.login.dummy"]], {"auth": {**auth, "session": first}}, prove
        )
    assert caught.value.code == "M_UNAUTHORIZED"

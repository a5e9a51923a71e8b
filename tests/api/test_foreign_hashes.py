"""Passwords whose hashes were made elsewhere, and come with accounts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import bcrypt
import pytest

from comity.protocol.errors import MatrixError
from comity.store import accounts as stored
from comity.users.administration import Administration
from comity.users.foreign_hashes import MAX_BCRYPT_COST, MAX_HASH_CHARACTERS
from comity.users.passwords import Passwords
from tests.api.support_users import (
    CHEAP,
    SERVER,
    Answer,
    InlineOffload,
    SeededEntropy,
    UserServer,
    user_server,
)

ALICE = f"@alice:{SERVER}"
SECRET = "correct horse battery staple"
#: The cheapest that bcrypt makes.
ROUNDS = 4


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[UserServer]:
    async with user_server(tmp_path) as built:
        yield built


@pytest.fixture
def administration(server: UserServer) -> Administration:
    return Administration(server.database, InlineOffload(), server.clock, SeededEntropy(9), SERVER, CHEAP)


def hashed(password: str, prefix: str = "$2b$") -> str:
    """What another server stored of a password."""
    made = bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(ROUNDS)).decode()
    return prefix + made.removeprefix("$2b$")


def hash_of_alice(server: UserServer) -> str:
    """What is stored now."""
    user = server.database.read_now(lambda tx: stored.user(tx, ALICE))
    assert user is not None
    assert user.password_hash is not None
    return user.password_hash


async def try_password(server: UserServer, password: str) -> Answer:
    body = {"type": "m.login.password", "user": "alice", "password": password}
    return await server.ask("POST", "/login", body)


@pytest.mark.parametrize("prefix", ["$2a$", "$2b$", "$2y$"])
async def test_it_lets_in_and_is_replaced(
    server: UserServer, administration: Administration, prefix: str
) -> None:
    await administration.add_user("alice", None, brought=hashed(SECRET, prefix))
    (await try_password(server, "Correct horse battery staple")).failed(403, "M_FORBIDDEN")
    assert hash_of_alice(server).startswith(prefix)
    (await try_password(server, SECRET)).ok()
    assert hash_of_alice(server).startswith("$argon2id$")
    (await try_password(server, SECRET)).ok()
    (await try_password(server, "Correct horse battery staple")).failed(403, "M_FORBIDDEN")


async def test_of_a_long_password_72_bytes_count_and_it_stays(
    server: UserServer, administration: Administration
) -> None:
    # é has two bytes: the 72nd byte is within the password, not at its end.
    long = "é" * 36 + "what bcrypt does not read"
    await administration.add_user("alice", None, brought=hashed(long))
    (await try_password(server, "é" * 35 + "what bcrypt does not read")).failed(403, "M_FORBIDDEN")
    (await try_password(server, "é" * 36 + "a slip")).ok()
    assert hash_of_alice(server).startswith("$2b$")
    (await try_password(server, long)).ok()
    # One of just as many bytes is read whole.
    exact = "x" * 72
    await administration.set_password("alice", None, brought=hashed(exact))
    (await try_password(server, exact)).ok()
    assert hash_of_alice(server).startswith("$argon2id$")


async def test_a_password_that_was_normalised_elsewhere(
    server: UserServer, administration: Administration
) -> None:
    # The ligature "fi", of which the normal form KC makes two letters.
    await administration.add_user("alice", None, brought=hashed("five"))
    (await try_password(server, "\ufb01ve")).ok()
    (await try_password(server, "\ufb01ve")).ok()


async def test_what_is_no_hash_of_theirs_is_refused(
    server: UserServer, administration: Administration
) -> None:
    good = hashed(SECRET)
    for bad in (
        "",
        SECRET,
        good[:-1],
        good + "x",
        good.replace("$2b$", "$2x$"),
        good.replace("$04$", "$03$"),
        good.replace("$04$", f"${MAX_BCRYPT_COST + 1}$"),
        "$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHRzb21l$aGFzaGhhc2hoYXNoaGFzaA",
        "$argon2id$v=19$m=64,t=9999,p=1$c29tZXNhbHRzb21l$aGFzaGhhc2hoYXNoaGFzaA",
        "x" * (MAX_HASH_CHARACTERS + 1),
    ):
        with pytest.raises(MatrixError) as caught:
            await administration.add_user("alice", None, brought=bad)
        assert caught.value.code == "M_INVALID_PARAM"
    assert await administration.users() == []
    await administration.add_user("alice", "x")
    with pytest.raises(MatrixError):
        await administration.set_password("alice", None, brought="nonsense")
    (await try_password(server, "x")).ok()


async def test_a_hash_that_was_spoilt_lets_nobody_in() -> None:
    passwords = Passwords(InlineOffload(), SeededEntropy(), CHEAP)
    good = hashed(SECRET)
    assert await passwords.matches(good, SECRET)
    for spoilt in ("$2", "$2b$04$", good[:-1], good.replace("$04$", "$31$"), good + "\0"):
        assert not await passwords.matches(spoilt, SECRET)
    # Longer than any password, and cut off within a character.
    assert not await passwords.matches(good, "é" * 400)
    assert not await passwords.matches(good, "a\0b")


async def test_an_argon2_hash_of_another_cost_is_taken(
    server: UserServer, administration: Administration
) -> None:
    import argon2

    brought = argon2.PasswordHasher(time_cost=3, memory_cost=32, parallelism=1).hash(SECRET)
    await administration.add_user("alice", None, brought=brought)
    (await try_password(server, SECRET)).ok()
    assert hash_of_alice(server) != brought
    (await try_password(server, SECRET)).ok()

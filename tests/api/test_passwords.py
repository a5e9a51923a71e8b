"""Passwords that change while somebody logs in, what hashes cost, and many logins at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from comity.config import loads
from comity.protocol.errors import MatrixError
from comity.store import accounts as stored
from comity.users.accounts import Accounts
from comity.users.login import Login
from comity.users.passwords import BUSY_MS, MAX_CONCURRENT_HASHES, MAX_WAITING_HASHES, Passwords, cost_of
from comity.users.rate_limits import RateLimits
from tests.api.support_rooms import LIMITED, place
from tests.api.support_users import CHEAP, PASSWORD, SERVER, SeededEntropy, UserServer, user_server
from tests.engines import quiet

T = TypeVar("T")
ALICE = f"@alice:{SERVER}"
LOGIN = {"type": "m.login.password", "user": "alice", "password": PASSWORD}
#: The password that `Place.client` gives.
LOGIN_AS_ALICE = {"type": "m.login.password", "user": "alice", "password": "correct horse"}
STORM = 200
PROOF = {"type": "m.login.password", "password": PASSWORD}


class HeldOffload:
    """`ports.Offload` whose jobs end when the test lets them."""

    def __init__(self) -> None:
        self.held: list[asyncio.Future[None]] = []
        self.most = 0

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.held.append(future)
        self.most = max(self.most, len(self.held))
        try:
            await future
        finally:
            self.held.remove(future)
        return function(*arguments)

    async def until_held(self, number: int = 1) -> None:
        """Wait until so many jobs are held."""
        for _ in range(1_000):
            if len(self.held) >= number:
                return
            await quiet(5)
        raise AssertionError("nothing is held")

    def let_go(self) -> None:
        """Let all that are held end."""
        for future in self.held:
            if not future.done():
                future.set_result(None)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[UserServer]:
    async with user_server(tmp_path) as built:
        yield built


def slow_login(server: UserServer, offload: HeldOffload) -> Login:
    """Another way in to the same accounts, whose hashes are worked out when the test wants."""
    passwords = Passwords(offload, SeededEntropy(7), CHEAP)
    accounts = Accounts(server.database, passwords, server.clock, server.entropy, SERVER)
    limits = RateLimits(server.clock, server.config.rate_limits)
    return Login(server.database, accounts, server.sessions, limits, server.clock)


async def finished(offload: HeldOffload, task: asyncio.Task[T]) -> T:
    """Let jobs end until the task has."""
    while not task.done():
        offload.let_go()
        await asyncio.sleep(0)
    return await task


@pytest.mark.parametrize("how", ["password", "deactivate"])
async def test_a_login_that_overlaps_opens_nothing_behind_a_new_password(
    server: UserServer, how: str
) -> None:
    token = await server.user("alice")
    offload = HeldOffload()
    login = slow_login(server, offload)
    logging_in = asyncio.create_task(login.log_in(LOGIN, "192.0.2.1"))
    # The old password is being compared with the old hash, and meanwhile it is replaced.
    await offload.until_held()
    body = {"new_password": "another one", "auth": PROOF}
    (await server.ask("POST", f"/account/{how}", body, token=token)).ok()
    with pytest.raises(MatrixError) as caught:
        await finished(offload, logging_in)
    assert caught.value.status == 403
    devices = server.database.read_now(lambda tx: stored.devices(tx, ALICE))
    assert len(devices) == (1 if how == "password" else 0)


async def test_a_hash_that_another_login_renews_is_no_wrong_password(server: UserServer) -> None:
    import argon2

    await server.user("alice")
    dear = argon2.PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(PASSWORD)
    await server.database.write(lambda tx: stored.set_password_hash(tx, ALICE, dear))
    offload = HeldOffload()
    login = slow_login(server, offload)
    logins = [asyncio.create_task(login.log_in(LOGIN, "192.0.2.1")) for _ in range(3)]
    opened = [await finished(offload, task) for task in logins]
    assert {one.user_id for one in opened} == {ALICE}
    assert server.database.read_now(lambda tx: stored.has_password_hash(tx, ALICE, dear)) is False


async def test_logins_wait_for_their_turn_and_not_without_end() -> None:
    offload = HeldOffload()
    passwords = Passwords(offload, SeededEntropy(), CHEAP)
    tasks = [
        asyncio.create_task(passwords.hash("secret"))
        for _ in range(MAX_CONCURRENT_HASHES + MAX_WAITING_HASHES)
    ]
    await offload.until_held(MAX_CONCURRENT_HASHES)
    await quiet(5)
    with pytest.raises(MatrixError) as caught:
        await passwords.hash("one too many")
    assert (caught.value.status, caught.value.code) == (429, "M_LIMIT_EXCEEDED")
    hashes = [await finished(offload, task) for task in tasks]
    assert len(set(hashes)) == len(tasks)
    assert offload.most == MAX_CONCURRENT_HASHES
    again = asyncio.create_task(passwords.hash("secret"))
    assert (await finished(offload, again)).startswith("$argon2id$")


@pytest.mark.parametrize(
    ("changes", "let_in"),
    [({}, MAX_CONCURRENT_HASHES + MAX_WAITING_HASHES), (LIMITED, 10)],
    ids=["without limits", "by default"],
)
async def test_a_storm_of_logins_holds_up_nobody_else(
    tmp_path: Path, changes: dict[str, str], let_in: int
) -> None:
    offload = HeldOffload()
    settings = "[passwords]\nmemory_kib = 8\niterations = 1\n"
    async with place(tmp_path, settings=settings, changes=changes, patient=offload) as server:
        alice = await finished(offload, asyncio.create_task(server.client("alice")))
        room = await alice.create()
        storm = [asyncio.create_task(alice.ask("POST", "/login", LOGIN_AS_ALICE)) for _ in range(STORM)]
        await offload.until_held()
        # No hash ends, and who is logged in is answered all the same.
        for number in range(20):
            (await alice.ask("GET", "/_matrix/client/versions")).ok()
            assert await alice.say(room, f"{number}")
        refused = [task.result() for task in storm if task.done()]
        assert len(refused) == STORM - let_in
        for answer in refused:
            told = answer.failed(429, "M_LIMIT_EXCEEDED")["retry_after_ms"]
            assert answer.headers["Retry-After"] == str(-(-told // 1000))
        answers = [await finished(offload, task) for task in storm]
        assert sum(answer.status == 200 for answer in answers) == let_in
        assert offload.most == MAX_CONCURRENT_HASHES


async def test_who_is_turned_away_is_not_told_to_come_again_at_the_same_time() -> None:
    offload = HeldOffload()
    passwords = Passwords(offload, SeededEntropy(), CHEAP)
    hashing = [asyncio.create_task(passwords.hash("secret")) for _ in range(MAX_WAITING_HASHES * 2)]
    await offload.until_held(MAX_CONCURRENT_HASHES)
    await quiet(5)
    refused = [task.exception() for task in hashing if task.done()]
    waits = {error.extra["retry_after_ms"] for error in refused if isinstance(error, MatrixError)}
    assert len(waits) > len(refused) / 2
    assert all(BUSY_MS <= int(str(wait)) < 2 * BUSY_MS for wait in waits)
    for task in hashing:
        if not task.done():
            await finished(offload, task)


async def test_no_account_costs_the_same_work_and_no_more() -> None:
    offload = HeldOffload()
    passwords = Passwords(offload, SeededEntropy(), CHEAP)
    hashed = await finished(offload, asyncio.create_task(passwords.hash("secret")))
    for held, right in ((hashed, True), (None, False)):
        matching = asyncio.create_task(passwords.matches(held, "secret"))
        await offload.until_held(1)
        offload.let_go()
        await quiet(5)
        assert matching.done()
        assert matching.result() is right


async def test_hashes_cost_what_is_configured() -> None:
    text = f'server_name = "{SERVER}"\n[passwords]\nmemory_kib = 64\niterations = 3\n'
    offload = HeldOffload()
    passwords = Passwords(offload, SeededEntropy(), cost_of(loads(text, Path("/")).passwords))
    made = await finished(offload, asyncio.create_task(passwords.hash("secret")))
    assert "m=64,t=3,p=1" in made

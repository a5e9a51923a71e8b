"""Functions that pause: others run meanwhile, what was begun is ended, nobody is woken for another."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator

import greenlet
import pytest

from comity.net import pausing as net_pausing
from comity.net.pausing import GreenletPausing
from comity.ports import Watch, request_id

#: Longer than any test: who waits so long is woken by what the test is about, or never.
LONG = 60.0


class Unlucky(Exception):
    """What a function raises in these tests."""


class Grave(BaseException):
    """What no `except Exception` catches."""


class Pair:
    """Two sockets that are connected; `ours` is the one that is watched."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.theirs.setblocking(False)

    def close(self) -> None:
        """Close both."""
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has waited too long is looked for often."""
    monkeypatch.setattr(net_pausing, "SWEEP_SECONDS", 0.001)


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until something has come true."""
    async with asyncio.timeout(10):
        while True:
            if condition():
                return
            await asyncio.sleep(0)


async def turns(count: int = 50) -> None:
    """Let everybody run who can."""
    for _ in range(count):
        await asyncio.sleep(0)


def in_turn(*functions: Callable[[], object]) -> Callable[[], object]:
    """A function that does one after the other; what the last returns."""

    def function() -> object:
        return [each() for each in functions][-1]

    return function


def begin(pausing: GreenletPausing, function: Callable[[], object]) -> asyncio.Task[object]:
    """Run a function beside the test."""

    async def run() -> object:
        return await pausing.run(function)

    return asyncio.get_running_loop().create_task(run())


# -- what comes out


async def test_others_run_while_a_function_waits(pair: Pair) -> None:
    pausing = GreenletPausing()
    watch = pausing.watch(pair.ours.fileno())
    told: list[str] = []

    def function() -> bytes:
        told.append("begun")
        watch.wait(LONG)
        told.append("goes on")
        return pair.ours.recv(10)

    task = begin(pausing, function)
    await until(lambda: pausing.is_waiting)
    told.append("others")
    pair.theirs.send(b"here")
    assert await task == b"here"
    assert told == ["begun", "others", "goes on"]
    assert not pausing.is_waiting
    watch.close()


async def test_a_function_that_need_not_wait_runs_at_one_go() -> None:
    told: list[str] = []
    asyncio.get_running_loop().call_soon(told.append, "another")
    assert await GreenletPausing().run(lambda: 5) == 5
    assert told == []


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("kind", [Unlucky, Grave, TimeoutError])
async def test_what_a_function_raises_comes_out(pair: Pair, kind: type[BaseException], waits: bool) -> None:
    pausing = GreenletPausing()
    watch = pausing.watch(pair.ours.fileno())
    error = kind("so it is")

    def function() -> None:
        if waits:
            watch.wait(LONG)
        raise error

    pair.theirs.send(b"1")
    with pytest.raises(kind, match="so it is") as caught:
        await pausing.run(function)
    assert caught.value is error
    watch.close()


@pytest.mark.parametrize("waits", [False, True])
async def test_an_iterator_that_ends_is_no_end_of_the_caller(pair: Pair, waits: bool) -> None:
    """A coroutine cannot raise StopIteration, nor a future hold it."""
    pausing = GreenletPausing()
    watch = pausing.watch(pair.ours.fileno())

    def function() -> object:
        if waits:
            watch.wait(LONG)
        return next(iter([]))

    pair.theirs.send(b"1")
    with pytest.raises(RuntimeError, match="StopIteration"):
        await pausing.run(function)
    watch.close()


async def test_many_at_once_each_get_their_own() -> None:
    pausing = GreenletPausing()
    pairs = [Pair() for _ in range(200)]
    order: list[int] = []

    def function(number: int) -> bytes:
        watch = pausing.watch(pairs[number].ours.fileno())
        found = b""
        while len(found) < 3:
            watch.wait(LONG)
            found += pairs[number].ours.recv(1)
        order.append(number)
        watch.close()
        return found

    tasks = [begin(pausing, lambda number=number: function(number)) for number in range(200)]  # type: ignore[misc]
    await turns()
    for part in range(3):
        for number in reversed(range(200)):
            pairs[number].theirs.send(bytes([number]))
        await turns(part)
    assert [await task for task in tasks] == [bytes([number]) * 3 for number in range(200)]
    assert sorted(order) == list(range(200))
    for each in pairs:
        each.close()


async def test_the_request_is_known_inside_and_stays_outside(pair: Pair) -> None:
    pausing = GreenletPausing()
    other = Pair()
    seen: dict[str, list[str]] = {"a": [], "b": []}

    def function(name: str, watched: Pair) -> None:
        watch = pausing.watch(watched.ours.fileno())
        seen[name].append(request_id.get())
        watch.wait(LONG)
        seen[name].append(request_id.get())
        request_id.set(name + " was here")
        watch.wait(LONG)
        seen[name].append(request_id.get())
        watch.close()

    async def request(name: str, watched: Pair) -> str:
        request_id.set(name)
        await pausing.run(lambda: function(name, watched))
        return request_id.get()

    request_id.set("the test")
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(request("a", pair)), loop.create_task(request("b", other))]
    await turns()
    other.theirs.send(b"1")
    pair.theirs.send(b"1")
    assert await asyncio.gather(*tasks) == ["a", "b"]
    assert seen == {"a": ["a", "a", "a was here"], "b": ["b", "b", "b was here"]}
    assert request_id.get() == "the test"
    other.close()


# -- who is cancelled


@pytest.mark.parametrize("cancels", [1, 2])
@pytest.mark.parametrize("fails", [False, True])
async def test_what_was_begun_is_ended_before_the_caller_is(pair: Pair, cancels: int, fails: bool) -> None:
    pausing = GreenletPausing()
    watch = pausing.watch(pair.ours.fileno())
    told: list[str] = []

    def function() -> None:
        for step in ("first", "second"):
            watch.wait(LONG)
            pair.ours.recv(1)
            told.append(step)
        if fails:
            raise Unlucky

    task = begin(pausing, function)
    await until(lambda: pausing.is_waiting)
    for _ in range(cancels):
        task.cancel()
        await turns()
    assert not task.done()
    pair.theirs.send(b"1")
    await until(lambda: told == ["first"])
    await turns()
    assert not task.done()
    pair.theirs.send(b"1")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == ["first", "second"]
    watch.close()


async def test_a_time_limit_of_the_caller_is_told_when_it_has_ended(pair: Pair) -> None:
    pausing = GreenletPausing()
    watch = pausing.watch(pair.ours.fileno())
    ended: list[bool] = []

    async def caller() -> None:
        async with asyncio.timeout(0):
            await pausing.run(in_turn(lambda: watch.wait(LONG), lambda: ended.append(True)))

    task = asyncio.get_running_loop().create_task(caller())
    await until(lambda: pausing.is_waiting)
    await turns()
    assert not task.done()
    pair.theirs.send(b"1")
    with pytest.raises(TimeoutError):
        await task
    assert ended == [True]
    watch.close()


# -- sockets


async def test_who_waits_too_long_is_told_and_may_wait_again(pair: Pair, impatient: None) -> None:
    pausing = GreenletPausing()
    watch = pausing.watch(pair.ours.fileno())

    told: list[str] = []

    def function() -> bytes:
        for seconds in (0.0, -1.0):
            with pytest.raises(TimeoutError):
                watch.wait(seconds)
            told.append("too long")
        watch.wait(LONG)
        return pair.ours.recv(10)

    task = begin(pausing, function)
    other = Pair()
    beside = begin(pausing, lambda: pausing.watch(other.ours.fileno()).wait(LONG))
    await until(lambda: len(told) == 2)
    await turns()
    assert not task.done()
    assert not beside.done(), "only who has waited too long is woken"
    pair.theirs.send(b"late")
    assert await task == b"late"
    other.theirs.send(b"1")
    await beside
    # Whoever did not close its watch leaves no trace once there is something to read and nobody asks.
    await until(lambda: not asyncio.get_running_loop().remove_reader(other.ours.fileno()))
    watch.close()
    other.close()


async def fill(sock: socket.socket) -> int:
    """Send until nothing more goes in; how much it was."""
    sent = 0
    while True:
        try:
            sent += sock.send(b"x" * 65_536)
        except BlockingIOError:
            return sent


async def test_a_full_buffer_is_waited_for(pair: Pair) -> None:
    pausing = GreenletPausing()
    watch = pausing.watch(pair.ours.fileno())
    sent = await fill(pair.ours)
    task = begin(pausing, in_turn(lambda: watch.wait(LONG, writing=True), lambda: pair.ours.send(b"y")))
    await turns()
    assert not task.done()
    received = 0
    while received < sent:
        received += len(pair.theirs.recv(1_000_000))
    assert await task == 1
    # Only for as long as it is waited for: a socket can nearly always be written to.
    assert not asyncio.get_running_loop().remove_writer(pair.ours.fileno())
    watch.close()


async def test_who_would_write_is_told_that_there_is_something_to_read(pair: Pair) -> None:
    """Both sides of a connection that only wrote would wait for each other for ever."""
    pausing = GreenletPausing()
    watch = pausing.watch(pair.ours.fileno())
    await fill(pair.ours)
    task = begin(pausing, lambda: watch.wait(LONG, writing=True))
    await turns()
    assert not task.done()
    pair.theirs.send(b"1")
    await task
    watch.close()


async def test_what_nobody_waits_for_is_told(pair: Pair) -> None:
    pausing = GreenletPausing()
    unasked: list[bytes] = []
    watch = pausing.watch(pair.ours.fileno(), lambda: unasked.append(pair.ours.recv(10)))

    def function() -> bytes:
        watch.wait(LONG)
        return pair.ours.recv(10)

    pair.theirs.send(b"asked")
    assert await pausing.run(function) == b"asked"
    assert unasked == []
    pair.theirs.send(b"unasked")
    await until(lambda: bool(unasked))
    await turns()
    assert unasked == [b"unasked"]
    task = begin(pausing, function)
    await until(lambda: pausing.is_waiting)
    pair.theirs.send(b"again")
    assert await task == b"again"
    assert unasked == [b"unasked"]
    watch.close()
    pair.theirs.send(b"closed")
    await turns()
    assert unasked == [b"unasked"]


async def test_a_socket_that_nobody_asks_about_is_watched_no_more(pair: Pair) -> None:
    pausing = GreenletPausing()
    watch = pausing.watch(pair.ours.fileno())

    def function() -> bytes:
        watch.wait(LONG)
        return pair.ours.recv(10)

    pair.theirs.send(b"1")
    assert await pausing.run(function) == b"1"
    pair.theirs.send(b"2")
    await turns()
    assert not asyncio.get_running_loop().remove_reader(pair.ours.fileno())
    assert await pausing.run(function) == b"2"
    watch.close()


@pytest.mark.parametrize("writing", [False, True])
async def test_who_waits_for_what_is_closed_goes_on(pair: Pair, writing: bool) -> None:
    """The socket goes with its owner, and whoever waits for it must not wait for nothing."""
    pausing = GreenletPausing()
    watch = pausing.watch(pair.ours.fileno())
    await fill(pair.ours)
    task = begin(pausing, lambda: watch.wait(LONG, writing=writing))
    await turns()
    assert not task.done()
    watch.close()
    async with asyncio.timeout(10):
        await task
    loop = asyncio.get_running_loop()
    assert not loop.remove_reader(pair.ours.fileno())
    assert not loop.remove_writer(pair.ours.fileno())


# -- turns


async def test_a_turn_that_has_come_is_not_waited_for() -> None:
    pausing = GreenletPausing()
    turn = pausing.turn()
    turn.come()
    assert await pausing.run(in_turn(lambda: turn.wait(LONG), lambda: "went on")) == "went on"


async def test_a_turn_comes_a_little_later() -> None:
    """Who lets it come goes on first: it may be in the middle of something."""
    pausing = GreenletPausing()
    turn = pausing.turn()
    told: list[str] = []
    task = begin(pausing, in_turn(lambda: turn.wait(LONG), lambda: told.append("came")))
    await until(lambda: pausing.is_waiting)
    for _ in range(3):
        turn.come()
    told.append("let it come")
    await task
    assert told == ["let it come", "came"]


async def test_a_turn_of_one_function_lets_another_go_on() -> None:
    pausing = GreenletPausing()
    first, second = pausing.turn(), pausing.turn()
    told: list[str] = []

    def giving() -> None:
        first.wait(LONG)
        second.come()
        told.append("given")

    tasks = [
        begin(pausing, giving),
        begin(pausing, in_turn(lambda: second.wait(LONG), lambda: told.append("taken"))),
    ]
    await turns()
    assert told == []
    first.come()
    await asyncio.gather(*tasks)
    assert told == ["given", "taken"]


async def test_a_turn_that_comes_too_late_wakes_nobody(impatient: None) -> None:
    pausing = GreenletPausing()
    late, next_one = pausing.turn(), pausing.turn()
    told: list[str] = []

    def function() -> None:
        with pytest.raises(TimeoutError):
            late.wait(0.0)
        told.append("too late")
        next_one.wait(LONG)
        told.append("next")

    task = begin(pausing, function)
    await until(lambda: told == ["too late"])
    late.come()
    await turns()
    assert told == ["too late"], "it was woken by what it no longer waits for"
    next_one.come()
    await task
    assert told == ["too late", "next"]


async def test_a_pause_ends() -> None:
    pausing = GreenletPausing()
    order: list[str] = []

    def function() -> None:
        order.append("pauses")
        pausing.pause(0.001)
        order.append("goes on")

    task = begin(pausing, function)
    await turns(1)
    order.append("others")
    await task
    assert order == ["pauses", "others", "goes on"]


# -- names


async def test_names_are_looked_up_beside_the_loop() -> None:
    pausing = GreenletPausing()
    assert await pausing.run(lambda: pausing.addresses("127.0.0.1")) == ["127.0.0.1"]
    assert "127.0.0.1" in await pausing.run(lambda: pausing.addresses("localhost"))


@pytest.mark.parametrize("name", ["", "two..points", "x" * 64])
async def test_a_name_without_an_address(name: str) -> None:
    pausing = GreenletPausing()
    with pytest.raises(OSError, match=r"."):
        await pausing.run(lambda: pausing.addresses(name))
    with pytest.raises(OSError, match=r"."):
        pausing.addresses(name)


# -- without a loop


def test_outside_the_whole_process_waits(pair: Pair) -> None:
    pausing = GreenletPausing()
    watch = pausing.watch(pair.ours.fileno())
    watch.wait(LONG, writing=True)
    for seconds in (0.0, -1.0):
        with pytest.raises(TimeoutError):
            watch.wait(seconds)
    pair.theirs.send(b"1")
    watch.wait(LONG)
    assert pair.ours.recv(10) == b"1"
    pausing.pause(0.0)
    assert pausing.addresses("127.0.0.1") == ["127.0.0.1"]
    watch.close()


def test_outside_nobody_can_let_a_turn_come() -> None:
    pausing = GreenletPausing()
    turn = pausing.turn()
    with pytest.raises(TimeoutError):
        turn.wait(LONG)
    turn.come()
    turn.wait(LONG)


async def test_the_same_watch_serves_both_ways(pair: Pair) -> None:
    """A connection is made before there is a loop, and used on it."""
    pausing = GreenletPausing()
    watch: Watch = pausing.watch(pair.ours.fileno())
    main = greenlet.getcurrent()
    pair.theirs.send(b"1")
    watch.wait(LONG)
    pair.ours.recv(10)
    task = begin(pausing, in_turn(lambda: watch.wait(LONG), greenlet.getcurrent))
    await turns()
    pair.theirs.send(b"2")
    assert await task is not main
    watch.wait(LONG)
    watch.close()

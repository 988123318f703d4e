"""In which order streams work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NoReturn

import pytest

from controlplane.ads.turns import Turns


class Worker:
    """Writes its name down, and takes its time."""

    def __init__(
        self,
        name: str,
        done: list[str],
        *,
        defers: bool = False,
        action: Callable[[], object] = int,
        size: int = 0,
        writing: Callable[[], object] = int,
    ) -> None:
        self.name = name
        self.defers = defers
        self.awake = False
        self._done = done
        self._action = action
        self._size = size
        self._writing = writing

    def work(self) -> int:
        self._done.append(self.name)
        self._action()
        return self._size

    def write(self) -> None:
        self._done.append(f"{self.name} writes")
        self._writing()


def nobody_else() -> bool:
    return False


def fails() -> NoReturn:
    raise ValueError("a mistake")


def errors_of_the_loop() -> list[str]:
    """Return a list of what the running loop's exception handler is told from now on."""
    errors: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(str(context["exception"])))
    return errors


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # there is no event for any condition
            await asyncio.sleep(0)


async def test_each_works_once_however_often_it_is_woken() -> None:
    done: list[str] = []
    turns = Turns(nobody_else)
    workers = [Worker(name, done) for name in "abc"]
    for worker in workers * 3:
        turns.wake(worker)
    await until(lambda: len(done) == 3)
    await asyncio.sleep(0)
    assert done == ["a", "b", "c"]
    turns.wake(workers[0])
    await until(lambda: len(done) == 4)


async def test_everybody_is_told_before_more_is_read_but_not_for_ever() -> None:
    done: list[str] = []
    turns = Turns(nobody_else)
    for number in range(400):
        turns.wake(Worker(f"{number}", done, action=lambda: time.sleep(0.001)))
    asyncio.get_running_loop().call_soon(done.append, "read")
    await until(lambda: len(done) == 401)
    assert 20 < done.index("read") < 200, "many turns of 5 ms, and less than 200 ms"


async def test_those_that_are_still_to_be_woken_are_told_too_before_more_is_read() -> None:
    done: list[str] = []
    parts = ["ab", "", "cd", "e"]  # a part may wake nobody

    def wake_more() -> bool:
        for name in parts.pop(0):
            turns.wake(Worker(name, done))
        return bool(parts)

    turns = Turns(wake_more)
    turns.continue_waking()
    asyncio.get_running_loop().call_soon(done.append, "read")
    await until(lambda: len(done) == 6)
    assert done == ["a", "b", "c", "d", "e", "read"]


async def test_those_that_defer_have_turns_while_there_are_some_to_wake() -> None:
    done: list[str] = []
    parts = list(range(50))

    def wake_more() -> bool:
        parts.pop()
        time.sleep(0.002)
        done.append("looked")
        return bool(parts)

    turns = Turns(wake_more)
    turns.wake(Worker("new", done, defers=True))
    turns.continue_waking()
    await until(lambda: len(done) == 51)
    assert done.index("new") < 10


async def test_an_error_in_waking_keeps_nobody_from_its_turn() -> None:
    errors = errors_of_the_loop()
    done: list[str] = []
    turns = Turns(fails)
    turns.continue_waking()
    await until(lambda: len(errors) == 1)
    turns.wake(Worker("next", done))
    await until(lambda: done == ["next"])
    assert errors == ["a mistake"]


async def test_old_streams_do_not_wait_for_a_crowd_of_new_ones() -> None:
    done: list[str] = []
    turns = Turns(nobody_else)
    for number in range(50):
        turns.wake(Worker(f"new {number}", done, defers=True, action=lambda: time.sleep(0.002)))
    await asyncio.sleep(0)
    turns.wake(Worker("old", done))
    await until(lambda: len(done) == 51)
    assert done.index("old") < 25, "it came after the crowd and waited for a few at most"


async def test_new_streams_get_on_while_old_ones_have_much_to_do() -> None:
    done: list[str] = []
    turns = Turns(nobody_else)
    for number in range(50):
        turns.wake(Worker(f"old {number}", done, action=lambda: time.sleep(0.002)))
    turns.wake(Worker("new", done, defers=True))
    await until(lambda: len(done) == 51)
    assert done.index("new") < 25


async def test_few_new_streams_come_in_between_old_ones() -> None:
    done: list[str] = []
    turns = Turns(nobody_else)
    for number in range(40):
        turns.wake(Worker(f"new {number}", done, defers=True, action=lambda: time.sleep(0.002)))
        turns.wake(Worker(f"old {number}", done, action=lambda: time.sleep(0.002)))
    await until(lambda: len(done) == 80)
    before = done[: done.index("old 39")]
    assert 1 <= sum(name.startswith("new") for name in before) <= 10


@pytest.mark.parametrize("defers", [False, True])
async def test_an_error_of_one_keeps_nobody_from_its_turn(defers: bool) -> None:
    errors = errors_of_the_loop()
    done: list[str] = []
    turns = Turns(nobody_else)
    turns.wake(Worker("bad", done, defers=defers, action=fails))
    turns.wake(Worker("next", done, defers=defers))
    await until(lambda: done == ["bad", "next"])
    assert errors == ["a mistake"]


async def test_many_work_before_the_first_of_them_writes() -> None:
    done: list[str] = []
    turns = Turns(nobody_else)
    for name in "abc":
        turns.wake(Worker(name, done, size=1))
    turns.wake(Worker("idle", done))
    await until(lambda: len(done) == 7)
    assert done == ["a", "b", "c", "idle", "a writes", "b writes", "c writes"]


async def test_what_is_written_at_a_time_is_bounded() -> None:
    done: list[str] = []
    turns = Turns(nobody_else)
    for number in range(100):
        turns.wake(Worker(str(number), done, size=1024 * 1024))
    await until(lambda: len(done) == 200)
    ahead = worst = 0
    for entry in done:
        ahead += -1 if entry.endswith("writes") else 1
        worst = max(worst, ahead)
    assert 1 < worst <= 16, "no more than 16 MB are about to be written"
    assert [entry for entry in done if entry.endswith("writes")] == [
        f"{number} writes" for number in range(100)
    ]


async def test_those_that_worked_write_when_the_time_of_their_turn_is_over() -> None:
    done: list[str] = []
    turns = Turns(nobody_else)
    for number in range(4):
        turns.wake(Worker(str(number), done, size=1, action=lambda: time.sleep(0.01)))
    await until(lambda: len(done) == 8)
    assert done == [f"{number}{what}" for number in range(4) for what in ("", " writes")]


async def test_those_that_defer_write_at_once() -> None:
    done: list[str] = []
    turns = Turns(nobody_else)
    for name in "ab":
        turns.wake(Worker(name, done, size=1, defers=True))
    await until(lambda: len(done) == 4)
    assert done == ["a", "a writes", "b", "b writes"]


@pytest.mark.parametrize("writes", [False, True])
async def test_an_error_of_one_keeps_nobody_from_writing(writes: bool) -> None:
    errors = errors_of_the_loop()
    done: list[str] = []
    turns = Turns(nobody_else)
    turns.wake(Worker("first", done, size=1))
    turns.wake(
        Worker(
            "bad", done, size=1, action=int if writes else fails, writing=fails if writes else int
        )
    )
    turns.wake(Worker("last", done, size=1))
    await until(lambda: "last writes" in done)
    assert done.count("first writes") == done.count("last writes") == 1
    assert errors == ["a mistake"]

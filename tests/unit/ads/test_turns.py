"""In which order streams work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

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
    ) -> None:
        self.name = name
        self.defers = defers
        self.awake = False
        self._done = done
        self._action = action

    def work(self) -> None:
        self._done.append(self.name)
        self._action()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # there is no event for any condition
            await asyncio.sleep(0)


async def test_each_works_once_however_often_it_is_woken() -> None:
    done: list[str] = []
    turns = Turns()
    workers = [Worker(name, done) for name in "abc"]
    for worker in workers * 3:
        turns.wake(worker)
    await until(lambda: len(done) == 3)
    await asyncio.sleep(0)
    assert done == ["a", "b", "c"]
    turns.wake(workers[0])
    await until(lambda: len(done) == 4)


async def test_old_streams_do_not_wait_for_a_crowd_of_new_ones() -> None:
    done: list[str] = []
    turns = Turns()
    for number in range(50):
        turns.wake(Worker(f"new {number}", done, defers=True, action=lambda: time.sleep(0.002)))
    await asyncio.sleep(0)
    turns.wake(Worker("old", done))
    await until(lambda: len(done) == 51)
    assert done.index("old") < 25, "it came after the crowd and waited for a few at most"


async def test_new_streams_get_on_while_old_ones_have_much_to_do() -> None:
    done: list[str] = []
    turns = Turns()
    for number in range(50):
        turns.wake(Worker(f"old {number}", done, action=lambda: time.sleep(0.002)))
    turns.wake(Worker("new", done, defers=True))
    await until(lambda: len(done) == 51)
    assert done.index("new") < 25


async def test_few_new_streams_come_in_between_old_ones() -> None:
    done: list[str] = []
    turns = Turns()
    for number in range(40):
        turns.wake(Worker(f"new {number}", done, defers=True, action=lambda: time.sleep(0.002)))
        turns.wake(Worker(f"old {number}", done, action=lambda: time.sleep(0.002)))
    await until(lambda: len(done) == 80)
    before = done[: done.index("old 39")]
    assert 1 <= sum(name.startswith("new") for name in before) <= 10


@pytest.mark.parametrize("defers", [False, True])
async def test_an_error_of_one_keeps_nobody_from_its_turn(defers: bool) -> None:
    def fails() -> None:
        raise ValueError("a mistake")

    errors: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(str(context["exception"])))
    done: list[str] = []
    turns = Turns()
    turns.wake(Worker("bad", done, defers=defers, action=fails))
    turns.wake(Worker("next", done, defers=defers))
    await until(lambda: done == ["bad", "next"])
    assert errors == ["a mistake"]

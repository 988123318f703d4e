"""Who may come in, and how slow clients are kept from holding others up."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.ads.admission import Flights, TokenBucket


def test_the_bucket_admits_its_rate_and_then_makes_wait() -> None:
    now = 0.0
    bucket = TokenBucket(10.0, lambda: now)
    assert [bucket.reserve(1.0) for _ in range(10)] == [0.0] * 10
    waits = [bucket.reserve(1.0) for _ in range(10)]
    assert waits == pytest.approx([0.1 * (number + 1) for number in range(10)])
    assert bucket.reserve(1.0) is None
    now = 0.5
    assert bucket.reserve(1.0) == pytest.approx(0.6)


async def test_a_slot_is_given_back_once_and_taken_by_the_next() -> None:
    flights = Flights(slots=1)
    leave = await flights.enter()
    waiting = asyncio.ensure_future(flights.enter())
    await asyncio.sleep(0)
    assert not waiting.done()
    leave()
    leave()
    second = await asyncio.wait_for(waiting, 1)
    third = asyncio.ensure_future(flights.enter())
    await asyncio.sleep(0.01)
    assert not third.done(), "giving back twice made no second slot"
    second()
    (await asyncio.wait_for(third, 1))()


async def test_a_slow_writer_keeps_its_slot_for_a_second_at_most() -> None:
    flights = Flights(slots=1)
    await flights.enter()
    leave = await asyncio.wait_for(flights.enter(), 2)
    leave()

"""Who may come in, and how slow clients are kept from holding others up."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.ads.admission import Flight, Flights, TokenBucket


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
    granted: list[Flight] = []
    assert flights.has_room(granted.append)
    first = flights.enter()
    assert not flights.has_room(granted.append)
    first.leave()
    first.leave()
    (second,) = granted
    assert not flights.has_room(granted.append), "giving back twice made no second slot"
    second.leave()
    third = granted[1]
    third.leave()
    assert flights.has_room(granted.append)


async def test_whoever_left_gets_no_slot() -> None:
    flights = Flights(slots=1)
    first = flights.enter()
    gone: list[Flight] = []
    there: list[Flight] = []
    assert not flights.has_room(gone.append)
    assert not flights.has_room(there.append)
    flights.forget(gone.append)
    first.leave()
    assert (len(gone), len(there)) == (0, 1)


async def test_a_slow_writer_keeps_its_slot_for_a_second_at_most() -> None:
    flights = Flights(slots=1)
    slow = flights.enter()
    slow.linger()
    granted = asyncio.get_running_loop().create_future()
    assert not flights.has_room(granted.set_result)
    (await asyncio.wait_for(granted, 2)).leave()

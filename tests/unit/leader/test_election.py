"""The rules of an election, one by one."""

from __future__ import annotations

import pytest

from controlplane.leader.election import Election, Get, Held, Pause, Put, Timing

TIMING = Timing()


def _held(holder: str, version: int = 1) -> Held:
    return Held(holder=holder, duration=15.0, version=str(version))


def _leading(now: float = 0.0) -> Election:
    election = Election("a", TIMING)
    assert election.next(now) == Get()
    election.on_read(None, now)
    assert election.next(now) == Put(holder="a", duration=15.0, version="", acquired=True)
    election.on_written(_held("a"), asked=now, now=now)
    return election


def test_a_free_lease_is_taken_at_once() -> None:
    election = _leading()
    assert election.leads(0.0)
    assert election.holder == "a"


def test_a_leader_renews_without_reading() -> None:
    election = _leading()
    assert election.next(0.5) == Pause(2.0)
    assert election.next(2.0) == Put(holder="a", duration=15.0, version="1")


def test_a_leader_that_cannot_renew_stops_before_others_may_begin() -> None:
    election = _leading()
    for now in (2.0, 4.0, 6.0, 8.0):
        assert isinstance(election.next(now), Put)
        election.on_failure(now)
        assert election.leads(now)
    assert election.leads(9.9)
    assert not election.leads(10.0)


def test_the_belief_counts_from_the_moment_of_asking() -> None:
    election = _leading()
    election.on_written(_held("a", 2), asked=2.0, now=6.0)
    assert election.until == 12.0


def test_a_held_lease_is_taken_when_it_was_seen_unchanged_for_its_duration() -> None:
    election = Election("b", TIMING)
    now = 1000.0
    while now < 1015.0:
        assert election.next(now) == Get()
        election.on_read(_held("a"), now)
        step = election.next(now)
        assert isinstance(step, Pause)
        now = step.until
    assert now == 1015.0, "it looks again at the very moment"
    assert election.next(now) == Get()
    election.on_read(_held("a"), now)
    assert election.next(now) == Put(holder="b", duration=15.0, version="1", acquired=True)


def test_every_change_of_the_lease_is_a_sign_of_life() -> None:
    election = Election("b", TIMING)
    for number in range(20):
        now = number * 14.0
        election.next(now)
        election.on_read(_held("a", number), now)
        assert isinstance(election.next(now), Pause)


def test_a_released_lease_is_taken_at_once() -> None:
    leader, other = _leading(), Election("b", TIMING)
    other.next(0.0)
    other.on_read(_held("a"), 0.0)
    release = leader.resign()
    assert release == Put(holder="", duration=1.0, version="1")
    assert not leader.leads(0.0)
    other.on_read(Held(holder="", duration=1.0, version="2"), 2.0)
    assert other.next(2.0) == Put(holder="b", duration=15.0, version="2", acquired=True)


def test_who_does_not_hold_the_lease_has_nothing_to_release() -> None:
    election = Election("b", TIMING)
    election.next(0.0)
    election.on_read(_held("a"), 0.0)
    assert election.resign() is None


def test_a_leader_that_reads_another_holder_stops_at_once() -> None:
    election = _leading()
    election.next(2.0)
    election.on_conflict(2.0)
    assert election.leads(2.0), "somebody may only have changed a label"
    assert election.next(2.0) == Get()
    election.on_read(_held("b", 5), 2.1)
    assert not election.leads(2.1)


def test_a_lease_that_was_deleted_is_waited_for_like_a_held_one() -> None:
    """Its holder goes on until it notices, so that deleting it makes no second leader."""
    election = Election("b", TIMING)
    election.next(0.0)
    election.on_read(_held("a"), 0.0)
    election.next(2.0)
    election.on_read(None, 2.0)
    assert isinstance(election.next(2.0), Pause)
    election.next(15.0)
    election.on_read(None, 15.0)
    assert election.next(15.0) == Put(holder="b", duration=15.0, version="", acquired=True)


def test_a_leader_makes_its_deleted_lease_again() -> None:
    election = _leading()
    election.next(2.0)
    election.on_conflict(2.0)
    election.next(2.0)
    election.on_read(None, 2.0)
    assert election.next(2.0) == Put(holder="a", duration=15.0, version="", acquired=True)
    assert election.leads(2.0)


@pytest.mark.parametrize("timing", [(10.0, 10.0, 2.0), (15.0, 2.0, 2.0), (15.0, 10.0, 0.0)])
def test_times_that_would_let_two_lead_are_refused(timing: tuple[float, float, float]) -> None:
    lease, renew, retry = timing
    with pytest.raises(ValueError, match="lease duration > renew deadline > retry period"):
        Timing(lease_duration=lease, renew_deadline=renew, retry_period=retry)

"""Whatever comes when: no change waits too long, and endpoints do not go out too often."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from controlplane.pacing import Pacing

AFTER, MOST, INTERVAL = 0.1, 1.0, 0.1
SLACK = 1e-9

events = st.lists(
    st.tuples(
        st.floats(min_value=0, max_value=0.5, allow_nan=False),
        st.sampled_from(["endpoints", "config"]),
    ),
    max_size=60,
)


def replay(
    steps: list[tuple[float, str]],
) -> tuple[list[tuple[float, bool]], list[tuple[float, str]]]:
    """Return the publications (time, with config) and the events at their times."""
    pacing = Pacing(debounce_after=AFTER, debounce_max=MOST, endpoint_interval=INTERVAL)
    now = 1000.0
    published: list[tuple[float, bool]] = []
    happened: list[tuple[float, str]] = []

    def publish_until(limit: float) -> None:
        while (due := pacing.due) is not None and due <= limit:
            config = pacing.config_due is not None and pacing.config_due <= due
            pacing.published(due, config=config)
            published.append((due, config))

    for delay, kind in steps:
        publish_until(now + delay)
        now += delay
        if kind == "endpoints":
            pacing.note_endpoints(now)
        else:
            pacing.note_config(now)
        happened.append((now, kind))
        publish_until(now)
    publish_until(now + 10 * MOST)
    assert pacing.due is None
    return published, happened


@given(events)
def test_no_change_waits_longer_than_it_may(steps: list[tuple[float, str]]) -> None:
    published, happened = replay(steps)
    for time, kind in happened:
        if kind == "endpoints":
            assert any(time <= at <= time + INTERVAL + SLACK for at, _ in published)
        else:
            assert any(time <= at <= time + MOST + SLACK for at, config in published if config)


@given(events)
def test_endpoint_publications_keep_their_distance(steps: list[tuple[float, str]]) -> None:
    published, _ = replay(steps)
    for (before, _), (after, config) in itertools.pairwise(published):
        assert config or after - before >= INTERVAL - SLACK


@given(events)
def test_a_change_after_quiet_goes_out_at_once(steps: list[tuple[float, str]]) -> None:
    published, happened = replay(steps)
    for index, (time, kind) in enumerate(happened):
        quiet = all(time - before > 2 * MOST for before, _ in happened[:index])
        if quiet:
            assert (time, kind == "config") in published


@given(events)
def test_nothing_is_published_without_a_change(steps: list[tuple[float, str]]) -> None:
    published, happened = replay(steps)
    assert len(published) <= len(happened)

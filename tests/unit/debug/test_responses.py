"""What is counted for every response reads as the client library's own metrics would."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from controlplane.debug.responses import TIMES, ResponseMetrics


def sample_lines(registry: CollectorRegistry) -> list[str]:
    """The text format without comments and creation times."""
    return [
        line
        for line in generate_latest(registry).decode().splitlines()
        if not line.startswith("#") and "_created" not in line
    ]


@given(st.lists(st.sampled_from(TIMES) | st.floats(0, 100)))
def test_buckets_are_those_of_the_client_library(seconds: Sequence[float]) -> None:
    theirs = CollectorRegistry()
    histogram = Histogram("pilot_xds_send_time", "Seconds.", buckets=TIMES, registry=theirs)
    ours = CollectorRegistry()
    responses = ResponseMetrics(lambda url: url)
    ours.register(responses)
    for value in seconds:
        histogram.observe(value)
        responses.written("cds", 1, making=0.0, writing=value)
    shown = [line for line in sample_lines(ours) if line.startswith("pilot_xds_send_time")]
    assert sorted(shown) == sorted(sample_lines(theirs))


def test_types_that_share_a_label_are_one_series() -> None:
    registry = CollectorRegistry()
    responses = ResponseMetrics(lambda _: "other")
    registry.register(responses)
    responses.written("one", 10, making=0.0, writing=0.0)
    responses.written("another", 20_000, making=0.0, writing=0.0)
    shown = sample_lines(registry)
    assert 'pilot_xds_pushes_total{type="other"} 2.0' in shown
    assert 'pilot_xds_config_size_bytes_sum{type="other"} 20010.0' in shown
    assert 'pilot_xds_config_size_bytes_bucket{le="10000.0",type="other"} 1.0' in shown

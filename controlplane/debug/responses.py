"""What is counted for every single response and acknowledgement.

A push makes a thousand of each in a moment, so they are counted in plain numbers, which cost a
tenth of the client library's locked ones, and made into its metrics when somebody reads them.
The rule that is easy to break: one thread counts, the event loop's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

# Seconds. istiod's buckets, with finer ones below 100 ms, where our pushes are.
_CONVERGENCE: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 3, 5, 10, 20, 30)
TIMES: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 3, 5, 10, 20, 30)
_BYTES: Final = (1, 10_000, 1_000_000, 4_000_000, 10_000_000, 40_000_000)

PUSHES: Final = "pilot_xds_pushes"


class Distribution:
    """How many observations fell into which bucket, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds: Final = bounds
        self._counts: Final = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one observation; a bound belongs to the bucket that it ends."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self._counts)

    def add_to(self, family: HistogramMetricFamily, *labels: str) -> None:
        """Add what was observed as one series."""
        below, buckets = 0, []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            below += count
            name: str = floatToGoString(bound)  # type: ignore[no-untyped-call]
            buckets.append((name, float(below)))
        family.add_metric(labels, buckets, self._sum)


class _OfType:
    """What is counted for one resource type."""

    __slots__ = ("sizes", "times")

    def __init__(self) -> None:
        self.sizes: Final = Distribution(_BYTES)
        self.times: Final = Distribution(TIMES)


class ResponseMetrics(Collector):
    """Counts responses, their sizes and times, and acknowledgements."""

    def __init__(self, short_type: Callable[[str], str]) -> None:
        """`short_type` makes a label of a type URL; there is a small fixed set of them."""
        self._short_type: Final = short_type
        self._by_short: Final[dict[str, _OfType]] = {}
        self._by_url: Final[dict[str, _OfType]] = {}
        self._writing: Final = Distribution(TIMES)
        self._convergence: Final = Distribution(_CONVERGENCE)

    def written(self, type_url: str, size: int, *, making: float, writing: float) -> None:
        """A response of `size` bytes was sent; the seconds to make and to write it."""
        found = self._by_url.get(type_url)
        if found is None:
            found = self._by_short.setdefault(self._short_type(type_url), _OfType())
            self._by_url[type_url] = found
        found.sizes.observe(size)
        found.times.observe(making + writing)
        self._writing.observe(writing)

    def acknowledged(self, seconds: float) -> None:
        """A proxy has acknowledged a response, so many seconds after it was made."""
        self._convergence.observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """Yield everything as the client library's metrics."""
        pushes = CounterMetricFamily(PUSHES, "Responses sent.", labels=("type",))
        sizes = HistogramMetricFamily(
            "pilot_xds_config_size_bytes", "Bytes of one response.", labels=("type",)
        )
        times = HistogramMetricFamily(
            "pilot_xds_push_time", "Seconds to make and send one response.", labels=("type",)
        )
        for short, found in self._by_short.items():
            pushes.add_metric((short,), found.sizes.count)
            found.sizes.add_to(sizes, short)
            found.times.add_to(times, short)
        yield from (pushes, sizes, times)
        writing = HistogramMetricFamily(
            "pilot_xds_send_time", "Seconds to hand one response to the transport."
        )
        self._writing.add_to(writing)
        yield writing
        convergence = HistogramMetricFamily(
            "pilot_proxy_convergence_time",
            "Seconds from a response to its acknowledgement by the proxy.",
        )
        self._convergence.add_to(convergence)
        yield convergence

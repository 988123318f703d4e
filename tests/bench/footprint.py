"""Memory: what one more sidecar costs, and what one more service costs.

Each is the slope between two states of a live server, so that what is there anyway cancels out.
Sidecars come in small groups: what a storm leaves behind in the allocator is not what they need.
Services come with a start, and each state is the median of several: whether a response fits into a
hole of the heap is chance, and moves a thousand services by 0.3 kB each.
The rule that is easy to break: assembled responses are known from what a sidecar received, and
are reported apart from the model and the resources.
"""

from __future__ import annotations

import time
from statistics import median

from tests.bench import world
from tests.bench.bed import Bed, Size, bed
from tests.bench.report import Row, progress

PROXY_MARK = 100_000
SERVICE_MARK = 6_000
_GROUP = 50
_STARTS = 3


def per_proxy(made: Bed) -> Row:
    """Connect a few of every class, then the rest; the slope is the cost of one."""
    sidecars = world.sidecars(made.size.sidecars, classes=made.size.classes)
    first = max(made.size.classes * 5, len(sidecars) // 10)
    progress(f"memory, {made.protocol}, {len(sidecars)} sidecars")
    before = 0
    for start in range(0, len(sidecars), _GROUP):
        if start == first:
            before = _settled(made)
        made.fleet.connect(sidecars[start : start + _GROUP])
    after = _settled(made)
    return Row(
        scenario="memory",
        protocol=made.protocol,
        measure="per connected proxy",
        unit="B",
        value=(after - before) / (len(sidecars) - first),
        mark=PROXY_MARK,
        memory=after,
        sidecars=len(sidecars),
        services=made.size.services,
        details={"with the first of every class": before},
    )


def _with_one_sidecar(size: Size, protocol: str) -> tuple[float, float, int]:
    """Return the memory without and with one sidecar, and the bytes that it received.

    Medians of as many starts.
    """
    starts = [_start_with_one_sidecar(size, protocol) for _ in range(_STARTS)]
    alone, one, sent = zip(*starts, strict=True)
    return median(alone), median(one), max(sent)


def _start_with_one_sidecar(size: Size, protocol: str) -> tuple[int, int, int]:
    with bed(size, protocol) as made:
        alone = _settled(made)
        made.fleet.connect(world.sidecars(1))
        sizes = {sample.type: sample.size for sample in made.fleet.collect()}
        return alone, _settled(made), sum(sizes.values())


def per_service(size: Size, protocol: str) -> list[Row]:
    """Compare a mesh with one of ten services, each with one class of sidecars."""
    progress(f"memory, {protocol}, per service")
    small = size._replace(services=10, rules=2)
    small_alone, small_one, small_sent = _with_one_sidecar(small, protocol)
    alone, one, sent = _with_one_sidecar(size, protocol)
    count = size.services - small.services
    assembled = (sent - small_sent) / count
    model = (alone - small_alone) / count
    together = (one - small_one) / count - assembled
    common = {"services": size.services, "sidecars": 1}
    return [
        _row(protocol, "per service: model and resources", together, common, mark=SERVICE_MARK),
        _row(protocol, "per service: model alone", model, common),
        _row(protocol, "per service and class: assembled responses", assembled, common),
    ]


def _row(
    protocol: str, measure: str, value: float, common: dict[str, int], mark: float | None = None
) -> Row:
    return Row(
        scenario="memory",
        protocol=protocol,
        measure=measure,
        unit="B",
        value=value,
        mark=mark,
        sidecars=common["sidecars"],
        services=common["services"],
        repetitions=_STARTS,
    )


def _settled(made: Bed) -> int:
    made.server.quiet()
    time.sleep(0.5)
    return made.server.memory().anonymous

"""The endpoints of one service port, kept in columns.

Endpoints of a port have nearly everything in common, and there are ten times as many of them as
of anything else: an object each would cost what all their addresses do. Must not know where
endpoints come from. The rule that is easy to break: a column whose values are all equal holds
one value, so columns are only read through `spread`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Final, Self, TypeVar, overload

from controlplane.model.base import one
from controlplane.model.meta import ObjectRef
from controlplane.model.services import Endpoint, Health, Workload

Value = TypeVar("Value")


_Kind = tuple[int, Health, int]
"""Port, health and weight."""


class PortEndpoints(Sequence[Endpoint]):
    """Endpoints that are spelt out each time they are looked at. Immutable."""

    __slots__ = ("_kinds", "_sources", "addresses", "workloads")

    def __init__(
        self,
        addresses: tuple[str, ...],
        kinds: tuple[_Kind, ...],
        workloads: tuple[Workload, ...],
        sources: tuple[ObjectRef | None, ...],
    ) -> None:
        self.addresses: Final = addresses
        self._kinds: Final = kinds
        self.workloads: Final = workloads
        """The workloads behind them: one when it is that of all, else one for each endpoint."""
        self._sources: Final = sources

    @classmethod
    def of(cls, endpoints: Iterable[Endpoint]) -> Self:
        """Return endpoints in their order."""
        found = tuple(endpoints)
        return cls(
            tuple([item.address for item in found]),
            one(_column([(item.port, item.health, item.weight) for item in found])),
            _column([item.workload for item in found]),
            _column([item.source for item in found]),
        )

    def __len__(self) -> int:
        return len(self.addresses)

    def __iter__(self) -> Iterator[Endpoint]:
        for address, (port, health, weight), workload, source in zip(
            self.addresses, _spread(self._kinds), _spread(self.workloads), _spread(self._sources),
            strict=False,
        ):  # fmt: skip
            yield Endpoint(
                address=address,
                port=port,
                health=health,
                weight=weight,
                workload=workload,
                source=source,
            )

    @overload
    def __getitem__(self, index: int) -> Endpoint: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Endpoint, ...]: ...
    def __getitem__(self, index: int | slice) -> Endpoint | tuple[Endpoint, ...]:
        return tuple(self)[index]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PortEndpoints):
            return (
                self.addresses == other.addresses
                and self._kinds == other._kinds
                and self.workloads == other.workloads
                and self._sources == other._sources
            )
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash((self.addresses, self._kinds, self.workloads, self._sources))

    def __repr__(self) -> str:
        return repr(tuple(self))


def known_endpoints(
    made: Sequence[Endpoint], last: Sequence[Endpoint] | None
) -> Sequence[Endpoint]:
    """Return endpoints with everything that older ones have as well taken from those."""
    if not (isinstance(made, PortEndpoints) and isinstance(last, PortEndpoints)):
        return made
    if made == last:
        return last
    addresses = dict(zip(last.addresses, last.addresses, strict=True))
    workloads = dict(zip(last.workloads, last.workloads, strict=True))
    return PortEndpoints(
        tuple(map(addresses.get, made.addresses, made.addresses)),
        made._kinds,
        tuple(map(workloads.get, made.workloads, made.workloads)),
        last._sources if made._sources == last._sources else made._sources,
    )


def workloads(endpoints: Sequence[Endpoint]) -> Iterable[Workload]:
    """Return the workloads behind endpoints, perhaps once what is that of many."""
    if isinstance(endpoints, PortEndpoints):
        return endpoints.workloads
    return (endpoint.workload for endpoint in endpoints)


def _column(values: list[Value]) -> tuple[Value, ...]:
    """Return the values, or the only one."""
    if values and values[0] == values[-1] and values.count(values[0]) == len(values):
        return (values[0],)
    return tuple(values)


def _spread(column: tuple[Value, ...]) -> Iterable[Value]:
    return repeat(column[0]) if len(column) == 1 else column

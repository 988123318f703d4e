"""The endpoints of one service port, kept in columns.

Endpoints of a port have nearly everything in common, and there are ten times as many of them as
of anything else: an object each would cost what all their addresses do. Must not know where
endpoints come from. The rule that is easy to break: the text of the addresses may belong to the
EndpointSlice as well, so what is equal is not made anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Self, overload

from controlplane.model.columns import (
    Joined,
    column,
    differing,
    joined,
    length,
    networks,
    split,
    spread,
)
from controlplane.model.meta import ObjectRef
from controlplane.model.services import Endpoint, Health, Workload


class Facts(NamedTuple):
    """What one endpoint is, beside its address and port."""

    health: Health
    weight: int
    workload: Workload
    source: ObjectRef | None

    @property
    def rank(self) -> tuple[int, str, str]:
        """Sort key among those of one address and port: the healthy one is the right one."""
        return (int(self.health), self.workload.name, str(self.source or ""))


_Kind = tuple[int, Health, int]
"""Port, health and weight."""


class PortEndpoints(Sequence[Endpoint]):
    """Endpoints that are spelt out each time they are looked at. Immutable."""

    __slots__ = ("_kinds", "_sources", "text", "workloads")

    def __init__(
        self,
        text: Joined,
        kinds: tuple[_Kind, ...],
        workloads: tuple[Workload, ...],
        sources: tuple[ObjectRef | None, ...],
    ) -> None:
        self.text: Final = text
        """Their addresses, joined (`columns`)."""
        self._kinds: Final = kinds
        self.workloads: Final = workloads
        """The workloads behind them: one when it is that of all, else one for each endpoint."""
        self._sources: Final = sources

    @classmethod
    def of(cls, endpoints: Iterable[Endpoint]) -> Self:
        """Return endpoints in their order."""
        found = [
            (item.address, item.port, Facts(item.health, item.weight, item.workload, item.source))
            for item in endpoints
        ]
        return cls.made_of(found)

    @classmethod
    def made_of(cls, found: Sequence[tuple[str, int, Facts]]) -> Self:
        """Return endpoints of addresses, ports and facts, in their order."""
        return cls(
            joined([address for address, _, _ in found]),
            column([(port, facts.health, facts.weight) for _, port, facts in found]),
            column([facts.workload for _, _, facts in found]),
            column([facts.source for _, _, facts in found]),
        )

    @property
    def places(self) -> Iterable[tuple[str, int]]:
        """The addresses and ports."""
        ports = (port for port, _, _ in spread(self._kinds))
        return zip(split(self.text), ports, strict=False)

    @property
    def networks(self) -> set[str]:
        """The networks of the addresses."""
        return networks(self.text)

    def stays(self, other: PortEndpoints) -> bool:
        """Whether others have the same addresses and ports, in a way that costs nothing to see."""
        return self.text == other.text and self._kinds is other._kinds

    def moved(self, other: PortEndpoints) -> set[str] | None:
        """Return the addresses that only one of both has; None when ports may differ as well."""
        if len(self._kinds) == 1 and self._kinds is other._kinds:
            return differing(self.text, other.text)
        return None

    def with_text(self, text: Joined) -> PortEndpoints:
        """Return the same endpoints with an equal text of their addresses."""
        return PortEndpoints(text, self._kinds, self.workloads, self._sources)

    def __len__(self) -> int:
        return length(self.text)

    def __iter__(self) -> Iterator[Endpoint]:
        for address, (port, health, weight), workload, source in zip(
            split(self.text), spread(self._kinds), spread(self.workloads), spread(self._sources),
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
                self.text == other.text
                and self._kinds == other._kinds
                and self.workloads == other.workloads
                and self._sources == other._sources
            )
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(self.text)  # which the text keeps

    def __repr__(self) -> str:
        return repr(tuple(self))


def known_endpoints(
    made: Sequence[Endpoint], last: Sequence[Endpoint] | None
) -> Sequence[Endpoint]:
    """Return endpoints with the workloads and sources that older ones have as well from those."""
    if not (isinstance(made, PortEndpoints) and isinstance(last, PortEndpoints)):
        return made
    if made == last:
        return last
    known = dict(zip(last.workloads, last.workloads, strict=True))
    return PortEndpoints(
        made.text,
        made._kinds,
        last.workloads
        if made.workloads == last.workloads
        else tuple(map(known.get, made.workloads, made.workloads)),
        last._sources if made._sources == last._sources else made._sources,
    )


def workloads(endpoints: Sequence[Endpoint]) -> Iterable[Workload]:
    """Return the workloads behind endpoints, perhaps once what is that of many."""
    if isinstance(endpoints, PortEndpoints):
        return endpoints.workloads
    return (endpoint.workload for endpoint in endpoints)


def places(endpoints: Sequence[Endpoint]) -> Iterable[tuple[str, int]]:
    """Return the addresses and ports of endpoints."""
    if isinstance(endpoints, PortEndpoints):
        return endpoints.places
    return ((endpoint.address, endpoint.port) for endpoint in endpoints)

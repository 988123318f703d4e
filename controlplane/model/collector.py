"""Gathers the endpoints of one service, whatever they are made of.

Owns which of two endpoints at one address and port counts, their order, and what of it is kept
for the next time. Must not know Kubernetes' ways to list endpoints (`endpoints`). The rules that
are easy to break: the order of endpoints is (address, port) and never that of arrival, and a pod
that is shutting down is no endpoint any more but still has its inbound listeners (`leaving`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import is_
from typing import Final, NamedTuple

from controlplane.model.base import FrozenDict, one
from controlplane.model.columns import Joined
from controlplane.model.core import Node, Pod
from controlplane.model.meta import ObjectRef
from controlplane.model.packed import PackedSlice
from controlplane.model.port_endpoints import Facts, PortEndpoints
from controlplane.model.service_entry import WorkloadEntry
from controlplane.model.services import (
    NO_ENDPOINTS,
    Endpoint,
    Leaving,
    Protocol,
    Service,
    ServiceEndpoints,
    ServicePort,
    Workload,
)
from controlplane.model.workloads import place_locality, pod_workload

PERSISTENT_SESSION: Final = "istio.io/persistent-session"

_Place = tuple[str, int]
"""Address and port."""


class World(NamedTuple):
    """What the endpoints of a service may depend on beside the service's own objects."""

    pods: Mapping[tuple[str, str], Pod]  # by namespace and name
    nodes: Mapping[str, Node]
    pods_in: Callable[[str], Iterable[Pod]]  # by namespace
    entries_in: Callable[[str], Iterable[WorkloadEntry]]  # by namespace
    cluster: str = ""  # the name of the cluster that the objects come from
    moves: Callable[[], int] = lambda: -1  # how often pods or nodes changed, negative: not known
    # Whether every pod is told of from where a slice comes: its endpoints wait for theirs (as in
    # istiod, for ever: wrong labels would decide about subsets, policies and TLS).
    awaits_pods: Callable[[PackedSlice], bool] = lambda _: False


class Part(NamedTuple):
    """What one EndpointSlice adds to a service, beside everything that it was made of."""

    slice: PackedSlice
    service: Service
    publish_not_ready: bool
    pods: Mapping[tuple[str, str], Pod | None]
    nodes: Mapping[str, Node | None]
    found: Mapping[str, Mapping[_Place, Facts]]
    leaving: frozenset[Leaving]
    waiting: frozenset[str]

    def holds(
        self,
        entry: PackedSlice,
        service: Service,
        world: World,
        *,
        publish_not_ready: bool,
        still: bool,
    ) -> bool:
        """Whether it would be made the same again: of the very same objects.

        `still` says that no pod and no node has changed since it was made.
        """
        return (
            self.slice is entry
            and self.service is service
            and self.publish_not_ready is publish_not_ready
            and (
                still
                or (
                    all(map(is_, map(world.pods.get, self.pods), self.pods.values()))
                    and all(map(is_, map(world.nodes.get, self.nodes), self.nodes.values()))
                )
            )
        )


class Found(NamedTuple):
    """The endpoints of a service, and which pods were used.

    `parts` are kept by name of the slice when there are several: a change of one then leaves the
    work for the others alone. `waiting` are addresses that were left out because their pods are
    not known.
    """

    endpoints: ServiceEndpoints = NO_ENDPOINTS
    pods: frozenset[tuple[str, str]] = frozenset()
    parts: Mapping[str, Part] = FrozenDict()
    moves: int = -1  # of the world, when this was found
    waiting: frozenset[str] = frozenset()


NOTHING: Final = Found()
_NO_PODS: Final[frozenset[tuple[str, str]]] = frozenset()
# Each call of frozenset makes another empty one, of 216 bytes.
NOBODY: Final[frozenset[str]] = frozenset()
NONE_LEAVE: Final[frozenset[Leaving]] = frozenset()
_NO_PARTS: Final[Mapping[str, Part]] = FrozenDict()


class Collector:
    """Gathers the endpoints of one service."""

    def __init__(self, service: Service, world: World) -> None:
        self.service = service
        self.world = world
        self.ports = {
            port.name: port for port in service.ports if port.protocol is not Protocol.UDP
        }
        self.found: dict[str, dict[_Place, Facts]] = {name: {} for name in self.ports}
        self.leaving: set[Leaving] = set()
        self.waiting: set[str] = set()
        self.pods: dict[tuple[str, str], Pod | None] = {}
        self.nodes: dict[str, Node | None] = {}
        self.drains = PERSISTENT_SESSION in service.labels
        self._workloads: dict[tuple[str, str, str], Workload] = {}

    def part(self) -> Collector:
        """Return a collector for a part of the same service, which shares what is equal."""
        made = Collector(self.service, self.world)
        made._workloads = self._workloads
        return made

    def merge(self, part: Part) -> None:
        """Take everything that a part has."""
        self.pods.update(part.pods)
        if part.leaving or part.waiting:
            self.leaving |= part.leaving
            self.waiting |= part.waiting
        for name, more in part.found.items():
            known = self.found[name]
            if known.keys().isdisjoint(more):
                known.update(more)
                continue
            for place, facts in more.items():
                _keep_better(known, place, facts)

    def add(self, port: ServicePort, address: str, number: int, facts: Facts | None) -> None:
        """Take one endpoint; without facts it is only a target, as a pod that shuts down."""
        if facts is None:
            self.leaving.add(Leaving(address, port.name, number))
        else:
            _keep_better(self.found[port.name], (address, number), facts)

    def workload(
        self, target: ObjectRef | None, namespace: str, *, node: str, zone: str
    ) -> Workload:
        """Return the workload behind an endpoint, from its pod when that is known."""
        if target is not None and target.kind == Pod.KIND:
            key = (target.namespace, target.name)
            pod = self.world.pods.get(key)
            self.pods[key] = pod
            if pod is not None:
                return pod_workload(
                    pod,
                    self._node(pod.spec.node_name or node),
                    zone=zone,
                    cluster=self.world.cluster,
                )
        shared = (namespace, node, zone)
        place = self._node(node)
        made = self._workloads.get(shared)
        if made is None:
            made = _bare_workload(namespace, node, place_locality(place, zone), self.world.cluster)
            self._workloads[shared] = made
        return made

    def lacks_pod(self, target: ObjectRef | None) -> bool:
        """Whether an endpoint names a pod that is not known."""
        if target is None or target.kind != Pod.KIND:
            return False
        key = (target.namespace, target.name)
        pod = self.pods[key] = self.world.pods.get(key)
        return pod is None

    def _node(self, name: str) -> Node | None:
        found = self.world.nodes.get(name)
        self.nodes[name] = found
        return found

    def result(
        self, parts: Mapping[str, Part] | None = None, *, texts: Iterable[Joined] = ()
    ) -> Found:
        """Return everything in its fixed order; addresses as one of the texts when it is equal."""
        known = {text: text for text in texts}
        by_port: dict[str, Sequence[Endpoint]] = {}
        for name, found in self.found.items():
            if found:
                made = PortEndpoints.made_of([(*place, found[place]) for place in sorted(found)])
                text = known.setdefault(made.text, made.text)
                by_port[name] = made if text is made.text else made.with_text(text)
        return Found(
            ServiceEndpoints.of(by_port, self._left()) or NO_ENDPOINTS,
            frozenset(self.pods) if self.pods else _NO_PODS,
            parts or _NO_PARTS,
            self.world.moves(),
            frozenset(self.waiting) if self.waiting else NOBODY,
        )

    def _left(self) -> Iterable[Leaving]:
        """Return what is leaving and nowhere an endpoint."""
        return [
            entry
            for entry in self.leaving
            if (entry.address, entry.port) not in self.found[entry.port_name]
        ]


def _keep_better(known: dict[_Place, Facts], place: _Place, facts: Facts) -> None:
    before = known.setdefault(place, facts)
    if before is not facts and facts.rank < before.rank:
        known[place] = facts


@functools.lru_cache(maxsize=1024)
def _bare_workload(namespace: str, node: str, locality: str, cluster: str) -> Workload:
    """Return a workload of which only the place is known, one object for equal ones."""
    return one(Workload(namespace=namespace, node=node, locality=locality, cluster=cluster))

"""A small mesh made by hand: what the ADS engine is served from in tests.

A `World` holds clusters, listeners, routes and endpoints as plain values; its generator turns
them into real Envoy messages, so that any codec can read what is sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from controlplane.ads.virtual_hosts import joined
from controlplane.model.base import FrozenDict
from controlplane.model.diff import Change
from controlplane.model.meta import ObjectRef
from controlplane.model.names import Host
from controlplane.model.port_endpoints import PortEndpoints
from controlplane.model.proxy import Proxy
from controlplane.model.services import Endpoint as PortEndpoint
from controlplane.model.services import Protocol as PortProtocol
from controlplane.model.services import Resolution, Service, ServiceEndpoints, ServicePort
from controlplane.model.snapshot import Snapshot
from controlplane.model.targets import TargetIndex
from controlplane.translate.envoy import (
    Cluster,
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    Listener,
    LocalityLbEndpoints,
    NameTable,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
    ads_source,
    socket_address,
)
from controlplane.translate.resources import Common, Origin, Resource, ResourceType, serialise
from controlplane.translate.scope import OutboundClass, ProxyClass

CONFIG = Change(objects=frozenset({ObjectRef("DestinationRule", "default", "any")}))
ROUTES_ONLY = Change(objects=frozenset({ObjectRef("VirtualService", "default", "any")}))


def cluster_name(host: str) -> str:
    """The cluster of a service's port 80."""
    return f"outbound|80||{host}"


def _routed(host: str) -> str:
    return cluster_name(host.rpartition("=")[2])


class World(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a class shows. `clusters` maps a host to a number that changes its bytes."""

    clusters: Mapping[str, int] = {}
    endpoints: Mapping[str, tuple[str, ...]] = {}  # host -> addresses
    # route name -> hosts routed to; `front=reviews` goes to the cluster of another host
    routes: Mapping[str, tuple[str, ...]] = {}
    listeners: Mapping[str, int] = {}  # listener name -> a number that changes its bytes
    tcp: Mapping[str, tuple[str, ...]] = {}  # listener name -> hosts named directly
    targets: Mapping[str, str] = {}  # ip -> host: decides the class of a proxy
    private: Mapping[str, str] = {}  # host -> the only namespace that sees it
    # Names marked so that a client may reject them; `80/reviews` is a host of a route.
    broken: frozenset[str] = frozenset()
    disliked: frozenset[str] = frozenset()  # the same, rejected by some clients only

    def mark(self, *names: str) -> str:
        """Return what marks something with these names."""
        for marked, mark in ((self.broken, "broken"), (self.disliked, "disliked")):
            if not marked.isdisjoint(names):
                return mark
        return ""

    def with_(self, **changes: Any) -> World:
        """Return a copy with some fields replaced."""
        return msgspec.structs.replace(self, **changes)

    def snapshot(self) -> Snapshot:
        """Return a snapshot that carries this world."""
        services = {
            Host(host): Service(
                host=Host(host),
                name=host,
                namespace="default",
                ports=(ServicePort(name="http", number=80, protocol=PortProtocol.HTTP),),
                resolution=Resolution.CLIENT_SIDE_LB,
            )
            for host in {*self.clusters, *self.endpoints, *self.targets.values()}
        }
        ends: dict[str, list[PortEndpoint]] = {}
        for ip, host in self.targets.items():
            ends.setdefault(host, []).append(PortEndpoint(address=ip, port=80))
        endpoints = {
            Host(host): ServiceEndpoints.of({"http": PortEndpoints.of(own)})
            for host, own in ends.items()
        }
        return Snapshot(
            services=tuple(services.values()),
            service_by_host=services,
            endpoints=endpoints,
            targets=TargetIndex.of(endpoints),
        )


class FakeGenerator:
    """Makes resources of worlds; counts how often it was asked for real work."""

    def __init__(self) -> None:
        self.worlds: dict[int, tuple[Snapshot, World]] = {}
        self._made: dict[tuple[Any, ...], Resource] = {}
        self.made = 0

    def know(self, world: World) -> Snapshot:
        """Return a snapshot from which the generator finds the world again."""
        snapshot = world.snapshot()
        # Only the last few are needed: those that are being replaced.
        while len(self.worlds) > 8:
            self.worlds.pop(next(iter(self.worlds)))
        self.worlds[id(snapshot)] = (snapshot, world)
        return snapshot

    def world(self, snapshot: Snapshot) -> World:
        found = self.worlds.get(id(snapshot))
        return found[1] if found is not None else World()

    def classify(self, proxy: Proxy, snapshot: Snapshot) -> ProxyClass:
        host = next(
            (target.host for ip in proxy.ips for target in snapshot.targets_at(ip)),
            "",
        )
        return ProxyClass(
            outbound=OutboundClass(
                type=proxy.type,
                namespace=proxy.namespace,
                dns_domain=proxy.dns_domain,
                locality=host,
            )
        )

    def clusters(self, snapshot: Snapshot, cls: ProxyClass) -> tuple[Resource, ...]:
        world = self.world(snapshot)
        return tuple(
            self._cluster(host, number, world.mark(host))
            for host, number in world.clusters.items()
            if world.private.get(host, cls.outbound.namespace) == cls.outbound.namespace
        )

    def listeners(self, snapshot: Snapshot, cls: ProxyClass) -> tuple[Resource, ...]:
        world = self.world(snapshot)
        own = {f"own_{cls.outbound.locality}": 1} if cls.outbound.locality else {}
        return tuple(
            self._listener(
                name,
                number,
                tuple(world.tcp.get(name, ())),
                world.mark(name),
                name in world.routes,
            )
            for name, number in {**world.listeners, **own}.items()
        )

    def route(self, snapshot: Snapshot, cls: ProxyClass, name: str) -> Resource:
        world = self.world(snapshot)
        hosts = tuple(world.routes.get(name, ()))
        marks = tuple(world.mark(name, f"{name}/{host}") for host in hosts)
        return self._route(name, hosts, marks)

    def load_assignments(
        self, snapshot: Snapshot, cls: ProxyClass, clusters: tuple[str, ...]
    ) -> tuple[Resource, ...]:
        return tuple(self.load_assignment(snapshot, cls, cluster) for cluster in clusters)

    def load_assignment(self, snapshot: Snapshot, cls: ProxyClass, cluster: str) -> Resource:
        world = self.world(snapshot)
        host = cluster.rpartition("|")[2]
        known = host in world.clusters or host in world.endpoints
        addresses = tuple(world.endpoints.get(host, ())) if known else ()
        return self._assignment(cluster, addresses)

    def name_table(self, snapshot: Snapshot, cls: ProxyClass) -> Resource:
        table = NameTable()
        for host in self.world(snapshot).clusters:
            table.table[host].ips.extend(self.world(snapshot).endpoints.get(host, ()))
        return Resource.of(ResourceType.NAME_TABLE, "", serialise(table))

    def _cluster(self, host: str, number: int, mark: str) -> Resource:
        key = ("c", host, number, mark)
        if key not in self._made:
            self.made += 1
            name = cluster_name(host)
            message = Cluster(name=name, type=Cluster.EDS)
            message.connect_timeout.FromMilliseconds(1000 + number)
            message.eds_cluster_config.eds_config.CopyFrom(ads_source())
            message.eds_cluster_config.service_name = name
            message.alt_stat_name = mark
            self._made[key] = Resource.of(
                Common(ResourceType.CLUSTER, by_eds=True),
                name,
                serialise(message),
                made_of=(Origin("", ObjectRef("DestinationRule", "default", host), "spec"),),
            )
        return self._made[key]

    def _listener(
        self, name: str, number: int, hosts: tuple[str, ...], mark: str, routed: bool
    ) -> Resource:
        key = ("l", name, number, hosts, mark, routed)
        if key not in self._made:
            self.made += 1
            message = Listener(name=name, stat_prefix=f"{number}{mark}")
            message.address.CopyFrom(socket_address("0.0.0.0", 10_000 + number))
            self._made[key] = Resource.of(
                Common(
                    ResourceType.LISTENER,
                    clusters=frozenset(map(cluster_name, hosts)),
                    routes=frozenset({name}) if routed else frozenset(),
                ),
                name,
                serialise(message) + b"".join(sorted(_unknown(host) for host in hosts)),
                made_of=(Origin("", ObjectRef("Gateway", "default", name)),),
            )
        return self._made[key]

    def _route(self, name: str, hosts: tuple[str, ...], marks: tuple[str, ...]) -> Resource:
        key = ("r", name, hosts, marks)
        if key not in self._made:
            self.made += 1
            message = RouteConfiguration(
                name=name,
                virtual_hosts=[
                    VirtualHost(
                        name=host.partition("=")[0],
                        domains=[host.partition("=")[0]],
                        routes=[
                            Route(
                                name=mark,
                                match=RouteMatch(prefix="/"),
                                route=RouteAction(cluster=_routed(host)),
                            )
                        ],
                    )
                    for host, mark in zip(hosts, marks, strict=True)
                ],
            )
            whole = Resource.of(
                Common(ResourceType.ROUTE, clusters=frozenset(map(_routed, hosts))),
                name,
                serialise(message),
                made_of=tuple(
                    Origin(
                        f"virtual_hosts[{host}]",
                        ObjectRef("VirtualService", "default", host),
                        "spec.http",
                    )
                    for host in hosts
                ),
            )
            self._made[key] = Resource.of(ResourceType.ROUTE, name, joined(whole))
        return self._made[key]

    def _assignment(self, cluster: str, addresses: tuple[str, ...]) -> Resource:
        key = ("e", cluster, addresses)
        if key not in self._made:
            self.made += 1
            message = ClusterLoadAssignment(cluster_name=cluster)
            if addresses:
                message.endpoints.append(
                    LocalityLbEndpoints(
                        lb_endpoints=[
                            LbEndpoint(endpoint=Endpoint(address=socket_address(address, 80)))
                            for address in addresses
                        ]
                    )
                )
            self._made[key] = Resource.of(ResourceType.ENDPOINT, cluster, serialise(message))
        return self._made[key]


def _unknown(text: str) -> bytes:
    """A field of Listener that old and new Envoys skip: makes the bytes depend on the text."""
    raw = text.encode()
    return bytes([0xFA, 0x7F, len(raw)]) + raw  # field 2047, length delimited


def frozen(**entries: Iterable[str]) -> FrozenDict[str, tuple[str, ...]]:
    """Return a mapping of tuples."""
    return FrozenDict({key: tuple(value) for key, value in entries.items()})

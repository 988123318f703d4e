"""Proxy classes: which proxies get the same bytes.

`ProxyClass` holds every fact of the node that translation reads, and `classify` alone makes it
(rule 4). The rule that is easy to break: a translate function that wants one more fact of the
proxy must get it through a new field here, never through the Proxy itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

from controlplane.model.base import NO_LABELS, Labels, Model
from controlplane.model.destination_rule import PortTrafficPolicy, TrafficPolicy
from controlplane.model.diff import moved_between
from controlplane.model.names import Host
from controlplane.model.proxy import InterceptionMode, Proxy, ProxyType
from controlplane.model.services import NO_ENDPOINTS, Protocol, Service
from controlplane.model.several import Several
from controlplane.model.snapshot import ServiceTarget, Snapshot, selects
from controlplane.model.table import changed_keys
from controlplane.model.targets import moved_addresses

# Extensions of a client that change what it is sent. Any other is of no interest, and leaving
# it out of the key keeps Envoys of different builds in one class.
EXTENSIONS_READ = frozenset({"istio.stats", "istio.alpn", "istio.metadata_exchange"})


class OutboundClass(Model):
    """Every fact of a node that outbound and gateway translation reads.

    `labels` are only those labels of the proxy that some object in the mesh matches on.
    `own_headless` are the proxy's addresses that are endpoints of headless TCP services: a
    sidecar gets no outbound listener for itself.
    """

    type: ProxyType
    namespace: str
    dns_domain: str
    interception_mode: InterceptionMode = "REDIRECT"
    ipv4: bool = True
    ipv6: bool = False
    serves_secrets: bool = False
    labels: Labels = NO_LABELS
    locality: str = ""
    node_name: str = ""
    network: str = ""
    cluster_id: str = ""
    dns_capture: bool = False
    dns_auto_allocate: bool = False
    http10: bool = False
    idle_timeout: str = ""
    http_proxy_port: int = 0
    unprivileged: bool = False
    exact_balance: bool = False
    extensions: frozenset[str] = frozenset()
    own_headless: tuple[str, ...] = ()
    # Router only: service port -> target port of the Services that select the gateway's pods.
    gateway_ports: tuple[tuple[int, int], ...] = ()

    @property
    def is_router(self) -> bool:
        """Whether the proxy is a gateway."""
        return self.type is ProxyType.ROUTER

    @property
    def wildcard_address(self) -> str:
        """The address that means "all" in the proxy's IP family."""
        return "::" if self.ipv6 and not self.ipv4 else "0.0.0.0"

    @property
    def loopback_address(self) -> str:
        """The loopback address of the proxy's IP family."""
        return "::1" if self.ipv6 and not self.ipv4 else "127.0.0.1"


class InboundTarget(Model):
    """One target port of the workload and the service port that named it first."""

    target_port: int
    host: Host
    service_port: int
    service_port_name: str
    protocol: Protocol
    service_name: str
    service_namespace: str


class InboundClass(Model):
    """Every fact of a node that inbound translation reads; replicas share it."""

    targets: tuple[InboundTarget, ...] = ()
    outranked: tuple[InboundTarget, ...] = ()  # on ports of `targets`, by services that are younger
    namespace: str = ""
    interception_mode: InterceptionMode = "REDIRECT"
    ipv4: bool = True
    ipv6: bool = False
    serves_secrets: bool = False
    http10: bool = False
    idle_timeout: str = ""
    exact_balance: bool = False
    extensions: frozenset[str] = frozenset()


class ProxyClass(Model):
    """What decides a proxy's bytes. Routers and proxies without capture have no inbound part."""

    outbound: OutboundClass
    inbound: InboundClass | None = None


_PROXIES_KEPT = 1 << 14  # whose classes are remembered, those that have left included


class _Matters(NamedTuple):
    """What routing and policies make of proxies: which of their facts count at all."""

    labels: frozenset[tuple[str, str]]
    locality: bool


class Classifier:
    """Finds the class of proxies within one snapshot, and within later ones that `fit`.

    What has to be known of the snapshot (which labels objects match on, whether localities and
    nodes matter) is found once here, and each proxy is looked at once. What reads nothing that
    has changed since is taken over from the classifier before.
    """

    def __init__(self, snapshot: Snapshot, before: Classifier | None = None) -> None:
        self._read = snapshot  # until now: to see whether its parts are still the same
        # Without its other parts, so that they are neither read nor kept.
        self._snapshot = Snapshot(
            services=snapshot.services,
            service_by_host=snapshot.service_by_host,
            endpoints=snapshot.endpoints,
            targets=snapshot.targets,
            pods_by_ip=snapshot.pods_by_ip,
        )
        self._matters = _matters(snapshot) if before is None else before._matters_in(snapshot)
        self._node_matters: bool
        self._selecting: Mapping[str, Several[str, Service]]
        if before is not None and before._snapshot.services is snapshot.services:
            self._node_matters, self._selecting = before._node_matters, before._selecting
        else:
            self._node_matters = any(service.node_local for service in snapshot.services)
            self._selecting = _selecting(snapshot.services)
        # A dict and no Memo, which would hold this classifier in turn: there is one for each
        # snapshot, and a cycle would keep snapshots until the garbage is collected.
        self._known: dict[Proxy, ProxyClass] = {}
        self._classes: dict[ProxyClass, ProxyClass] = {}  # many proxies point to one
        # Before anybody is known, what moved is everything: a megabyte of addresses for nothing.
        if before is not None and 0 < len(before._known) <= _PROXIES_KEPT:
            self._take_over(before)

    def _take_over(self, before: Classifier) -> None:
        """Keep the classes of the proxies that are instances of no service that changed."""
        old, new = before._snapshot, self._snapshot
        endpoints = changed_keys(old.endpoints, new.endpoints)
        if (
            new.pods_by_ip is not old.pods_by_ip
            or self._matters != before._matters
            or self._node_matters != before._node_matters
            or (endpoints and self._matters.locality)
        ):
            return
        addresses = set(moved_between(old, new, endpoints))
        selectors: dict[str, list[Labels]] = {}
        for host in changed_keys(old.service_by_host, new.service_by_host):
            for snapshot in (old, new):
                addresses |= moved_addresses(snapshot.endpoints_of(host), NO_ENDPOINTS)
                service: Service | None = snapshot.service_by_host.get(host)
                if service is not None and service.selector:
                    selectors.setdefault(service.namespace, []).append(service.selector)
        self._known, before._known = before._known, {}
        self._classes, before._classes = before._classes, {}
        if not addresses and not selectors:
            return
        concerned = [
            proxy
            for proxy in self._known
            if not addresses.isdisjoint(proxy.ips)
            or any(
                selects(found, self._labels(proxy)) for found in selectors.get(proxy.namespace, ())
            )
        ]
        for proxy in concerned:
            del self._known[proxy]

    def fits(self, snapshot: Snapshot) -> bool:
        """Whether every proxy has the same class in a later snapshot."""
        mine = self._snapshot
        if not (
            snapshot.services is mine.services
            and snapshot.service_by_host is mine.service_by_host
            and snapshot.targets is mine.targets
            and snapshot.pods_by_ip is mine.pods_by_ip
            and (snapshot.endpoints is mine.endpoints or not self._matters.locality)
            and self._matters_in(snapshot) == self._matters
        ):
            return False
        self._read = snapshot
        if len(self._known) > _PROXIES_KEPT:
            self._known.clear()
        if len(self._classes) > len(self._known):
            self._classes.clear()
        return True

    def _matters_in(self, snapshot: Snapshot) -> _Matters:
        """Return what counts in a later snapshot, where that reads the same without looking."""
        before = self._read
        same_objects = (
            snapshot.gateways is before.gateways
            and snapshot.routing.source_labels == before.routing.source_labels
            and snapshot.destination_rules is before.destination_rules
            and snapshot.mesh is before.mesh
        )
        return self._matters if same_objects else _matters(snapshot)

    def classify(self, proxy: Proxy) -> ProxyClass:
        """Return the class of a proxy."""
        found = self._known.get(proxy)
        if found is None:
            found = self._known[proxy] = self._classify(proxy)
        return found

    def _classify(self, proxy: Proxy) -> ProxyClass:
        """The only place where a class is made."""
        labels, matched = self._labels(proxy), self._matters.labels
        targets = self.service_targets(proxy)
        extensions = proxy.extensions & EXTENSIONS_READ
        outbound = OutboundClass(
            type=proxy.type,
            namespace=proxy.namespace,
            dns_domain=proxy.dns_domain,
            interception_mode=proxy.interception_mode,
            ipv4=proxy.supports_ipv4,
            ipv6=proxy.supports_ipv6,
            serves_secrets=proxy.serves_secrets,
            labels=Labels({item[0]: item[1] for item in labels.items() if item in matched}),
            locality=self._locality(proxy) if self._matters.locality else "",
            node_name=self._node(proxy) if self._node_matters else "",
            dns_capture=proxy.dns_capture,
            dns_auto_allocate=proxy.dns_auto_allocate,
            http10=proxy.http10,
            idle_timeout=proxy.idle_timeout,
            http_proxy_port=proxy.http_proxy_port,
            unprivileged=proxy.unprivileged,
            exact_balance=proxy.outbound_exact_balance,
            extensions=extensions,
            own_headless=self._own_headless(proxy, targets),
            gateway_ports=tuple(sorted({(target.port, target.target_port) for target in targets}))
            if proxy.type is ProxyType.ROUTER
            else (),
        )
        made = ProxyClass(outbound=outbound, inbound=self._inbound(proxy, targets, extensions))
        return self._classes.setdefault(made, made)

    def service_targets(self, proxy: Proxy) -> tuple[ServiceTarget, ...]:
        """Return the service ports that end at this proxy, in the order of the services.

        By address first; a proxy whose address is no endpoint yet is matched by its labels,
        so that its listeners are there before its pod is ready (Istio's
        getProxyServiceTargetsFromMetadata).
        """
        found = [target for ip in proxy.ips for target in self._snapshot.targets_at(ip)]
        if not found:
            found = list(self._targets_by_labels(proxy))
        if len(found) < 2:
            return tuple(found)
        return tuple(sorted(set(found), key=self._age))

    def _age(self, target: ServiceTarget) -> tuple[tuple[str, Host], ServiceTarget]:
        return (self._snapshot.service_by_host[target.host].age, target)

    def _labels(self, proxy: Proxy) -> Labels:
        if proxy.labels:
            return proxy.labels
        for ip in proxy.ips:
            pod = self._snapshot.pods_by_ip.get(ip)
            if pod is not None and not pod.spec.host_network:
                return pod.metadata.labels
        return NO_LABELS

    def _locality(self, proxy: Proxy) -> str:
        if proxy.locality:
            return proxy.locality
        for target in self.service_targets(proxy):
            for endpoints in self._snapshot.endpoints_of(target.host).groups:
                for endpoint in endpoints:
                    if endpoint.address in proxy.ips and endpoint.workload.locality:
                        return endpoint.workload.locality
        return ""

    def _node(self, proxy: Proxy) -> str:
        if proxy.node_name:
            return proxy.node_name
        pods = (self._snapshot.pods_by_ip.get(ip) for ip in proxy.ips)
        return next((pod.spec.node_name for pod in pods if pod is not None), "")

    def _targets_by_labels(self, proxy: Proxy) -> Iterator[ServiceTarget]:
        labels = self._labels(proxy)
        if not labels:
            return
        named = {port.name: port.container_port for port in proxy.pod_ports if port.name}
        by_value = self._selecting.get(proxy.namespace)
        if by_value is None:
            return
        found = map(by_value.get, dict.fromkeys(labels.values()))
        for service in chain.from_iterable(found):
            if not selects(service.selector, labels):
                continue
            for port in service.ports:
                match port.target_port:
                    case int(number):
                        yield ServiceTarget(
                            service.host, port.number, port.name, number or port.number
                        )
                    case str(name) if name in named:
                        yield ServiceTarget(service.host, port.number, port.name, named[name])

    def _own_headless(self, proxy: Proxy, targets: tuple[ServiceTarget, ...]) -> tuple[str, ...]:
        if proxy.type is ProxyType.ROUTER:
            return ()
        for target in targets:
            service = self._snapshot.service_by_host.get(target.host)
            if service is None or not service.is_headless:
                continue
            port = service.port(target.port)
            if port is not None and not port.protocol.is_http:
                return tuple(sorted(proxy.ips))
        return ()

    def _inbound(
        self, proxy: Proxy, targets: tuple[ServiceTarget, ...], extensions: frozenset[str]
    ) -> InboundClass | None:
        if proxy.type is ProxyType.ROUTER or proxy.interception_mode == "NONE":
            return None
        by_port: dict[int, InboundTarget] = {}
        outranked: list[InboundTarget] = []
        for target in targets:
            service = self._snapshot.service_by_host.get(target.host)
            port = service.port(target.port) if service is not None else None
            if service is None or port is None or port.protocol is Protocol.UDP:
                continue
            # Two services on one target port: the older one decides, and the targets come in
            # the order of the services.
            made = InboundTarget(
                target_port=target.target_port,
                host=service.host,
                service_port=port.number,
                service_port_name=port.name,
                protocol=port.protocol,
                service_name=service.name,
                service_namespace=service.namespace,
            )
            first = by_port.setdefault(target.target_port, made)
            if (first.host, first.protocol) != (made.host, made.protocol):
                outranked.append(made)
        return InboundClass(
            targets=tuple(by_port[port] for port in sorted(by_port)),
            outranked=tuple(outranked),
            namespace=proxy.namespace,
            interception_mode=proxy.interception_mode,
            ipv4=proxy.supports_ipv4,
            ipv6=proxy.supports_ipv6,
            serves_secrets=proxy.serves_secrets,
            http10=proxy.http10,
            idle_timeout=proxy.idle_timeout,
            exact_balance=proxy.inbound_exact_balance,
            extensions=extensions,
        )


def _selecting(services: Iterable[Service]) -> dict[str, Several[str, Service]]:
    """Return services by namespace and the value of one label of their selector.

    A proxy that has no such value is not selected.
    """
    found: dict[str, Several[str, Service]] = {}
    for service in services:
        if service.selector:
            value = next(iter(service.selector.values()))
            by_value = found.setdefault(service.namespace, Several())
            by_value.put(value, (*by_value.get(value), service))
    return found


def _matters(snapshot: Snapshot) -> _Matters:
    return _Matters(frozenset(_matched_labels(snapshot)), _locality_matters(snapshot))


def _matched_labels(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """The labels that some object of the mesh matches proxies by."""
    for gateway in snapshot.gateways:
        yield from (gateway.spec.selector or {}).items()
    yield from snapshot.routing.source_labels
    for rule in snapshot.destination_rules:
        selector = rule.spec.workload_selector
        if selector is not None:
            yield from (selector.match_labels or {}).items()


def _locality_matters(snapshot: Snapshot) -> bool:
    """Whether some load assignment can depend on the client's locality.

    Istio orders endpoints by locality only where outlier detection or an explicit setting
    asks for it (core/loadbalancer).
    """
    mesh = snapshot.mesh
    defaults = mesh.default_traffic_policy
    if mesh.locality_lb_setting.distribute or (
        defaults is not None and defaults.outlier_detection is not None
    ):
        return True
    for rule in snapshot.destination_rules:
        subsets = (subset.traffic_policy for subset in rule.spec.subsets)
        for policy in (rule.spec.traffic_policy, *subsets):
            if policy is None:
                continue
            parts: tuple[TrafficPolicy | PortTrafficPolicy, ...] = (
                policy,
                *policy.port_level_settings,
            )
            for part in parts:
                balancer = part.load_balancer
                if part.outlier_detection is not None or (
                    balancer is not None and balancer.locality_lb_setting is not None
                ):
                    return True
    return False

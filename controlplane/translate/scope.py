"""Proxy classes: which proxies get the same bytes.

`ProxyClass` holds every fact of the node that translation reads, and `classify` alone makes it
(rule 4). The rule that is easy to break: a translate function that wants one more fact of the
proxy must get it through a new field here, never through the Proxy itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from controlplane.model.base import NO_LABELS, Labels, Model
from controlplane.model.names import Host
from controlplane.model.proxy import InterceptionMode, Proxy, ProxyType
from controlplane.model.services import Protocol, Service
from controlplane.model.snapshot import ServiceTarget, Snapshot, selects

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

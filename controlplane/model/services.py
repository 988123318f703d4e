"""The mesh's idea of a service, whatever declared it, and of its endpoints.

A `Service` says nothing about endpoints, an `Endpoint` nothing about other endpoints, so that
a change of one leaves the other's identity (and everything cached by it) alone.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from msgspec import structs

from controlplane.model.base import NO_LABELS, Labels, Model, one
from controlplane.model.meta import ObjectRef
from controlplane.model.names import Host


class Protocol(enum.StrEnum):
    """The protocol of a port as Istio groups it; UNSUPPORTED means "detect"."""

    HTTP = "HTTP"
    HTTP2 = "HTTP2"
    GRPC = "GRPC"
    GRPC_WEB = "GRPC-Web"
    HTTPS = "HTTPS"
    TLS = "TLS"
    TCP = "TCP"
    UDP = "UDP"
    MONGO = "Mongo"
    REDIS = "Redis"
    MYSQL = "MySQL"
    UNSUPPORTED = "UnsupportedProtocol"

    @property
    def is_http(self) -> bool:
        """Whether routes and an HTTP connection manager apply."""
        return self in _HTTP

    @property
    def is_http2(self) -> bool:
        """Whether the upstream speaks HTTP/2."""
        return self in _HTTP2

    @property
    def is_tcp(self) -> bool:
        """Whether bytes are passed on as they are."""
        return self in _TCP


_HTTP: Final = frozenset({Protocol.HTTP, Protocol.HTTP2, Protocol.GRPC, Protocol.GRPC_WEB})
_HTTP2: Final = frozenset({Protocol.HTTP2, Protocol.GRPC, Protocol.GRPC_WEB})
_TCP: Final = frozenset(
    {Protocol.TCP, Protocol.HTTPS, Protocol.TLS, Protocol.MONGO, Protocol.REDIS, Protocol.MYSQL}
)
_APP_PROTOCOLS: Final = {
    "kubernetes.io/h2c": Protocol.HTTP2,
    "kubernetes.io/ws": Protocol.HTTP,
    "kubernetes.io/wss": Protocol.HTTPS,
}
_BY_NAME: Final = {
    "http": Protocol.HTTP,
    "http2": Protocol.HTTP2,
    "grpc": Protocol.GRPC,
    "grpc-web": Protocol.GRPC_WEB,
    "https": Protocol.HTTPS,
    "tls": Protocol.TLS,
    "tcp": Protocol.TCP,
    "udp": Protocol.UDP,
    "mongo": Protocol.MONGO,
    "redis": Protocol.REDIS,
    "mysql": Protocol.MYSQL,
}
# Ports whose protocol lets the server speak first: detection would wait for the client.
_SERVER_FIRST_PORTS: Final = frozenset({25, 53, 3306, 27017})


def parse_protocol(text: str) -> Protocol:
    """Return the protocol that a word such as `HTTP2` or `grpc-web` names (any case)."""
    return _BY_NAME.get(text.lower(), Protocol.UNSUPPORTED)


def port_protocol(*, number: int, name: str, transport: str, app_protocol: str | None) -> Protocol:
    """Return a port's protocol: appProtocol, then the port name's prefix, then detection.

    Source: Istio's kube/conversion.go. Ports 25, 53, 3306 and 27017 are TCP when nothing says
    otherwise.
    """
    if transport == "UDP":
        return Protocol.UDP
    if app_protocol:
        known = _APP_PROTOCOLS.get(app_protocol.lower())
        found = known if known is not None else parse_protocol(app_protocol)
        if found is not Protocol.UNSUPPORTED:
            return found
    else:
        lowered = name.lower()
        if lowered.startswith("grpc-web"):
            return Protocol.GRPC_WEB
        found = parse_protocol(lowered.partition("-")[0])
        if found is not Protocol.UNSUPPORTED:
            return found
    return Protocol.TCP if number in _SERVER_FIRST_PORTS else Protocol.UNSUPPORTED


class Resolution(enum.StrEnum):
    """How the endpoints of a service are found."""

    CLIENT_SIDE_LB = "ClientSideLB"
    DNS_LB = "DNSLB"
    DNS_ROUND_ROBIN_LB = "DNSRoundRobinLB"
    PASSTHROUGH = "Passthrough"
    ALIAS = "Alias"
    DYNAMIC_DNS = "DynamicDNS"


class ServicePort(Model):
    """A port of a service."""

    name: str
    number: int
    protocol: Protocol
    target_port: int | str = 0  # a name is resolved against the pod's container ports


class Service(Model, cache_hash=False):
    """A service of the mesh.

    Its hash is that of its host, which the text keeps: a number of its own would cost more.

    `addresses` are virtual IPs (or CIDRs of a ServiceEntry), empty for headless services.
    `export_to` holds `*`, `.` or namespace names; empty means the mesh default.
    """

    host: Host
    name: str
    namespace: str
    ports: tuple[ServicePort, ...]
    resolution: Resolution = Resolution.CLIENT_SIDE_LB
    addresses: tuple[str, ...] = ()
    creation_timestamp: str = ""
    labels: Labels = NO_LABELS
    selector: Labels | None = None
    export_to: tuple[str, ...] = ()
    alias_of: Host | None = None  # ExternalName: the host behind
    external: bool = False  # ServiceEntry MESH_EXTERNAL
    provider: str = "Kubernetes"  # or "External"
    subject_alt_names: tuple[str, ...] = ()
    node_local: bool = False  # internalTrafficPolicy: Local
    ref: ObjectRef = ObjectRef("Service", "", "")

    @property
    def age(self) -> tuple[str, Host]:
        """What services are sorted by, the oldest first."""
        return (self.creation_timestamp, self.host)

    def __hash__(self) -> int:
        return hash(self.host)

    @property
    def is_headless(self) -> bool:
        """Whether a Kubernetes service has no virtual IP."""
        return self.provider == "Kubernetes" and self.resolution is Resolution.PASSTHROUGH

    @property
    def frontend(self) -> Service:
        """The service as its clients address it: without labels, selector and target ports."""
        ports = tuple([structs.replace(port, target_port=0) for port in self.ports])
        return structs.replace(self, labels=NO_LABELS, selector=None, ports=ports)

    def port(self, number: int) -> ServicePort | None:
        """Return the port with that number, None when there is none."""
        for port in self.ports:
            if port.number == number:
                return port
        return None


class Health(enum.IntEnum):
    """Envoy's core.v3.HealthStatus values that the mesh uses."""

    HEALTHY = 1
    UNHEALTHY = 2
    DRAINING = 3


class Workload(Model):
    """What is known of the workload behind endpoints; shared by all its endpoints."""

    name: str = ""
    namespace: str = ""
    labels: Labels = NO_LABELS
    service_account: str = ""
    node: str = ""
    locality: str = ""  # region/zone/subzone
    network: str = ""
    cluster: str = ""
    tls_mode: str = "disabled"  # "istio" when the workload has a sidecar that takes mTLS


class Endpoint(Model, cache_hash=False):
    """One address and port that serves."""

    address: str  # IP address, DNS name (ServiceEntry DNS) or unix path with port 0
    port: int
    health: Health = Health.HEALTHY
    weight: int = 1
    workload: Workload = Workload()
    source: ObjectRef | None = None


class Leaving(NamedTuple):
    """Where a workload shuts down: no endpoint any more, but it still has its listeners."""

    address: str
    port_name: str  # of the service
    port: int


class ServiceEndpoints(Model, cache_hash=False):
    """All endpoints of one service, by port name, each in a fixed order (address, port)."""

    names: tuple[str, ...] = ()  # of the ports that have endpoints
    # Those of each name, kept as `PortEndpoints`; of a single name, as most services have, alone.
    kept: Sequence[Endpoint] | tuple[Sequence[Endpoint], ...] = ()
    leaving: tuple[Leaving, ...] = ()

    @classmethod
    def of(
        cls, by_port: Mapping[str, Sequence[Endpoint]], leaving: Iterable[Leaving] = ()
    ) -> ServiceEndpoints:
        """Return the endpoints of these ports, whatever their order."""
        names = one(tuple(sorted(by_port)))
        groups = tuple([by_port[name] for name in names])
        return cls(
            names=names,
            kept=groups[0] if len(groups) == 1 else groups,
            leaving=tuple(sorted(leaving)),
        )

    @property
    def groups(self) -> tuple[Sequence[Endpoint], ...]:
        """The endpoints of each port, parallel to the names."""
        kept: Any = self.kept
        found: tuple[Sequence[Endpoint], ...] = (kept,) if len(self.names) == 1 else kept
        return found

    @property
    def by_port(self) -> Mapping[str, Sequence[Endpoint]]:
        """The endpoints by port name."""
        return dict(zip(self.names, self.groups, strict=True))

    def at(self, port_name: str) -> Sequence[Endpoint]:
        """Return the endpoints of a port, none when it has none."""
        for name, group in zip(self.names, self.groups, strict=True):
            if name == port_name:
                return group
        return ()

    def __bool__(self) -> bool:
        """Whether there is anything at all."""
        return bool(self.names or self.leaving)


NO_ENDPOINTS: Final = ServiceEndpoints()

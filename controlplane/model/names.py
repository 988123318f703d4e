"""The names that appear on the wire, and the rules that make and match them.

Every name of a cluster, listener, route configuration or virtual host is made here and only
here (source: Istio's model/service.go naming, see ARCHITECTURE.md).
"""

from __future__ import annotations

import sys
from typing import Final, NamedTuple, NewType

Host = NewType("Host", str)
ClusterName = NewType("ClusterName", str)
ListenerName = NewType("ListenerName", str)
RouteName = NewType("RouteName", str)

PASSTHROUGH_CLUSTER: Final = ClusterName("PassthroughCluster")
BLACK_HOLE_CLUSTER: Final = ClusterName("BlackHoleCluster")
INBOUND_PASSTHROUGH_CLUSTER: Final = ClusterName("InboundPassthroughCluster")
VIRTUAL_OUTBOUND: Final = ListenerName("virtualOutbound")
VIRTUAL_INBOUND: Final = ListenerName("virtualInbound")
MESH_GATEWAY: Final = "mesh"

_GROUP_OF_KIND: Final = {
    "Gateway": ("networking.istio.io", "v1", "gateway"),
    "VirtualService": ("networking.istio.io", "v1", "virtual-service"),
    "DestinationRule": ("networking.istio.io", "v1", "destination-rule"),
    "ServiceEntry": ("networking.istio.io", "v1", "service-entry"),
    "WorkloadEntry": ("networking.istio.io", "v1", "workload-entry"),
}


class ClusterParts(NamedTuple):
    """The four parts of an Istio cluster name."""

    direction: str
    port: int
    subset: str
    host: Host


def outbound_cluster(port: int, subset: str, host: str) -> ClusterName:
    """`outbound|PORT|SUBSET|HOST`."""
    # One string for the cluster, its load assignment, routes and subscriptions.
    return ClusterName(sys.intern(f"outbound|{port}|{subset}|{host}"))


def inbound_cluster(target_port: int) -> ClusterName:
    """`inbound|TARGETPORT||`."""
    return ClusterName(f"inbound|{target_port}||")


def default_sni(port: int, subset: str, host: str) -> str:
    """The SNI of Istio mTLS: `outbound_.PORT_.SUBSET_.HOST`."""
    return f"outbound_.{port}_.{subset}_.{host}"


def parse_cluster(name: str) -> ClusterParts | None:
    """Return the parts of `DIRECTION|PORT|SUBSET|HOST`, None when `name` has another form."""
    parts = name.split("|")
    if len(parts) != 4 or not parts[1].isdigit():
        return None
    return ClusterParts(parts[0], int(parts[1]), parts[2], Host(parts[3]))


def listener_name(bind: str, port: int) -> ListenerName:
    """`BIND_PORT`, as Istio names every listener but the two virtual ones."""
    return ListenerName(f"{bind}_{port}")


def gateway_route(port: int, bind: str = "") -> RouteName:
    """`http.PORT[.BIND]`: the route configuration of a gateway's HTTP port."""
    return RouteName(f"http.{port}.{bind}" if bind else f"http.{port}")


def service_host(name: str, namespace: str, domain: str) -> Host:
    """`NAME.NAMESPACE.svc.DOMAIN`: the host of a Kubernetes Service."""
    # One string for the service and for every rule that means it.
    return Host(sys.intern(f"{name}.{namespace}.svc.{domain}"))


def resolve_host(host: str, namespace: str, domain: str) -> Host:
    """Return the host that a short name means in `namespace`.

    A name without a dot is a Kubernetes Service of the namespace; anything else, a wildcard
    or an IPv6 address included, is taken as it is (Istio's ResolveShortnameToFQDN).
    """
    if not host or "*" in host or "." in host or ":" in host:
        return Host(host)
    return service_host(host, namespace, domain)


def is_wildcard(host: str) -> bool:
    """Whether the host begins with `*`."""
    return host.startswith("*")


def host_covers(pattern: str, host: str) -> bool:
    """Whether every name that `host` stands for is also meant by `pattern`.

    `*.com` covers `a.com` and `*.a.com`; `*` covers everything; an exact pattern only itself.
    """
    if pattern.startswith("*"):
        if host.startswith("*"):
            return len(host) >= len(pattern) and host[1:].endswith(pattern[1:])
        return host.endswith(pattern[1:]) and len(host) >= len(pattern)
    return pattern == host


def hosts_overlap(first: str, second: str) -> bool:
    """Whether some name is meant by both hosts."""
    return host_covers(first, second) or host_covers(second, first)


def specificity(host: str) -> tuple[bool, int, str]:
    """Sort key: exact before wildcard, a longer wildcard before a shorter one, then by name."""
    return (host.startswith("*"), -len(host), host)


def config_path(kind: str, namespace: str, name: str) -> str:
    """The `istio.config` metadata value of an object."""
    group, version, word = _GROUP_OF_KIND[kind]
    return f"/apis/{group}/{version}/namespaces/{namespace}/{word}/{name}"


def gateway_key(gateway: str, namespace: str) -> str:
    """Return `NAMESPACE/NAME` for a gateway name of a VirtualService in `namespace`.

    `mesh` stays as it is (Istio's resolveGatewayName).
    """
    if gateway == MESH_GATEWAY:
        return gateway
    if "/" not in gateway:
        return f"{namespace}/{gateway}"
    owner, _, name = gateway.partition("/")
    return f"{namespace}/{name}" if owner == "." else gateway

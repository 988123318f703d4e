"""The rows of `pylot proxy-config`: listeners, clusters, routes, bootstrap as istioctl shows them.

Owns columns, filters and order. Must not know where a dump came from or how a table is printed.
Pure functions from messages (JSON data with proto field names) to tuples of cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from controlplane.cli.envoy_dump import Message
from controlplane.model.names import parse_cluster

LISTENER_COLUMNS: Final = ("ADDRESS", "PORT", "MATCH", "DESTINATION")
LISTENER_BRIEF: Final = ("ADDRESS", "PORT", "TYPE")
CLUSTER_COLUMNS: Final = (
    "SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE",
)  # fmt: skip
ROUTE_COLUMNS: Final = ("NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE")
ROUTE_BRIEF: Final = ("NAME", "VIRTUAL HOSTS")
BOOTSTRAP_COLUMNS: Final = ("FIELD", "VALUE")

_HTTP: Final = "envoy.filters.network.http_connection_manager"
_TCP: Final = "envoy.filters.network.tcp_proxy"
_BLACK_HOLE: Final = "BlackHoleCluster"
# istioctl's names for the lists of application protocols that Istio writes.
_PROTOCOLS: Final = {
    ("http/1.0", "http/1.1", "h2c"): "App: HTTP",
    ("http/1.1", "h2c"): "App: HTTP",
    (
        "http/1.0",
        "http/1.1",
        "h2c",
        "istio-http/1.0",
        "istio-http/1.1",
        "istio-h2",
    ): "App: HTTP TLS",
    ("istio", "istio-http/1.0", "istio-http/1.1", "istio-h2"): "App: Istio HTTP Plain",
    ("istio-http/1.0", "istio-http/1.1", "istio-h2"): "App: Istio HTTP",
    ("istio-peer-exchange", "istio"): "App: TCP TLS",
}
_DOMAINS_SHOWN: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What was asked for on the command line; an empty value asks for everything."""

    address: str = ""
    port: int = 0
    type: str = ""
    fqdn: str = ""
    direction: str = ""
    subset: str | None = None
    name: str = ""
    status: str = ""
    cluster: str = ""


def select_listeners(listeners: Iterable[Message], asked: Filter) -> list[Message]:
    """Return the listeners that the filter lets through, by port, address and type."""
    chosen = [
        listener
        for listener in listeners
        if _same(asked.address, _socket(listener)[0])
        and asked.port in (0, _socket(listener)[1])
        and _same(asked.type, listener_type(listener))
        and asked.name in ("", listener.get("name"))
    ]
    return sorted(
        chosen,
        key=lambda found: (_socket(found)[1], _socket(found)[0], listener_type(found)),
    )


def listener_rows(listeners: Iterable[Message]) -> Iterator[tuple[object, ...]]:
    """Yield a row per filter chain: what it matches and where it leads."""
    for listener in listeners:
        address, port = _socket(listener)
        for chain in _chains(listener):
            yield address, port, _match(chain), _destination(chain)


def listener_type_rows(listeners: Iterable[Message]) -> Iterator[tuple[object, ...]]:
    """Yield a row per listener with its type."""
    for listener in listeners:
        yield *_socket(listener), listener_type(listener)


def listener_type(listener: Message) -> str:
    """Return HTTP, TCP, HTTP+TCP or UNKNOWN; a chain into the black hole does not count."""
    http = tcp = False
    for chain in _chains(listener):
        for kind, config in _filters(chain):
            http |= kind == _HTTP
            tcp |= kind == _TCP and config.get("cluster") != _BLACK_HOLE
    if http:
        return "HTTP+TCP" if tcp else "HTTP"
    return "TCP" if tcp else "UNKNOWN"


def select_clusters(clusters: Iterable[Message], asked: Filter) -> list[Message]:
    """Return the clusters that the filter lets through, by host, subset, port, direction."""

    def wanted(cluster: Message) -> bool:
        host, port, subset, direction = _cluster_parts(cluster)
        return (
            _same(asked.fqdn, host)
            and asked.port in (0, port)
            and (asked.subset is None or asked.subset == subset)
            and _same(asked.direction, direction)
            and asked.name in ("", cluster.get("name"))
        )

    def key(cluster: Message) -> tuple[str, str, int, str]:
        host, port, subset, direction = _cluster_parts(cluster)
        return host, subset, port, direction

    return sorted((cluster for cluster in clusters if wanted(cluster)), key=key)


def cluster_rows(clusters: Iterable[Message]) -> Iterator[tuple[object, ...]]:
    """Yield a row per cluster."""
    for cluster in clusters:
        host, port, subset, direction = _cluster_parts(cluster)
        kind = cluster.get("type") or cluster.get("cluster_type", {}).get("name", "STATIC")
        yield host, port or "-", subset or "-", direction or "-", kind, _config(cluster)


def select_routes(routes: Iterable[Message], asked: Filter) -> list[Message]:
    """Return the route configurations that the filter lets through, numbers first."""
    chosen = [route for route in routes if asked.name in ("", route.get("name"))]
    return sorted(chosen, key=_route_order)


def route_rows(routes: Iterable[Message]) -> Iterator[tuple[object, ...]]:
    """Yield a row per route of each virtual host; a virtual host without routes has one, too."""
    for route in routes:
        name = route.get("name", "")
        for host in route.get("virtual_hosts", ()):
            start = (name, host.get("name", ""), _domains(host.get("domains", ())))
            entries: Sequence[Message] = host.get("routes") or ({},)
            for entry in entries:
                yield *start, _route_match(entry.get("match", {})), _config(entry)


def route_count_rows(routes: Iterable[Message]) -> Iterator[tuple[object, ...]]:
    """Yield a row per route configuration with the number of its virtual hosts."""
    for route in routes:
        yield route.get("name", ""), len(route.get("virtual_hosts", ()))


def bootstrap_rows(bootstrap: Message) -> Iterator[tuple[object, ...]]:
    """Yield what one asks first about an Envoy: who it is and who configures it."""
    node = bootstrap.get("node", {})
    version = node.get("user_agent_build_version", {}).get("version", {})
    address, port = _socket(bootstrap.get("admin", {}))
    numbers = [str(version.get(part, 0)) for part in ("major_number", "minor_number", "patch")]
    yield "Node id", node.get("id", "-")
    yield "Cluster", node.get("cluster", "-")
    yield "Envoy version", ".".join(numbers) if version else "-"
    yield "Istio version", node.get("metadata", {}).get("ISTIO_VERSION", "-")
    yield "Admin address", f"{address}:{port}" if port else address or "-"
    yield "ADS cluster", _ads_cluster(bootstrap) or "-"


def _ads_cluster(bootstrap: Message) -> str:
    services = (
        bootstrap.get("dynamic_resources", {}).get("ads_config", {}).get("grpc_services") or ()
    )
    for service in services:
        name = service.get("envoy_grpc", {}).get("cluster_name")
        if name:
            return str(name)
    return ""


def _same(asked: str, found: str) -> bool:
    return not asked or asked.casefold() == found.casefold()


def _socket(message: Message) -> tuple[str, int]:
    address = message.get("address", {})
    if path := address.get("pipe", {}).get("path"):
        return str(path), 0
    if "internal_listener" in message:
        return f"envoy://{message.get('name', '')}", 0
    socket = address.get("socket_address", {})
    return str(socket.get("address", "")), int(socket.get("port_value", 0))


def _chains(listener: Message) -> Iterator[Message]:
    yield from listener.get("filter_chains", ())
    if (default := listener.get("default_filter_chain")) is not None:
        yield default


def _filters(chain: Message) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for entry in chain.get("filters", ()):
        yield entry.get("name", ""), entry.get("typed_config", {})


def _match(chain: Message) -> str:
    match = chain.get("filter_chain_match", {})
    said = []
    if names := match.get("server_names"):
        said.append(f"SNI: {','.join(names)}")
    if transport := match.get("transport_protocol"):
        said.append(f"Trans: {transport}")
    if protocols := match.get("application_protocols"):
        said.append(_PROTOCOLS.get(tuple(protocols), f"App: {','.join(protocols)}"))
    port = match.get("destination_port")
    suffix = f":{port}" if port else ""
    if ranges := match.get("prefix_ranges"):
        said.append(
            "Addr: "
            + ",".join(
                f"{entry['address_prefix']}/{entry.get('prefix_len', 0)}" for entry in ranges
            )
            + suffix
        )
    elif suffix:
        said.append(f"Addr: *{suffix}")
    return "; ".join(said) or "ALL"


def _destination(chain: Message) -> str:
    for kind, config in _filters(chain):
        if kind == _HTTP:
            if (routes := config.get("route_config")) is not None:
                return _inline(routes)
            name = config.get("rds", {}).get("route_config_name")
            return f"Route: {name}" if name else "HTTP"
        if kind == _TCP:
            if weighted := config.get("weighted_clusters", {}).get("clusters"):
                return "Cluster: " + ", ".join(
                    f"{entry.get('name')} ({entry.get('weight', 0)})" for entry in weighted
                )
            return _cluster_name(str(config.get("cluster", "")))
    return "Non-HTTP/Non-TCP"


def _cluster_name(name: str) -> str:
    """Istio's own clusters (PassthroughCluster and the like) speak for themselves."""
    return name if "Cluster" in name else f"Cluster: {name}"


def _inline(routes: Message) -> str:
    hosts = routes.get("virtual_hosts", ())
    if (
        len(hosts) == 1
        and hosts[0].get("domains") == ["*"]
        and len(hosts[0].get("routes", ())) == 1
    ):
        only = hosts[0]["routes"][0]
        cluster = only.get("route", {}).get("cluster")
        if cluster and only.get("match", {}).get("prefix") == "/":
            return _cluster_name(cluster)
    return "Inline Route: " + "; ".join(_inline_host(host) for host in hosts)


def _inline_host(host: Message) -> str:
    domains = host.get("domains", [])
    matches = ", ".join(_route_match(entry.get("match", {})) for entry in host.get("routes", ()))
    return matches if domains == ["*"] else f"{'/'.join(domains)} {matches}"


def _route_match(match: Message) -> str:
    said = []
    if prefix := match.get("prefix"):
        said.append(f"{prefix}*")
    if prefix := match.get("path_separated_prefix"):
        said.append(f"PathPrefix:{prefix}")
    if path := match.get("path"):
        said.append(str(path))
    if regex := match.get("safe_regex", {}).get("regex"):
        said.append(f"regex {regex}")
    return " ".join(said)


def _cluster_parts(cluster: Message) -> tuple[str, int, str, str]:
    name = str(cluster.get("name", ""))
    parts = parse_cluster(name)
    if parts is None:
        return name, 0, "", ""
    return parts.host or "", parts.port, parts.subset, parts.direction


def _config(message: Message) -> str:
    """NAME.NAMESPACE of the Istio object that made this, from its metadata."""
    metadata = message.get("metadata", {}).get("filter_metadata", {}).get("istio", {})
    parts = str(metadata.get("config", "")).strip("/").split("/")
    # apis/GROUP/VERSION/namespaces/NAMESPACE/KIND/NAME
    return f"{parts[6]}.{parts[4]}" if len(parts) == 7 else ""


def _domains(domains: Sequence[str]) -> str:
    """The domains without their `:PORT` and final-dot twins; of a long list the first two."""
    known = set(domains)
    shown = [
        domain
        for domain in domains
        if domain.rpartition(":")[0] not in known
        and not (domain.endswith(".") and domain[:-1] in known)
    ]
    if len(shown) > _DOMAINS_SHOWN + 1:
        return f"{', '.join(shown[:_DOMAINS_SHOWN])} + {len(shown) - _DOMAINS_SHOWN} more..."
    return ", ".join(shown)


def _route_order(route: Message) -> tuple[bool, int, str]:
    name = str(route.get("name", ""))
    return (not name.isdigit(), int(name) if name.isdigit() else 0, name)

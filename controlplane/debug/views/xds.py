"""edsz, config_dump, cachez: the resources themselves, in the shape of Envoy's own dump."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from controlplane.ads.status import ConnectionStatus
from controlplane.debug.render import expanded
from controlplane.debug.views.request import Rendering, ViewError, ViewRequest
from controlplane.model.names import Host, host_covers, is_wildcard, outbound_cluster, resolve_host
from controlplane.model.proxy import ProxyType
from controlplane.model.services import Protocol, Resolution, Service
from controlplane.model.snapshot import Snapshot
from controlplane.translate.endpoints import build_load_assignment, load_assignment_input
from controlplane.translate.resources import Resource, ResourceType, content_hash
from controlplane.translate.scope import OutboundClass, ProxyClass

_DUMP: Final = "type.googleapis.com/envoy.admin.v3."
_SECTIONS: Final = ("cds", "eds", "lds", "rds")
_TYPES: Final = {
    "cds": "cds", "clusters": "cds", "eds": "eds", "endpoints": "eds", "lds": "lds",
    "listeners": "lds", "rds": "rds", "routes": "rds",
    ResourceType.CLUSTER.url: "cds", ResourceType.ENDPOINT.url: "eds",
    ResourceType.LISTENER.url: "lds", ResourceType.ROUTE.url: "rds",
}  # fmt: skip


def edsz(request: ViewRequest) -> Rendering:
    """The load assignments of one proxy, or of the whole mesh by cluster without `proxyID`."""
    if request.params.get("proxyID"):
        connection = request.connection()
        cls = request.class_of(connection)
        return partial(_expanded, _assignments(request, connection, cls))
    return partial(_mesh_expanded, request.snapshot)


def _expanded(resources: Iterable[Resource]) -> list[dict[str, Any]]:
    return [expanded(resource) for resource in resources]


def _mesh_expanded(snapshot: Snapshot) -> list[dict[str, Any]]:
    return _expanded(mesh_assignments(snapshot))


def mesh_assignments(snapshot: Snapshot) -> Iterator[Resource]:
    """Yield the load assignment of each service port and subset.

    Each is seen from where it is visible: the service's own namespace, or that of the
    DestinationRule that declares the subset. Made without the generator's memory, which has
    no use for these viewers and belongs to another thread.
    """
    subsets = _subsets(snapshot)
    for service in snapshot.services:
        if service.resolution is Resolution.CLIENT_SIDE_LB:
            kind = ProxyType.SIDECAR
        elif service.is_headless:
            # Sidecars pass through to headless services; gateways ask EDS for them.
            kind = ProxyType.ROUTER
        else:
            continue
        for port in service.ports:
            if port.protocol is Protocol.UDP:
                continue
            for subset, namespace in (("", service.namespace), *subsets.get(service.host, ())):
                cls = _viewer(kind, namespace, snapshot, service)
                name = outbound_cluster(port.number, subset, service.host)
                made = build_load_assignment(load_assignment_input(snapshot, cls, name))
                if made.resource is not None:
                    yield made.resource


def _viewer(kind: ProxyType, namespace: str, snapshot: Snapshot, service: Service) -> OutboundClass:
    addresses = [
        endpoint.address
        for endpoints in snapshot.endpoints_of(service.host).groups
        for endpoint in endpoints
    ]
    return OutboundClass(
        type=kind,
        namespace=namespace,
        dns_domain=f"{namespace}.svc.{snapshot.domain}",
        ipv6=any(":" in address for address in addresses),
    )


def _subsets(snapshot: Snapshot) -> Mapping[Host, list[tuple[str, str]]]:
    """The subsets of each host with the namespace of the rule that declares them first."""
    found: dict[Host, dict[str, str]] = defaultdict(dict)
    for rule in snapshot.destination_rules:
        namespace = rule.metadata.namespace
        for host in _hosts(rule.spec.host, namespace, snapshot):
            for subset in rule.spec.subsets:
                found[host].setdefault(subset.name, namespace)
    return {host: list(subsets.items()) for host, subsets in found.items()}


def _hosts(host: str, namespace: str, snapshot: Snapshot) -> Iterator[Host]:
    resolved = resolve_host(host, namespace, snapshot.domain)
    if not is_wildcard(resolved):
        yield resolved
        return
    yield from (known for known in snapshot.service_by_host if host_covers(resolved, known))


def config_dump(request: ViewRequest) -> Rendering:
    """What the proxy should run, as Envoy's `/config_dump` would show it.

    `types` narrows to some of cds, lds, rds, eds; endpoints come only with `include_eds`.
    """
    sections = _wanted(request)
    connection = request.connection()
    cls = request.class_of(connection)
    found: dict[str, list[Resource]] = {}
    if "cds" in sections:
        found["cds"] = list(request.generator.clusters(request.snapshot, cls))
    if "eds" in sections:
        found["eds"] = _assignments(request, connection, cls)
    if "lds" in sections:
        found["lds"] = list(request.generator.listeners(request.snapshot, cls))
    if "rds" in sections:
        found["rds"] = _routes(request, connection, cls)
    return partial(_dump, found, whole="types" not in request.params)


def _wanted(request: ViewRequest) -> frozenset[str]:
    asked = request.params.get("types", "")
    if not asked:
        return frozenset(_SECTIONS if request.flag("include_eds") else ("cds", "lds", "rds"))
    names = [name.strip() for name in asked.split(",") if name.strip()]
    unknown = [name for name in names if _TYPES.get(name) is None]
    if unknown:
        raise ViewError(
            400, f"types: {', '.join(unknown)} not known, choose from {', '.join(_SECTIONS)}"
        )
    return frozenset(_TYPES[name] for name in names)


def _assignments(
    request: ViewRequest, connection: ConnectionStatus, cls: ProxyClass
) -> list[Resource]:
    watch = connection.watches.get(ResourceType.ENDPOINT.url)
    if watch is not None and watch.names:
        names: Iterable[str] = watch.names
    else:
        clusters = request.generator.clusters(request.snapshot, cls)
        names = dict.fromkeys(cluster.eds_name for cluster in clusters if cluster.eds_name)
    return [request.generator.load_assignment(request.snapshot, cls, name) for name in names]


def _routes(request: ViewRequest, connection: ConnectionStatus, cls: ProxyClass) -> list[Resource]:
    watch = connection.watches.get(ResourceType.ROUTE.url)
    if watch is not None and watch.names:
        names: Iterable[str] = watch.names
    else:
        listeners = request.generator.listeners(request.snapshot, cls)
        names = sorted({name for listener in listeners for name in listener.routes})
    return [request.generator.route(request.snapshot, cls, name) for name in names]


def _dump(found: Mapping[str, list[Resource]], *, whole: bool) -> dict[str, Any]:
    configs: list[dict[str, Any]] = []
    if whole:
        configs.append({"@type": _DUMP + "BootstrapConfigDump"})
    if (clusters := found.get("cds")) is not None:
        configs.append(
            {
                "@type": _DUMP + "ClustersConfigDump",
                "version_info": _version(clusters),
                "dynamic_active_clusters": [
                    {"version_info": entry.version, "cluster": expanded(entry)}
                    for entry in clusters
                ],
            }
        )
    if (assignments := found.get("eds")) is not None:
        configs.append(
            {
                "@type": _DUMP + "EndpointsConfigDump",
                "dynamic_endpoint_configs": [
                    {"version_info": entry.version, "endpoint_config": expanded(entry)}
                    for entry in assignments
                ],
            }
        )
    if (listeners := found.get("lds")) is not None:
        configs.append(
            {
                "@type": _DUMP + "ListenersConfigDump",
                "version_info": _version(listeners),
                "dynamic_listeners": [
                    {
                        "name": entry.name,
                        "active_state": {
                            "version_info": entry.version,
                            "listener": expanded(entry),
                        },
                    }
                    for entry in listeners
                ],
            }
        )
    if whole:
        configs.append({"@type": _DUMP + "ScopedRoutesConfigDump"})
    if (routes := found.get("rds")) is not None:
        configs.append(
            {
                "@type": _DUMP + "RoutesConfigDump",
                "dynamic_route_configs": [
                    {"version_info": entry.version, "route_config": expanded(entry)}
                    for entry in routes
                ],
            }
        )
    if whole:
        configs.append({"@type": _DUMP + "SecretsConfigDump"})
    return {"configs": configs}


def _version(resources: list[Resource]) -> str:
    """A hash of the content of all, in their order."""
    return content_hash("".join(resource.version for resource in resources).encode())


def cachez(request: ViewRequest) -> Rendering:
    """The resources that translation remembers, by type; with `sizes` their bytes instead."""
    if request.flag("clear"):
        raise ViewError(
            400, "the cache is keyed by content and cannot be stale: there is nothing to clear"
        )
    cached = tuple(request.cached())
    return partial(_sizes if request.flag("sizes") else _names, cached)


def _names(cached: tuple[Resource, ...]) -> dict[str, list[str]]:
    by_type: dict[str, list[str]] = defaultdict(list)
    for resource in cached:
        by_type[resource.type.url].append(f"{resource.name}/{resource.version}")
    return {url: sorted(names) for url, names in sorted(by_type.items())}


def _sizes(cached: tuple[Resource, ...]) -> dict[str, str]:
    by_type: dict[str, int] = defaultdict(int)
    for resource in cached:
        by_type[resource.type.url] += resource.size
    total = sum(by_type.values())
    return {url: _human(size) for url, size in sorted(by_type.items())} | {"total": _human(total)}


def _human(size: int) -> str:
    amount = float(size)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"

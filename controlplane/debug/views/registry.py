"""registryz, endpointz, instancesz, sidecarz: services, endpoints and who is behind which."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from controlplane.ads.status import ConnectionStatus
from controlplane.debug.views.config import with_defaults
from controlplane.debug.views.request import Rendering, ViewRequest
from controlplane.model.services import Endpoint, Resolution, Service
from controlplane.model.snapshot import ServiceTarget, Snapshot
from controlplane.translate.scope import Classifier

# istiod prints the Go enumeration as its number.
_RESOLUTIONS: Final = {resolution: number for number, resolution in enumerate(Resolution)}
_NO_ADDRESS: Final = "0.0.0.0"  # the placeholder of istiod


def registryz(request: ViewRequest) -> Rendering:
    """Every service, as istiod's model.Service prints itself."""
    return partial(_services, request.snapshot, request.cluster_id)


def _services(snapshot: Snapshot, cluster_id: str) -> list[dict[str, Any]]:
    return [service_data(service, cluster_id) for service in snapshot.services]


def service_data(service: Service, cluster_id: str) -> dict[str, Any]:
    """Return one service in the shape of istiod's registry."""
    addresses = list(service.addresses) or [_NO_ADDRESS]
    return {
        "Attributes": {
            "ServiceRegistry": service.provider,
            "Name": service.name,
            "Namespace": service.namespace,
            "Labels": dict(service.labels),
            "ExportTo": {namespace: {} for namespace in service.export_to},
            "LabelSelectors": dict(service.selector) if service.selector else None,
            "Object": str(service.ref),
        }
        | ({"Aliases": [str(service.alias_of)]} if service.alias_of else {})
        | ({"NodeLocal": True} if service.node_local else {}),
        "ports": [
            {"name": port.name, "port": port.number, "protocol": port.protocol.value}
            for port in service.ports
        ],
        "creationTime": service.creation_timestamp or None,
        "hostname": service.host,
        "clusterVIPs": {"Addresses": {cluster_id: addresses}},
        "defaultAddress": addresses[0],
        "serviceAccounts": list(service.subject_alt_names),
        "Resolution": _RESOLUTIONS[service.resolution],
        "MeshExternal": service.external,
    }


def endpointz(request: ViewRequest) -> Rendering:
    """Every endpoint by host, namespace and shard (PROVIDER/CLUSTER)."""
    return partial(endpoint_shards, request.snapshot, request.cluster_id)


def endpoint_shards(snapshot: Snapshot, cluster_id: str) -> dict[str, Any]:
    """Return `{host: {namespace: {"Shards": {shard: [endpoint]}, "ServiceAccounts": {}}}}`."""
    shards: dict[str, Any] = {}
    for service in snapshot.services:
        endpoints = [
            endpoint_data(endpoint, port_name=name, service=service, cluster_id=cluster_id)
            for name, found in sorted(snapshot.endpoints_of(service.host).by_port.items())
            for endpoint in found
        ]
        accounts = {entry["ServiceAccount"] for entry in endpoints} - {""}
        by_namespace = shards.setdefault(service.host, {})
        by_namespace[service.namespace] = {
            "Shards": {f"{service.provider}/{cluster_id}": endpoints},
            "ServiceAccounts": {account: {} for account in sorted(accounts)},
        }
    return shards


def endpoint_data(
    endpoint: Endpoint, *, port_name: str, service: Service, cluster_id: str
) -> dict[str, Any]:
    """Return one endpoint in the shape of istiod's IstioEndpoint."""
    workload = endpoint.workload
    return {
        "Labels": dict(workload.labels),
        "Addresses": [endpoint.address],
        "ServicePortName": port_name,
        "ServiceAccount": workload.service_account,
        "Network": workload.network,
        "Locality": {"Label": workload.locality, "ClusterID": workload.cluster or cluster_id},
        "EndpointPort": endpoint.port,
        "LbWeight": endpoint.weight,
        "TLSMode": workload.tls_mode,
        "Namespace": workload.namespace or service.namespace,
        "WorkloadName": workload.name,
        "HealthStatus": int(endpoint.health),
        "NodeName": workload.node,
        "Object": str(endpoint.source) if endpoint.source is not None else "",
    }


def instancesz(request: ViewRequest) -> Rendering:
    """The service ports that end at each connected proxy, by connection id."""
    return partial(instances, request.snapshot, request.serving.connections, request.cluster_id)


def instances(
    snapshot: Snapshot, connections: tuple[ConnectionStatus, ...], cluster_id: str
) -> dict[str, list[dict[str, Any]]]:
    """Return `{connection id: [{service, port}]}`."""
    classifier = Classifier(snapshot)
    return {
        connection.connection_id: [
            _target(target, snapshot.service_by_host, cluster_id)
            for target in classifier.service_targets(connection.proxy)
        ]
        for connection in connections
    }


def _target(
    target: ServiceTarget, services: Mapping[Any, Service], cluster_id: str
) -> dict[str, Any]:
    service = services.get(target.host)
    port = service.port(target.port) if service is not None else None
    return {
        "service": service_data(service, cluster_id)
        if service is not None
        else {"hostname": target.host},
        "port": {
            "name": target.port_name,
            "port": target.port,
            "protocol": port.protocol.value if port is not None else "",
            "targetPort": target.target_port,
        },
    }


def sidecarz(request: ViewRequest) -> Rendering:
    """The class of a proxy: every fact of it that decides what it is sent."""
    connection = request.connection()
    return partial(_scope, connection, request)


def _scope(connection: ConnectionStatus, request: ViewRequest) -> dict[str, Any]:
    found = request.class_of(connection)
    return {
        "proxy": connection.proxy.name,
        "namespace": connection.proxy.namespace,
        "outbound": _class_data(found.outbound),
        "inbound": _class_data(found.inbound) if found.inbound is not None else None,
    }


def _class_data(part: Any) -> Any:
    data = with_defaults(part)
    data["extensions"] = sorted(part.extensions)
    return data

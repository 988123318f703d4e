"""Kubernetes Services and ServiceEntries as services of the mesh (without their endpoints).

Source: Istio's kube/conversion.go and serviceentry/conversion.go.
"""

from __future__ import annotations

from typing import Final

from controlplane.model.base import Labels, one
from controlplane.model.core import KubernetesService
from controlplane.model.meta import ObjectRef
from controlplane.model.names import Host, service_host
from controlplane.model.service_entry import ServiceEntry
from controlplane.model.services import (
    Resolution,
    Service,
    ServicePort,
    parse_protocol,
    port_protocol,
)

EXPORT_TO: Final = "networking.istio.io/exportTo"
_NO_ADDRESS: Final = ("", "None")
_RESOLUTIONS: Final = {
    "NONE": Resolution.PASSTHROUGH,
    "STATIC": Resolution.CLIENT_SIDE_LB,
    "DNS": Resolution.DNS_LB,
    "DNS_ROUND_ROBIN": Resolution.DNS_ROUND_ROBIN_LB,
    "DYNAMIC_DNS": Resolution.DYNAMIC_DNS,
}


def from_kubernetes(item: KubernetesService, *, ref: ObjectRef, domain: str) -> Service:
    """Return the service that a Kubernetes Service declares."""
    meta, spec = item.metadata, item.spec
    resolution = Resolution.CLIENT_SIDE_LB
    alias: Host | None = None
    addresses = tuple(
        ip for ip in (spec.cluster_ips or (spec.cluster_ip,)) if ip not in _NO_ADDRESS
    )
    if spec.type == "ExternalName" and spec.external_name:
        resolution, alias, addresses = Resolution.ALIAS, Host(spec.external_name.rstrip(".")), ()
    elif spec.cluster_ip == "None" or "None" in spec.cluster_ips:
        resolution = Resolution.PASSTHROUGH
    return Service(
        host=service_host(meta.name, meta.namespace, domain),
        name=meta.name,
        namespace=meta.namespace,
        ports=one(
            tuple(
                ServicePort(
                    name=port.name,
                    number=port.port,
                    protocol=port_protocol(
                        number=port.port,
                        name=port.name,
                        transport=port.protocol,
                        app_protocol=port.app_protocol,
                    ),
                    target_port=port.target_port or port.port,
                )
                for port in spec.ports
                if port.protocol != "SCTP"  # no Envoy listener exists for it
            )
        ),
        resolution=resolution,
        addresses=addresses,
        creation_timestamp=meta.creation_timestamp or "",
        labels=meta.labels,
        selector=spec.selector or None,
        export_to=_annotated_export(meta.annotations),
        alias_of=alias,
        node_local=spec.internal_traffic_policy == "Local",
        ref=ref,
    )


def _annotated_export(annotations: Labels) -> tuple[str, ...]:
    text = annotations.get(EXPORT_TO, "")
    return tuple(part for part in (entry.strip() for entry in text.split(",")) if part)


def from_service_entry(item: ServiceEntry, *, ref: ObjectRef) -> tuple[Service, ...]:
    """Return one service for each host of a ServiceEntry, each with all its addresses."""
    meta, spec = item.metadata, item.spec
    ports = tuple(
        ServicePort(
            name=port.name,
            number=port.number,
            protocol=parse_protocol(port.protocol),
            target_port=port.target_port or port.number,
        )
        for port in spec.ports
    )
    return tuple(
        Service(
            host=Host(host),
            name=host,
            namespace=meta.namespace,
            ports=ports,
            resolution=_RESOLUTIONS[spec.resolution],
            addresses=spec.addresses,
            creation_timestamp=meta.creation_timestamp or "",
            labels=meta.labels,
            export_to=spec.export_to,
            external=spec.location == "MESH_EXTERNAL",
            provider="External",
            subject_alt_names=spec.subject_alt_names,
            ref=ref,
        )
        for host in dict.fromkeys(spec.hosts)
    )

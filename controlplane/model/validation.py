"""Impossible values of objects that fit their types: the table of rules by kind.

Pure; the same rules serve files, the Kubernetes source and the admission webhook. Levels are
Istio's: an Error keeps the object out, a Warning does not.
"""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.model import validate_policies, validate_routes, validate_services
from controlplane.model.core import Endpoints, EndpointSlice, KubernetesService, Pod
from controlplane.model.destination_rule import DestinationRule
from controlplane.model.gateway import Gateway
from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import Object
from controlplane.model.schema import Finding
from controlplane.model.service_entry import ServiceEntry, WorkloadEntry
from controlplane.model.virtual_service import VirtualService


def validate(item: Object) -> Iterator[Finding]:
    """Yield what is wrong with the values of one object, seen alone."""
    match item:
        case VirtualService():
            yield from validate_routes.virtual_service(item.spec)
        case DestinationRule():
            yield from validate_policies.destination_rule(item.spec)
        case Gateway():
            yield from validate_services.gateway(item.spec)
        case ServiceEntry():
            yield from validate_services.service_entry(item.spec)
        case WorkloadEntry():
            yield from validate_services.workload_entry(item.spec)
        case KubernetesService():
            yield from validate_services.service(item.spec)
        case EndpointSlice():
            yield from validate_services.endpoint_slice(item)
        case Endpoints():
            yield from validate_services.endpoints(item)
        case Pod():
            yield from validate_services.pod(item)
        case _:
            return  # nothing to check: namespaces, nodes, kinds without a type


def validate_mesh(mesh: MeshConfig) -> Iterator[Finding]:
    """Yield what is wrong with the settings of the mesh."""
    yield from validate_policies.mesh_config(mesh)

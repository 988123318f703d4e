"""networking.istio.io ServiceEntry and WorkloadEntry, with every field of the API."""

from __future__ import annotations

from typing import ClassVar, Literal

from controlplane.model.base import FrozenDict, Labels, Model
from controlplane.model.matching import JsonObject, Port, Uint32, WorkloadSelector
from controlplane.model.meta import Object


class WorkloadEntrySpec(Model):
    """One workload that is not a pod, or one endpoint of a ServiceEntry."""

    address: str = ""
    ports: FrozenDict[str, Uint32] | None = None
    labels: Labels | None = None
    network: str = ""
    locality: str = ""
    weight: Uint32 = 0
    service_account: str = ""


class WorkloadEntry(Object):
    """A workload that is not a pod."""

    KIND: ClassVar[str] = "WorkloadEntry"
    spec: WorkloadEntrySpec = WorkloadEntrySpec()
    status: JsonObject | None = None


class ServiceEntryPort(Model):
    """A port of a ServiceEntry."""

    number: Port
    name: str
    protocol: str = ""
    target_port: Port | None = None


class ServiceEntrySpec(Model):
    """Hosts that the platform's registry does not know."""

    hosts: tuple[str, ...]
    addresses: tuple[str, ...] = ()
    ports: tuple[ServiceEntryPort, ...] = ()
    location: Literal["MESH_EXTERNAL", "MESH_INTERNAL"] = "MESH_EXTERNAL"
    resolution: Literal["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"] = "NONE"
    endpoints: tuple[WorkloadEntrySpec, ...] = ()
    workload_selector: WorkloadSelector | None = None
    export_to: tuple[str, ...] = ()
    subject_alt_names: tuple[str, ...] = ()


class ServiceEntry(Object, kw_only=True):
    """A service that is declared rather than discovered."""

    KIND: ClassVar[str] = "ServiceEntry"
    spec: ServiceEntrySpec
    status: JsonObject | None = None

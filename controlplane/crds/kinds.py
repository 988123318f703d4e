"""How kubectl shows each of Istio's kinds: short names, columns, the version that is stored.

Source: the definitions that Istio installs; these agree with them wherever a manifest, a script
or an object in etcd could tell the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from controlplane.model.kinds import EXTENSIONS, KINDS, NETWORKING, SECURITY, TELEMETRY, Kind

GROUPS: Final = (EXTENSIONS, NETWORKING, SECURITY, TELEMETRY)


class Column(NamedTuple):
    """One column of `kubectl get`."""

    name: str
    path: str
    description: str
    type: str = "string"
    wide: bool = False  # shown by `-o wide` alone


class Shown(NamedTuple):
    """What a definition says of a kind beside its schema."""

    stored: str
    short_names: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    about: str = ""  # for kinds without a struct type


AGE: Final = Column("Age", ".metadata.creationTimestamp", "Time since the object was made.", "date")
CONDITIONS: Final = tuple(
    Column(name, f'.status.conditions[?(@.type=="{name}")].status', description, wide=True)
    for name, description in (
        ("Accepted", "Whether the object has no mistake."),
        ("Reconciled", "Whether the proxies that it is for run it."),
    )
)
_HOSTS = Column("Hosts", ".spec.hosts", "Hosts that the object is for.")

SHOWN: Final[Mapping[str, Shown]] = {
    "DestinationRule": Shown(
        "v1beta1", ("dr",), (Column("Host", ".spec.host", "Host that the policy is for."),)
    ),
    "EnvoyFilter": Shown("v1alpha3", about="Changes of the configuration that Envoys get."),
    "Gateway": Shown(
        "v1beta1", ("gw",), (Column("Selector", ".spec.selector", "Labels of the proxies."),)
    ),
    "ProxyConfig": Shown("v1beta1", about="Settings of the proxies of a namespace or workload."),
    "ServiceEntry": Shown(
        "v1beta1",
        ("se",),
        (
            _HOSTS,
            Column("Location", ".spec.location", "Whether the workloads are part of the mesh."),
            Column("Resolution", ".spec.resolution", "How the endpoints are found."),
        ),
    ),
    "Sidecar": Shown("v1beta1", about="What the sidecars of a namespace or workload may reach."),
    "VirtualService": Shown(
        "v1beta1",
        ("vs",),
        (Column("Gateways", ".spec.gateways", "Gateways that the rules are for."), _HOSTS),
    ),
    "WorkloadEntry": Shown(
        "v1beta1", ("we",), (Column("Address", ".spec.address", "Address of the workload."),)
    ),
    "WorkloadGroup": Shown("v1beta1", ("wg",), about="What WorkloadEntries have in common."),
    "AuthorizationPolicy": Shown(
        "v1beta1",
        ("ap",),
        (Column("Action", ".spec.action", "What is done with requests that match."),),
        about="Which requests a workload accepts.",
    ),
    "PeerAuthentication": Shown(
        "v1beta1",
        ("pa",),
        (Column("Mode", ".spec.mtls.mode", "Whether mutual TLS is demanded."),),
        about="Whether a workload demands mutual TLS.",
    ),
    "RequestAuthentication": Shown(
        "v1beta1", ("ra",), about="Which tokens a workload accepts."
    ),
    "Telemetry": Shown(
        "v1alpha1", ("telemetry",), about="Metrics, traces and access logs of workloads."
    ),
    "TrafficExtension": Shown("v1alpha1", about="An extension of the proxies of a workload."),
    "WasmPlugin": Shown("v1alpha1", about="A WebAssembly extension of the proxies of a workload."),
}  # fmt: skip


def defined() -> tuple[Kind, ...]:
    """Return the kinds that get a definition, in the order of their names.

    The kinds of the Gateway API are not among them: that project publishes its own.
    """
    kinds = (kind for kind in KINDS.values() if kind.group in GROUPS)
    return tuple(sorted(kinds, key=lambda kind: (kind.group, kind.plural)))

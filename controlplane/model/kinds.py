"""The one table of kinds: group, versions, plural, scope and the struct that decodes them.

Everything that has to know a kind (files, the Kubernetes source, `validate`, the debug views)
asks here. The rule that is easy to break: the key is (group, kind), never the kind alone,
because `Gateway` exists in Istio's group and in that of the Gateway API.
"""

from __future__ import annotations

import difflib
import enum
from typing import Final, NamedTuple

from controlplane.model.core import (
    Endpoints,
    EndpointSlice,
    KubernetesService,
    Namespace,
    Node,
    Pod,
)
from controlplane.model.destination_rule import DestinationRule
from controlplane.model.gateway import Gateway
from controlplane.model.matching import JsonObject
from controlplane.model.meta import Object, ObjectRef
from controlplane.model.service_entry import ServiceEntry, WorkloadEntry
from controlplane.model.virtual_service import VirtualService

NETWORKING: Final = "networking.istio.io"
SECURITY: Final = "security.istio.io"
TELEMETRY: Final = "telemetry.istio.io"
EXTENSIONS: Final = "extensions.istio.io"
GATEWAY_API: Final = "gateway.networking.k8s.io"
GATEWAY_API_EXPERIMENTAL: Final = "gateway.networking.x-k8s.io"


class Untranslated(Object):
    """An object of a kind that is accepted and that nothing is made of yet.

    `body` is everything beside metadata; it stays empty for kinds that may hold secrets.
    """

    qualified_kind: str = ""
    body: JsonObject | None = None

    @property
    def ref(self) -> ObjectRef:
        """The reference, with the group behind the kind where the kind alone is ambiguous."""
        return ObjectRef(self.qualified_kind, self.metadata.namespace, self.metadata.name)


class Use(enum.Enum):
    """What becomes of the objects of a kind."""

    TRANSLATED = enum.auto()
    NO_EFFECT_YET = enum.auto()  # the user expects an effect: a warning says that there is none
    ON_DEMAND = enum.auto()  # read only when another object names it: no effect by itself


class Kind(NamedTuple):
    """One row of the table."""

    group: str  # empty for the core group
    kind: str
    versions: tuple[str, ...]
    plural: str
    namespaced: bool = True
    model: type[Object] = Untranslated
    use: Use = Use.NO_EFFECT_YET
    holds_secrets: bool = False

    @property
    def api_versions(self) -> tuple[str, ...]:
        """The accepted values of `apiVersion`, the preferred one first."""
        return tuple(
            f"{self.group}/{version}" if self.group else version for version in self.versions
        )

    @property
    def qualified(self) -> str:
        """The kind as references spell it: with its group when Istio has the same kind."""
        if self.group != NETWORKING and (NETWORKING, self.kind) in KINDS:
            return f"{self.kind}.{self.group}"
        return self.kind


_ISTIO = ("v1", "v1beta1", "v1alpha3")


def _core(model: type[Object], plural: str, *, namespaced: bool = True) -> Kind:
    return Kind("", model.KIND, ("v1",), plural, namespaced, model, Use.TRANSLATED)


def _istio(model: type[Object], plural: str) -> Kind:
    return Kind(NETWORKING, model.KIND, _ISTIO, plural, True, model, Use.TRANSLATED)


_ROWS: Final = (
    _core(Namespace, "namespaces", namespaced=False),
    _core(Node, "nodes", namespaced=False),
    _core(Pod, "pods"),
    _core(KubernetesService, "services"),
    _core(Endpoints, "endpoints"),
    Kind("", "Secret", ("v1",), "secrets", use=Use.ON_DEMAND, holds_secrets=True),
    Kind("", "ConfigMap", ("v1",), "configmaps", use=Use.ON_DEMAND, holds_secrets=True),
    Kind(
        "discovery.k8s.io", "EndpointSlice", ("v1", "v1beta1"), "endpointslices",
        model=EndpointSlice, use=Use.TRANSLATED,
    ),
    _istio(Gateway, "gateways"),
    _istio(VirtualService, "virtualservices"),
    _istio(DestinationRule, "destinationrules"),
    _istio(ServiceEntry, "serviceentries"),
    _istio(WorkloadEntry, "workloadentries"),
    Kind(NETWORKING, "WorkloadGroup", _ISTIO, "workloadgroups"),
    Kind(NETWORKING, "Sidecar", _ISTIO, "sidecars"),
    Kind(NETWORKING, "EnvoyFilter", ("v1alpha3",), "envoyfilters"),
    Kind(NETWORKING, "ProxyConfig", ("v1beta1",), "proxyconfigs"),
    Kind(SECURITY, "PeerAuthentication", ("v1", "v1beta1"), "peerauthentications"),
    Kind(SECURITY, "RequestAuthentication", ("v1", "v1beta1"), "requestauthentications"),
    Kind(SECURITY, "AuthorizationPolicy", ("v1", "v1beta1"), "authorizationpolicies"),
    Kind(TELEMETRY, "Telemetry", ("v1", "v1alpha1"), "telemetries"),
    Kind(EXTENSIONS, "WasmPlugin", ("v1alpha1",), "wasmplugins"),
    Kind(EXTENSIONS, "TrafficExtension", ("v1alpha1",), "trafficextensions"),
    Kind("networking.k8s.io", "Ingress", ("v1",), "ingresses"),
    Kind("networking.k8s.io", "IngressClass", ("v1",), "ingressclasses", False),
    Kind(GATEWAY_API, "GatewayClass", ("v1", "v1beta1"), "gatewayclasses", False),
    Kind(GATEWAY_API, "Gateway", ("v1", "v1beta1"), "gateways"),
    Kind(GATEWAY_API, "HTTPRoute", ("v1", "v1beta1"), "httproutes"),
    Kind(GATEWAY_API, "GRPCRoute", ("v1", "v1alpha2"), "grpcroutes"),
    Kind(GATEWAY_API, "TCPRoute", ("v1alpha2",), "tcproutes"),
    Kind(GATEWAY_API, "TLSRoute", ("v1", "v1alpha3", "v1alpha2"), "tlsroutes"),
    Kind(GATEWAY_API, "UDPRoute", ("v1alpha2",), "udproutes"),
    Kind(GATEWAY_API, "ReferenceGrant", ("v1", "v1beta1"), "referencegrants"),
    Kind(GATEWAY_API, "BackendTLSPolicy", ("v1", "v1alpha3"), "backendtlspolicies"),
    Kind(GATEWAY_API, "ListenerSet", ("v1",), "listenersets"),
    Kind(GATEWAY_API_EXPERIMENTAL, "XListenerSet", ("v1alpha1",), "xlistenersets"),
    Kind(
        GATEWAY_API_EXPERIMENTAL, "XBackendTrafficPolicy", ("v1alpha1",), "xbackendtrafficpolicies"
    ),
)  # fmt: skip

KINDS: Final[dict[tuple[str, str], Kind]] = {(row.group, row.kind): row for row in _ROWS}

# Core kinds that exist and that are none of our business. A core kind that is in neither list
# is a spelling mistake, because Kubernetes' core group takes no extensions.
_FOREIGN_CORE: Final = frozenset(
    "Binding ComponentStatus Event LimitRange PersistentVolume PersistentVolumeClaim PodTemplate "
    "ReplicationController ResourceQuota ServiceAccount".split()
)
_OWN_GROUPS: Final = frozenset(
    {NETWORKING, SECURITY, TELEMETRY, EXTENSIONS, "discovery.k8s.io", GATEWAY_API}
)
_FOREIGN_OF_OWN_GROUPS: Final = frozenset({("networking.k8s.io", "NetworkPolicy")})


class Foreign(NamedTuple):
    """A kind that the mesh does not read, such as a Deployment."""

    group: str
    kind: str


class Unknown(NamedTuple):
    """A kind or version that cannot be meant; `reason` is a sentence for the user."""

    field: str  # "kind" or "apiVersion"
    reason: str


def find_kind(api_version: str, kind: str) -> Kind | Foreign | Unknown:
    """Return the row for an object's `apiVersion` and `kind`."""
    group, slash, version = api_version.rpartition("/")
    row = KINDS.get((group, kind))
    if row is not None:
        if version in row.versions:
            return row
        return Unknown(
            "apiVersion",
            f"{kind} has no apiVersion {api_version!r}; known are {', '.join(row.api_versions)}",
        )
    if not slash and version != "v1":
        return Unknown(
            "apiVersion", f"{api_version!r} is not an apiVersion{_nearest_api(api_version)}"
        )
    foreign = kind in _FOREIGN_CORE if not group else group not in _OWN_GROUPS
    nearest_group = _nearest_group(group, kind) if foreign and group else ""
    if nearest_group:
        return Unknown(
            "apiVersion", f"{kind} has no group {group!r}{suggestion(group, [nearest_group])}"
        )
    if foreign:
        return Foreign(group, kind)
    known = [name for owner, name in KINDS if owner == group]
    return Unknown("kind", f"unknown kind {kind!r} in {api_version}{suggestion(kind, known)}")


def _nearest_api(api_version: str) -> str:
    return suggestion(api_version, sorted({text for row in _ROWS for text in row.api_versions}))


def _nearest_group(group: str, kind: str) -> str:
    """The group that is probably meant: the kind is ours and the group is nearly right."""
    owners = [owner for owner, name in KINDS if name == kind and owner]
    found = difflib.get_close_matches(group, owners, n=1, cutoff=0.85)
    return found[0] if found else ""


def suggestion(word: str, known: list[str]) -> str:
    """Return `; did you mean 'X'?` for the known word nearest to `word`, else nothing."""
    lowered = {name.lower(): name for name in reversed(known)}
    found = difflib.get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.6)
    return f"; did you mean {lowered[found[0]]!r}?" if found else ""

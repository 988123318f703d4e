"""Which API group and version a kind has in output."""

from __future__ import annotations

from typing import Final, NamedTuple


class GroupVersion(NamedTuple):
    """An API group (empty for core) and its version."""

    group: str
    version: str

    @property
    def api_version(self) -> str:
        """`GROUP/VERSION`, or the version alone for core kinds."""
        return f"{self.group}/{self.version}" if self.group else self.version


_GROUPS: Final = {
    GroupVersion("", "v1"): "Namespace Node Pod Service Endpoints Secret ConfigMap",
    GroupVersion("discovery.k8s.io", "v1"): "EndpointSlice",
    GroupVersion("networking.k8s.io", "v1"): "Ingress IngressClass",
    GroupVersion("networking.istio.io", "v1"): (
        "Gateway VirtualService DestinationRule ServiceEntry WorkloadEntry WorkloadGroup Sidecar"
    ),
    GroupVersion("networking.istio.io", "v1alpha3"): "EnvoyFilter",
    GroupVersion("networking.istio.io", "v1beta1"): "ProxyConfig",
    GroupVersion("security.istio.io", "v1"): (
        "AuthorizationPolicy PeerAuthentication RequestAuthentication"
    ),
    GroupVersion("telemetry.istio.io", "v1"): "Telemetry",
    GroupVersion("extensions.istio.io", "v1alpha1"): "WasmPlugin",
    GroupVersion("gateway.networking.k8s.io", "v1"): (
        "GatewayClass HTTPRoute GRPCRoute BackendTLSPolicy"
    ),
    GroupVersion("gateway.networking.k8s.io", "v1beta1"): "ReferenceGrant",
    GroupVersion("gateway.networking.k8s.io", "v1alpha2"): "TCPRoute TLSRoute UDPRoute",
}
_BY_KIND: Final = {kind: group for group, kinds in _GROUPS.items() for kind in kinds.split()}


def group_version(kind: str) -> GroupVersion:
    """Return the group and version that a kind is shown with; core v1 when it is unknown."""
    return _BY_KIND.get(kind, GroupVersion("", "v1"))

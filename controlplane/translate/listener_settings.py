"""What every listener of a proxy reads of the mesh and of the proxy, as one shared value.

All inputs of a class hold the same `ListenerSettings`, so that comparing inputs costs little.
The rule that is easy to break: a fact that only some listeners read does not belong here, or
its change would rebuild all of them.
"""

from __future__ import annotations

from typing import Final, Literal

from controlplane.model.base import Duration, Model
from controlplane.model.mesh import MeshConfig
from controlplane.model.names import (
    BLACK_HOLE_CLUSTER,
    PASSTHROUGH_CLUSTER,
    ClusterName,
    outbound_cluster,
)
from controlplane.translate.access_log import AccessLogSettings, access_log_settings
from controlplane.translate.scope import InboundClass, OutboundClass

STATUS_PORT: Final = 15021
PROMETHEUS_PORT: Final = 15090
UNUSABLE: Final = "PortWithoutListener"
"""Code of the diagnostic of a port on which a proxy cannot listen."""


class ListenerSettings(Model):
    """Settings shared by all listeners of one direction of a proxy class.

    `detection_timeout` of zero means that inspecting a connection never times out.
    """

    access_log: AccessLogSettings
    normalization: Literal["DEFAULT", "NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"]
    detection_timeout: Duration
    extensions: frozenset[str]
    http10: bool
    idle_timeout: Duration | None
    exact_balance: bool


def listener_settings(mesh: MeshConfig, cls: OutboundClass | InboundClass) -> ListenerSettings:
    """Return the settings of one direction of a proxy class."""
    return ListenerSettings(
        access_log=access_log_settings(mesh),
        normalization=mesh.path_normalization.normalization,
        detection_timeout=mesh.protocol_detection_timeout,
        extensions=cls.extensions,
        http10=cls.http10,
        idle_timeout=_go_duration(cls.idle_timeout),
        exact_balance=cls.exact_balance,
    )


def fallthrough_cluster(mesh: MeshConfig) -> ClusterName:
    """Return the cluster of connections to destinations that the registry does not know."""
    policy = mesh.outbound_traffic_policy
    if policy.mode == "REGISTRY_ONLY":
        return BLACK_HOLE_CLUSTER
    proxy = policy.egress_proxy
    if proxy is None or not proxy.host:
        return PASSTHROUGH_CLUSTER
    number = proxy.port.get("number") if proxy.port is not None else 0
    return outbound_cluster(number if isinstance(number, int) else 0, proxy.subset, proxy.host)


def reserved_ports(mesh: MeshConfig) -> frozenset[int]:
    """Return the ports on which a proxy with an agent already listens on all addresses."""
    return frozenset(
        {mesh.proxy_listen_port, mesh.proxy_inbound_listen_port, STATUS_PORT, PROMETHEUS_PORT}
    )


def _go_duration(text: str) -> Duration | None:
    """Return the duration of the node metadata IDLE_TIMEOUT, None when it says none."""
    if not text:
        return None
    try:
        return Duration.parse(text)
    except ValueError:
        return None

"""A proxy: what a node id and its metadata say.

Knows Istio's node id form and metadata keys; must not know protobuf. The rule that is easy to
break: booleans travel as the strings "true" and "false", and POD_PORTS is JSON inside a string.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from controlplane.errors import NodeError
from controlplane.model.base import NO_LABELS, Labels, Model


class ProxyType(enum.StrEnum):
    """The first part of a node id."""

    SIDECAR = "sidecar"
    ROUTER = "router"
    WAYPOINT = "waypoint"
    ZTUNNEL = "ztunnel"
    AGENTGATEWAY = "agentgateway"


InterceptionMode = Literal["REDIRECT", "TPROXY", "NONE"]
MAX_NODE_ID: Final = 1024
NEWEST_VERSION: Final = (65535, 65535, 65535)


class NodeId(Model):
    """The parts of `TYPE~IP~ID~DNSDOMAIN`."""

    type: ProxyType
    ip: str
    id: str
    dns_domain: str


class PodPort(Model):
    """A container port of the proxy's own pod."""

    container_port: int
    name: str = ""
    protocol: str = "TCP"


class Proxy(Model):
    """One client of the control plane, as its first request described it.

    `extensions` are the names of the client's Envoy extensions; empty when it sent none.
    """

    id: str  # the whole node id
    type: ProxyType
    ips: tuple[str, ...]
    name: str  # POD.NAMESPACE
    dns_domain: str
    namespace: str
    labels: Labels = NO_LABELS
    service_account: str = ""
    cluster: str = ""  # node.cluster
    cluster_id: str = ""
    network: str = ""
    locality: str = ""  # region/zone/subzone
    node_name: str = ""
    interception_mode: InterceptionMode = "REDIRECT"
    version: tuple[int, int, int] = NEWEST_VERSION
    istio_version: str = ""
    serves_secrets: bool = False  # an agent answers SDS for `default` and `ROOTCA`
    dns_capture: bool = False
    dns_auto_allocate: bool = False
    http10: bool = False
    idle_timeout: str = ""
    http_proxy_port: int = 0
    unprivileged: bool = False
    generator: str = ""
    pod_ports: tuple[PodPort, ...] = ()
    inbound_exact_balance: bool = False
    outbound_exact_balance: bool = False
    extensions: frozenset[str] = frozenset()
    user_agent: str = ""

    @property
    def supports_ipv4(self) -> bool:
        """Whether one of the proxy's addresses is IPv4."""
        return any(":" not in ip for ip in self.ips)

    @property
    def supports_ipv6(self) -> bool:
        """Whether one of the proxy's addresses is IPv6."""
        return any(":" in ip for ip in self.ips)


def parse_node_id(text: str) -> NodeId:
    """Return the parts of a node id; raises NodeError when it is empty or malformed.

    Source: Istio's model.ParseServiceNodeWithMetadata.
    """
    if not text:
        raise NodeError("missing node information")
    if len(text) > MAX_NODE_ID:
        raise NodeError(f"the node id has {len(text)} characters, more than {MAX_NODE_ID}")
    parts = text.split("~")
    if len(parts) != 4:
        raise NodeError(f"node id {text!r} is not of the form TYPE~IP~ID~DNSDOMAIN")
    try:
        kind = ProxyType(parts[0])
    except ValueError:
        known = ", ".join(ProxyType)
        raise NodeError(f"node id {text!r} has type {parts[0]!r}, not one of {known}") from None
    return NodeId(type=kind, ip=parts[1], id=parts[2], dns_domain=parts[3])


def make_proxy(
    node_id: str,
    metadata: Mapping[str, Any] | None = None,
    *,
    cluster: str = "",
    locality: str = "",
    extensions: frozenset[str] = frozenset(),
    user_agent: str = "",
) -> Proxy:
    """Return the proxy that a node describes; raises NodeError when id or addresses are wrong.

    `metadata` is the node's metadata as plain JSON data, with Istio's keys.
    """
    node = parse_node_id(node_id)
    meta = metadata or {}
    ips = _addresses(str(meta.get("INSTANCE_IPS", "")), node.ip)
    if not ips:
        raise NodeError(f"node id {node_id!r} has no valid IP address")
    istio_version = str(meta.get("ISTIO_VERSION", ""))
    certificates = str(meta.get("WORKLOAD_CERTIFICATES", "")).lower()
    labels = meta.get("LABELS")
    return Proxy(
        id=node_id,
        type=node.type,
        ips=ips,
        name=node.id,
        dns_domain=node.dns_domain,
        namespace=str(meta.get("NAMESPACE") or node.dns_domain.partition(".")[0]),
        labels=Labels({str(k): str(v) for k, v in labels.items()})
        if isinstance(labels, Mapping) and labels
        else NO_LABELS,
        service_account=str(meta.get("SERVICE_ACCOUNT", "")),
        cluster=cluster,
        cluster_id=str(meta.get("CLUSTER_ID", "")),
        network=str(meta.get("NETWORK", "")),
        locality=locality,
        node_name=str(meta.get("NODE_NAME", "")),
        interception_mode=_interception(meta.get("INTERCEPTION_MODE")),
        version=_version(istio_version),
        istio_version=istio_version,
        serves_secrets=bool(istio_version) and certificates != "none",
        dns_capture=_flag(meta.get("DNS_CAPTURE")),
        dns_auto_allocate=_flag(meta.get("DNS_AUTO_ALLOCATE")),
        http10=str(meta.get("HTTP10", "")) == "1",
        idle_timeout=str(meta.get("IDLE_TIMEOUT", "")),
        http_proxy_port=_integer(meta.get("HTTP_PROXY_PORT")),
        unprivileged=_flag(meta.get("UNPRIVILEGED_POD")),
        generator=str(meta.get("GENERATOR", "")),
        pod_ports=_pod_ports(meta.get("POD_PORTS")),
        inbound_exact_balance=_flag(meta.get("INBOUND_LISTENER_EXACT_BALANCE")),
        outbound_exact_balance=_flag(meta.get("OUTBOUND_LISTENER_EXACT_BALANCE")),
        extensions=extensions,
        user_agent=user_agent,
    )


def _addresses(instance_ips: str, node_ip: str) -> tuple[str, ...]:
    found = [text.strip() for text in instance_ips.split(",")] if instance_ips else []
    valid = tuple(text for text in found if _is_ip(text))
    if valid:
        return valid
    return (node_ip,) if _is_ip(node_ip) else ()


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _interception(value: Any) -> InterceptionMode:
    match str(value or "").upper():
        case "TPROXY":
            return "TPROXY"
        case "NONE":
            return "NONE"
        case _:
            return "REDIRECT"


def _version(text: str) -> tuple[int, int, int]:
    numbers = text.partition("-")[0].split(".")
    if len(numbers) < 2 or not all(number.isdigit() for number in numbers[:3]):
        return NEWEST_VERSION
    major, minor, patch = (*(int(number) for number in numbers[:3]), 0)[:3]
    return (major, minor, patch)


def _flag(value: Any) -> bool:
    return str(value).lower() in ("true", "1")


def _integer(value: Any) -> int:
    try:
        return int(value or 0)
    except (TypeError, ValueError):
        return 0


def _pod_ports(value: Any) -> tuple[PodPort, ...]:
    if not value:
        return ()
    try:
        if isinstance(value, str):
            return msgspec.json.decode(value, type=tuple[PodPort, ...])
        return msgspec.convert(value, tuple[PodPort, ...])
    except msgspec.MsgspecError:
        return ()

"""Checks between Gateways, the VirtualServices bound to them, and the pods they select.

Source: Istio's gateway and virtualservice analyzers (IST0145, IST0132, IST0101).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from controlplane.model.base import NO_LABELS
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.gateway import Gateway, Server
from controlplane.model.meta import ObjectRef
from controlplane.model.names import Host, gateway_key, hosts_overlap, resolve_host
from controlplane.model.snapshot import Snapshot, selects
from controlplane.model.virtual_service import VirtualService

CONFLICTING_GATEWAYS: Final = "IST0145"
HOST_NOT_IN_GATEWAY: Final = "IST0132"
NO_SUCH_PODS: Final = "IST0101"

_FAMILIES: Final = {
    "HTTP": "HTTP", "HTTP2": "HTTP", "GRPC": "HTTP", "GRPC-WEB": "HTTP", "HTTP_PROXY": "HTTP",
    "HTTPS": "TLS", "TLS": "TLS",
}  # fmt: skip


class _Opened(NamedTuple):
    """One server of one Gateway."""

    gateway: Gateway
    position: int
    server: Server

    @property
    def family(self) -> str:
        return _FAMILIES.get(self.server.port.protocol.upper(), "TCP")

    @property
    def ref(self) -> ObjectRef:
        return self.gateway.ref


def clashes(snapshot: Snapshot) -> Iterator[Diagnostic]:
    """Yield which servers of Gateways cannot share a port."""
    opened: dict[tuple[int, str], list[_Opened]] = {}
    for gateway in snapshot.gateways:  # the oldest first: the first one keeps the port
        for index, server in enumerate(gateway.spec.servers):
            mine = _Opened(gateway, index, server)
            others = opened.setdefault((server.port.number, server.bind), [])
            met = (_clash(first, mine) for first in others if _on_same_pods(first.gateway, gateway))
            clash = next((found for found in met if found is not None), None)
            if clash is not None:
                yield clash
            if clash is None or clash.level is not Level.ERROR:
                # A server that lost its port is not served, so it takes nothing from later ones.
                others.append(mine)


def _on_same_pods(first: Gateway, second: Gateway) -> bool:
    """Whether a pod may be selected by both: no label is asked for with different values."""
    one, other = first.spec.selector or NO_LABELS, second.spec.selector or NO_LABELS
    return all(other.get(key, value) == value for key, value in one.items())


def _clash(first: _Opened, second: _Opened) -> Diagnostic | None:
    port = second.server.port
    owner = f"{first.ref} (spec.servers[{first.position}])"
    if first.family != second.family or first.family == "TCP":
        return Diagnostic(
            level=Level.ERROR,
            code=CONFLICTING_GATEWAYS,
            ref=second.ref,
            field=f"spec.servers[{second.position}].port",
            message=f"port {port.number} is {first.server.port.protocol} in the older {owner} and"
            f" cannot be {port.protocol} here",
        )
    if first.ref == second.ref:
        return None
    shared = [
        name
        for name in second.server.hosts
        if any(_same_host(name, other) for other in first.server.hosts)
    ]
    if not shared:
        return None
    return Diagnostic(
        level=Level.WARNING,
        code=CONFLICTING_GATEWAYS,
        ref=second.ref,
        field=f"spec.servers[{second.position}].hosts",
        message=f"{', '.join(shared)} on port {port.number} is also in the older {owner}",
    )


def _same_host(first: str, second: str) -> bool:
    return first.rpartition("/")[2] == second.rpartition("/")[2]


def unanswered_hosts(
    item: VirtualService, gateways: Mapping[str, Gateway], domain: str
) -> Iterator[Diagnostic]:
    """Yield the hosts of a VirtualService that its Gateways, by `NAMESPACE/NAME`, do not take."""
    namespace = item.metadata.namespace
    for name in dict.fromkeys(item.spec.gateways):
        gateway = gateways.get(gateway_key(name, namespace))
        if gateway is None:
            continue
        for index, text in enumerate(item.spec.hosts):
            host = resolve_host(text, namespace, domain)
            if not any(
                _answers(server_host, host, text, namespace, gateway)
                for server in gateway.spec.servers
                for server_host in server.hosts
            ):
                yield Diagnostic(
                    level=Level.WARNING,
                    code=HOST_NOT_IN_GATEWAY,
                    ref=item.ref,
                    field=f"spec.hosts[{index}]",
                    message=f"no server of {gateway.ref} answers for {text}",
                )


def _answers(server_host: str, host: Host, written: str, namespace: str, gateway: Gateway) -> bool:
    """Whether a server's host takes a VirtualService host of a namespace."""
    owner, slash, pattern = server_host.rpartition("/")
    if slash and owner == ".":
        owner = gateway.metadata.namespace
    if slash and owner not in ("*", namespace):
        return False
    return hosts_overlap(pattern, host) or hosts_overlap(pattern, written)


def selectors_without_pods(snapshot: Snapshot) -> Iterator[Diagnostic]:
    """Yield the Gateways that select no pod."""
    if not snapshot.pods_by_ip:
        return  # without any pod nothing can be said about those that are missing
    for gateway in snapshot.gateways:
        selector = gateway.spec.selector
        pods = snapshot.pods_by_ip.values()
        if selector and not any(selects(selector, pod.metadata.labels) for pod in pods):
            wanted = ", ".join(f"{key}={value}" for key, value in sorted(selector.items()))
            yield Diagnostic(
                level=Level.WARNING,
                code=NO_SUCH_PODS,
                ref=gateway.ref,
                field="spec.selector",
                message=f"no pod has the labels {wanted}",
            )

"""virtualInbound: one listener for all connections to a workload, told apart by their port.

Owns its chains, their names and its inspectors. Must not know how a route or a TLS context is
made. The rule that is easy to break: a listener that refers to a secret nobody serves warms for
ever, so chains that end mutual TLS are only for proxies whose agent serves secrets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from controlplane.model.base import Model
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.meta import ObjectRef
from controlplane.model.names import (
    BLACK_HOLE_CLUSTER,
    INBOUND_PASSTHROUGH_CLUSTER,
    VIRTUAL_INBOUND,
    ClusterName,
    Host,
    inbound_cluster,
    listener_name,
)
from controlplane.model.services import Protocol
from controlplane.model.snapshot import Snapshot
from controlplane.model.virtual_service import HTTPRetry
from controlplane.translate import envoy
from controlplane.translate.access_log import listener_access_logs
from controlplane.translate.filters import (
    Direction,
    http_inspector,
    metadata_exchange,
    not_on_ports,
    on_ports,
    original_dst,
    original_src,
    tcp_proxy,
    tls_inspector,
)
from controlplane.translate.http_connection_manager import http_connection_manager
from controlplane.translate.inbound_chains import (
    ChainMatch,
    Inspection,
    MutualTls,
    chain_matches,
    http_inspection,
    tls_inspection,
)
from controlplane.translate.inbound_route import inbound_route
from controlplane.translate.listener_settings import (
    UNUSABLE,
    ListenerSettings,
    listener_settings,
    reserved_ports,
)
from controlplane.translate.resources import (
    Common,
    Origin,
    Resource,
    ResourceType,
    Translated,
    noted,
    serialise,
)
from controlplane.translate.scope import InboundClass, InboundTarget
from controlplane.translate.tls import inbound_tls_context, tls_socket

CATCH_ALL_HTTP: Final = "virtualInbound-catchall-http"
BLACK_HOLE: Final = "virtualInbound-blackhole"
CONFLICTING_PORTS: Final = "IST0137"
SHARED_PORT: Final = "TargetPortShared"
# What the chains of unknown ports are made of: a target on port 0, which stands for any.
ANY_TARGET: Final = InboundTarget(
    target_port=0,
    host=Host(""),
    service_port=0,
    service_port_name=VIRTUAL_INBOUND,
    protocol=Protocol.UNSUPPORTED,
    service_name="",
    service_namespace="",
)


class InboundPort(Model):
    """One target port of the workload and the object that named it."""

    target: InboundTarget
    ref: ObjectRef | None = None
    field: str = ""


class VirtualInboundInput(Model):
    """The listener of a workload's inbound connections; `ports` ascend.

    `trust_domains` are those whose workloads may connect with mutual TLS.
    """

    address: str
    port: int
    transparent: bool
    ports: tuple[InboundPort, ...]
    mode: MutualTls
    settings: ListenerSettings
    retries: HTTPRetry | None = None
    trust_domains: tuple[str, ...] = ()
    lost: tuple[Diagnostic, ...] = ()  # ports that have no chain, or not the one they ask for


def virtual_inbound_input(snapshot: Snapshot, cls: InboundClass) -> VirtualInboundInput | None:
    """Return the input of virtualInbound, None when nothing captures connections."""
    if cls.interception_mode == "NONE":
        return None
    mesh = snapshot.mesh
    reserved = reserved_ports(mesh)
    ports = [_inbound_port(snapshot, target) for target in cls.targets]
    mode = MutualTls.PERMISSIVE if cls.serves_secrets else MutualTls.DISABLE
    return VirtualInboundInput(
        address="::" if cls.ipv6 and not cls.ipv4 else "0.0.0.0",
        port=mesh.proxy_inbound_listen_port,
        transparent=cls.interception_mode == "TPROXY",
        ports=tuple(port for port in ports if port.target.target_port not in reserved),
        mode=mode,
        settings=listener_settings(mesh, cls),
        retries=mesh.default_inbound_http_retry_policy,
        trust_domains=(mesh.trust_domain, *mesh.trust_domain_aliases)
        if mode is MutualTls.PERMISSIVE
        else (),
        lost=(
            *(_left_out(port) for port in ports if port.target.target_port in reserved),
            *_outranked(snapshot, cls),
        ),
    )


def build_virtual_inbound(value: VirtualInboundInput) -> Translated:
    """Return virtualInbound (source: Istio's buildInboundListener).

    First the black hole for the listener's own port, then the chains of unknown ports, then
    those of each target port.
    """
    settings = value.settings
    listener = envoy.Listener(
        name=VIRTUAL_INBOUND,
        address=envoy.socket_address(value.address, value.port),
        traffic_direction="INBOUND",
        continue_on_listener_filters_timeout=True,
        listener_filters_timeout=envoy.duration(settings.detection_timeout),
        max_connections_to_accept_per_socket_event=envoy.UInt32Value(value=1),
        access_log=listener_access_logs(settings.access_log),
        listener_filters=_listener_filters(value),
        filter_chains=[_black_hole(value)],
    )
    origins: list[Origin] = []
    for port in (InboundPort(target=ANY_TARGET), *value.ports):
        for match in chain_matches(value.mode, port.target.protocol):
            if port.ref is not None:
                part = f"filter_chains[{len(listener.filter_chains)}]"
                origins.append(Origin(part, port.ref, port.field))
            listener.filter_chains.append(_chain(value, port.target, match))
    if value.transparent:
        listener.transparent.value = True
    if settings.exact_balance:
        listener.connection_balance_config.exact_balance.SetInParent()
    clusters = (inbound_cluster(port.target.target_port) for port in value.ports)
    named = frozenset({BLACK_HOLE_CLUSTER, INBOUND_PASSTHROUGH_CLUSTER, *clusters})
    return noted(
        Resource.of(
            Common(ResourceType.LISTENER, clusters=named),
            VIRTUAL_INBOUND,
            serialise(listener),
            made_of=tuple(origins),
        ),
        value.lost,
    )


def _inbound_port(snapshot: Snapshot, target: InboundTarget) -> InboundPort:
    service = snapshot.service_by_host.get(target.host)
    if service is None:
        return InboundPort(target=target)
    numbers = [port.number for port in service.ports]
    known = target.service_port in numbers
    return InboundPort(
        target=target,
        ref=service.ref,
        field=f"spec.ports[{numbers.index(target.service_port)}]" if known else "",
    )


def _left_out(port: InboundPort) -> Diagnostic:
    return Diagnostic(
        level=Level.WARNING,
        code=UNUSABLE,
        message=f"target port {port.target.target_port} belongs to the proxy itself",
        ref=port.ref,
        field=port.field,
    )


def _outranked(snapshot: Snapshot, cls: InboundClass) -> Iterator[Diagnostic]:
    first = {target.target_port: target for target in cls.targets}
    for loser in cls.outranked:
        winner = first[loser.target_port]
        port = _inbound_port(snapshot, loser)
        said = f"{_inbound_port(snapshot, winner).ref} has named target port {loser.target_port}"
        if winner.protocol is loser.protocol:
            level, code = Level.INFO, SHARED_PORT
            message = (
                f"{said} of the same workload before; inbound connections have the settings and "
                "the statistics of that service"
            )
        else:
            level, code = Level.WARNING, CONFLICTING_PORTS
            message = (
                f"{said} of the same workload before, as {_words(winner.protocol)}; inbound "
                f"connections are not treated as {_words(loser.protocol)}"
            )
        yield Diagnostic(level=level, code=code, message=message, ref=port.ref, field=port.field)


def _words(protocol: Protocol) -> str:
    return "a detected protocol" if protocol is Protocol.UNSUPPORTED else protocol.value


def _black_hole(value: VirtualInboundInput) -> Any:
    return envoy.FilterChain(
        name=BLACK_HOLE,
        filter_chain_match=envoy.FilterChainMatch(
            destination_port=envoy.UInt32Value(value=value.port)
        ),
        filters=[*metadata_exchange(value.settings.extensions), tcp_proxy(BLACK_HOLE_CLUSTER)],
    )


def _chain(value: VirtualInboundInput, target: InboundTarget, match: ChainMatch) -> Any:
    settings = value.settings
    passthrough = target.target_port == 0
    cluster: ClusterName = (
        INBOUND_PASSTHROUGH_CLUSTER if passthrough else inbound_cluster(target.target_port)
    )
    name: str = listener_name(value.address, target.target_port)
    stat_prefix = f"inbound_{name};"
    if passthrough:
        name = CATCH_ALL_HTTP if match.http else VIRTUAL_INBOUND
        stat_prefix = f"{cluster};"
    if match.http:
        terminal = http_connection_manager(
            settings,
            Direction.SIDECAR_INBOUND,
            stat_prefix=stat_prefix,
            protocol=target.protocol,
            route=inbound_route(target, retries=value.retries, cluster=cluster),
        )
    else:
        terminal = tcp_proxy(
            cluster, access_log=settings.access_log, idle_timeout=settings.idle_timeout
        )
    chain = envoy.FilterChain(
        name=name,
        filter_chain_match=envoy.FilterChainMatch(
            transport_protocol=match.transport, application_protocols=match.alpn
        ),
        filters=[*metadata_exchange(settings.extensions), terminal],
    )
    if not passthrough:
        chain.filter_chain_match.destination_port.value = target.target_port
    if match.terminates_tls:
        context = inbound_tls_context("http" if match.http else "tcp", value.trust_domains)
        chain.transport_socket.CopyFrom(tls_socket(context))
    return chain


def _listener_filters(value: VirtualInboundInput) -> Iterator[Any]:
    """Yield the listener filters; the HTTP inspector leaves alone what the TLS inspector claims."""
    yield original_dst()
    if value.transparent:
        yield original_src()
    matches = [
        (target.target_port, match)
        for target in (ANY_TARGET, *(port.target for port in value.ports))
        for match in chain_matches(value.mode, target.protocol)
    ]
    # The black hole's chain has a port of its own, where nothing needs to be found out.
    matches.append((value.port, ChainMatch("", (), http=False)))
    tls = tls_inspection(matches)
    if tls.needed:
        yield tls_inspector(_disabled(tls))
    http = http_inspection(matches)
    if http.needed:
        yield http_inspector(_disabled(http))


def _disabled(inspection: Inspection) -> Any | None:
    if not inspection.ports:
        return None
    if inspection.only:
        return not_on_ports(inspection.ports)
    return on_ports(inspection.ports)

"""Listeners of a sidecar's outbound connections: one for each address and port in use.

Owns how a planned listener becomes Envoy's. Which services meet on one address is decided in
`outbound_plan`. The rule that is easy to break: a chain that matches everything becomes the
default chain as soon as there is another one, and a listener whose chains can all miss gets a
default chain that lets the connection pass (source: Istio's buildListenerFromEntry).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, assert_never

from controlplane.model.base import Duration, Model
from controlplane.model.diagnostics import Diagnostic
from controlplane.model.meta import ObjectRef
from controlplane.model.names import ClusterName, listener_name
from controlplane.model.services import Protocol
from controlplane.translate import envoy
from controlplane.translate.filters import Direction, http_inspector, tcp_proxy, tls_inspector
from controlplane.translate.http_connection_manager import http_connection_manager
from controlplane.translate.listener_settings import ListenerSettings
from controlplane.translate.resources import (
    Common,
    Origin,
    Resource,
    ResourceType,
    Translated,
    noted,
    serialise,
)

PLAINTEXT_HTTP_ALPN: Final = ("http/1.1", "h2c")
PASSTHROUGH_CHAIN: Final = "PassthroughFilterChain"
CONNECT_TIMEOUT: Final = Duration(15_000_000_000)  # Istio's, against slow TLS handshakes


class HttpChain(Model):
    """A chain that routes HTTP; `sniffed` when it takes only what was detected as HTTP."""

    route: str
    sniffed: bool
    protocol: Protocol
    ref: ObjectRef | None = None
    field: str = ""
    explicit_proxy: bool = False


class TcpChain(Model):
    """A chain that passes connections on; without server names and prefixes it takes all.

    `prefixes` are networks of destination addresses in CIDR notation, host bits zero.
    """

    cluster: ClusterName
    stat_prefix: str
    ref: ObjectRef
    server_names: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    idle_timeout: Duration | None = None
    max_duration: Duration | None = None
    hash_source_ip: bool = False
    field: str = ""
    policy_ref: ObjectRef | None = None  # the DestinationRule of the settings above


class OutboundListenerInput(Model):
    """One listener of outbound connections.

    `fallthrough` takes what no chain matches; `conflicts` are what services lost on this
    address, kept here so that they come and go with the listener.
    """

    bind: str
    port: int
    bind_to_port: bool
    chains: tuple[HttpChain | TcpChain, ...]
    fallthrough: ClusterName
    settings: ListenerSettings
    conflicts: tuple[Diagnostic, ...] = ()


def build_outbound_listener(value: OutboundListenerInput) -> Translated:
    """Return the listener of one address and port."""
    name = listener_name(value.bind, value.port)
    settings = value.settings
    listener = envoy.Listener(
        name=name,
        address=envoy.socket_address(value.bind, value.port),
        traffic_direction="OUTBOUND",
        continue_on_listener_filters_timeout=True,
        listener_filters_timeout=envoy.DurationMessage(),
    )
    if value.bind_to_port:
        listener.max_connections_to_accept_per_socket_event.value = 1
    else:
        listener.bind_to_port.value = False
    if settings.exact_balance:
        listener.connection_balance_config.exact_balance.SetInParent()
    if any(isinstance(chain, TcpChain) and chain.server_names for chain in value.chains):
        listener.listener_filters.append(tls_inspector())
    if any(isinstance(chain, HttpChain) and chain.sniffed for chain in value.chains):
        listener.listener_filters.append(http_inspector())
        listener.listener_filters_timeout.CopyFrom(envoy.duration(settings.detection_timeout))
    origins = tuple(_add_chains(listener, value))
    common = Common(
        ResourceType.LISTENER,
        clusters=frozenset(_clusters(listener, value)),
        routes=frozenset(c.route for c in value.chains if isinstance(c, HttpChain)),
    )
    return noted(
        Resource.of(common, name, serialise(listener), made_of=origins),
        value.conflicts,
    )


def _add_chains(listener: Any, value: OutboundListenerInput) -> Iterator[Origin]:
    last: HttpChain | TcpChain | None = None
    for chain in value.chains:
        match = _match(chain)
        if match is None:
            last = chain
            continue
        message = _chain(chain, value)
        message.filter_chain_match.CopyFrom(match)
        yield from _origin(f"filter_chains[{len(listener.filter_chains)}]", chain)
        listener.filter_chains.append(message)
    if last is None:
        listener.default_filter_chain.name = PASSTHROUGH_CHAIN
        listener.default_filter_chain.filter_chain_match.SetInParent()
        listener.default_filter_chain.filters.append(
            tcp_proxy(
                value.fallthrough,
                access_log=value.settings.access_log,
                idle_timeout=value.settings.idle_timeout,
            )
        )
    elif listener.filter_chains:
        listener.default_filter_chain.CopyFrom(_chain(last, value))
        yield from _origin("default_filter_chain", last)
    else:
        listener.filter_chains.append(_chain(last, value))
        yield from _origin("filter_chains[0]", last)


def _chain(chain: HttpChain | TcpChain, value: OutboundListenerInput) -> Any:
    match chain:
        case HttpChain():
            network_filter = http_connection_manager(
                value.settings,
                Direction.SIDECAR_OUTBOUND,
                stat_prefix=f"outbound_{listener_name(value.bind, value.port)};",
                protocol=chain.protocol,
                route=chain.route,
                explicit_proxy=chain.explicit_proxy,
            )
        case TcpChain():
            network_filter = tcp_proxy(
                chain.cluster,
                stat_prefix=chain.stat_prefix,
                access_log=value.settings.access_log,
                idle_timeout=chain.idle_timeout or value.settings.idle_timeout,
                max_duration=chain.max_duration,
                hash_source_ip=chain.hash_source_ip,
            )
        case unknown:
            assert_never(unknown)
    return envoy.FilterChain(
        filters=[network_filter], transport_socket_connect_timeout=envoy.duration(CONNECT_TIMEOUT)
    )


def _match(chain: HttpChain | TcpChain) -> Any | None:
    """Return the chain's match, None when the chain takes everything."""
    match chain:
        case HttpChain(sniffed=False):
            return None
        case HttpChain():
            return envoy.FilterChainMatch(
                transport_protocol="raw_buffer", application_protocols=PLAINTEXT_HTTP_ALPN
            )
        case TcpChain(server_names=(), prefixes=()):
            return None
        case TcpChain():
            return envoy.FilterChainMatch(
                server_names=sorted(chain.server_names),
                prefix_ranges=[_range(prefix) for prefix in sorted(chain.prefixes)],
            )
        case unknown:
            assert_never(unknown)


def _range(prefix: str) -> Any:
    address, _, length = prefix.partition("/")
    return envoy.CidrRange(address_prefix=address, prefix_len=envoy.UInt32Value(value=int(length)))


def _origin(part: str, chain: HttpChain | TcpChain) -> Iterator[Origin]:
    if chain.ref is not None:
        yield Origin(part, chain.ref, chain.field)
    if isinstance(chain, TcpChain) and chain.policy_ref is not None:
        yield Origin(part, chain.policy_ref, "spec.trafficPolicy")


def _clusters(listener: Any, value: OutboundListenerInput) -> Iterator[str]:
    yield from (chain.cluster for chain in value.chains if isinstance(chain, TcpChain))
    if listener.default_filter_chain.name == PASSTHROUGH_CHAIN:
        yield value.fallthrough

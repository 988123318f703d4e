"""Which services share an outbound listener, and who loses when they cannot.

Owns the addresses of a sidecar's outbound listeners and Istio's table of conflicts. Must not
know Envoy's messages. The rule that is easy to break: services come by age, and an HTTP service
on the wildcard address counts as "detected", because what is not HTTP passes it by.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.matching import visible
from controlplane.model.names import listener_name, outbound_cluster
from controlplane.model.services import Protocol, Resolution, Service, ServicePort
from controlplane.model.snapshot import Snapshot
from controlplane.translate.listener_addresses import (
    Place,
    has_networks,
    partial_wildcard,
    places,
)
from controlplane.translate.listener_settings import (
    UNUSABLE,
    ListenerSettings,
    fallthrough_cluster,
    listener_settings,
    reserved_ports,
)
from controlplane.translate.outbound_listeners import HttpChain, OutboundListenerInput, TcpChain
from controlplane.translate.scope import OutboundClass

HTTP_PROXY_ROUTE: Final = "http_proxy"
CONFLICT: Final = "OutboundListenerConflict"
TCP_CONFLICT: Final = "OutboundListenerTcpConflict"  # of two that are both plain TCP
FIRST_UNPRIVILEGED_PORT: Final = 1024

_TLS: Final = (Protocol.TLS, Protocol.HTTPS)

_Chain = HttpChain | TcpChain


# Their servers speak first: detection would wait for the client.
_SERVER_FIRST: Final = frozenset({Protocol.MONGO, Protocol.MYSQL})


class _Claim(NamedTuple):
    """A service port that wants a place."""

    service: Service
    port: ServicePort
    position: int

    @property
    def field(self) -> str:
        return f"spec.ports[{self.position}]"


class _Entry:
    """A listener while services are being added to it."""

    def __init__(self, claim: _Claim, protocol: Protocol, chains: tuple[_Chain, ...]) -> None:
        self.claims = [claim]
        self.protocol = protocol
        self.chains = list(chains)
        self.conflicts: list[Diagnostic] = []


def visible_services(snapshot: Snapshot, cls: OutboundClass) -> Iterator[Service]:
    """Yield the services that the class's namespace sees, oldest first."""
    default = snapshot.mesh.default_service_export_to
    for service in snapshot.services:
        if visible(service.export_to or default, service.namespace, cls.namespace):
            yield service


def outbound_plan(snapshot: Snapshot, cls: OutboundClass) -> tuple[OutboundListenerInput, ...]:
    """Return the listeners of a sidecar class by port, then address.

    Source: Istio's buildSidecarOutboundListeners.
    """
    plan = _Plan(snapshot, cls)
    reserved = reserved_ports(snapshot.mesh)
    for claim in _claims(snapshot, cls):
        if _refusal(snapshot, cls, claim, reserved) is None:
            plan.add(claim)
    return plan.result()


def unlistened_ports(snapshot: Snapshot, cls: OutboundClass) -> Iterator[Diagnostic]:
    """Yield a diagnostic for each service port that this class cannot listen on at all."""
    reserved = reserved_ports(snapshot.mesh)
    for claim in _claims(snapshot, cls):
        reason = _refusal(snapshot, cls, claim, reserved)
        if reason is not None:
            yield Diagnostic(
                level=Level.WARNING,
                code=UNUSABLE,
                message=reason,
                ref=claim.service.ref,
                field=claim.field,
            )


def listen_alike(old: Service | None, new: Service | None) -> bool:
    """Whether two states of a service, which may be absent, surely give the same listeners.

    Those of services that are not all HTTP may also depend on endpoints and DestinationRules.
    """
    if old is None or new is None:
        return old is new
    return old.frontend == new.frontend and all(
        port.protocol.is_http or port.protocol is Protocol.UDP for port in new.ports
    )


def http_proxy_listener(snapshot: Snapshot, cls: OutboundClass) -> OutboundListenerInput | None:
    """Return the listener for clients that use the sidecar as an HTTP proxy, None without port."""
    port = cls.http_proxy_port or snapshot.mesh.proxy_http_port
    if port <= 0:
        return None
    chain = HttpChain(
        route=HTTP_PROXY_ROUTE, sniffed=False, protocol=Protocol.HTTP, explicit_proxy=True
    )
    return OutboundListenerInput(
        bind=cls.loopback_address,
        port=port,
        bind_to_port=True,
        chains=(chain,),
        fallthrough=fallthrough_cluster(snapshot.mesh),
        settings=listener_settings(snapshot.mesh, cls),
    )


def _claims(snapshot: Snapshot, cls: OutboundClass) -> Iterator[_Claim]:
    for service in visible_services(snapshot, cls):
        if service.resolution is Resolution.ALIAS:
            continue  # the target's listeners serve its names
        for position, port in enumerate(service.ports):
            if port.protocol is not Protocol.UDP:
                yield _Claim(service, port, position)


def _refusal(
    snapshot: Snapshot, cls: OutboundClass, claim: _Claim, reserved: frozenset[int]
) -> str | None:
    """Return why a port cannot have any listener, None when it can."""
    service, port = claim.service, claim.port
    if cls.interception_mode == "NONE":
        if cls.unprivileged and port.number < FIRST_UNPRIVILEGED_PORT:
            return (
                f"proxies of namespace {cls.namespace} run unprivileged and cannot open port"
                f" {port.number}"
            )
    elif port.number in reserved and (
        port.protocol.is_http
        or any(place.bind == cls.wildcard_address for place in places(snapshot, cls, service, port))
    ):
        return f"port {port.number} of all addresses belongs to the proxy itself"
    if (
        port.protocol in _TLS
        and partial_wildcard(service.host)
        and any(_told_by_name(cls, claim, place) for place in places(snapshot, cls, service, port))
    ):
        return (
            f"connections to {service.host} cannot be told apart by server name: Envoy knows"
            " wildcards of whole labels only"
        )
    return None


def _told_by_name(cls: OutboundClass, claim: _Claim, place: Place) -> bool:
    """Whether a TLS service needs its host as server name, because addresses do not tell it."""
    if claim.port.protocol not in _TLS or claim.service.host == "*":
        return False
    if cls.interception_mode == "NONE":
        return has_networks(claim.service)
    return place.bind == cls.wildcard_address


class _Plan:
    """The state of one plan; lives no longer than a call of outbound_plan."""

    def __init__(self, snapshot: Snapshot, cls: OutboundClass) -> None:
        self._snapshot = snapshot
        self._cls = cls
        self._settings: Final[ListenerSettings] = listener_settings(snapshot.mesh, cls)
        self._fallthrough = fallthrough_cluster(snapshot.mesh)
        self._bind_to_port = cls.interception_mode == "NONE"
        # HTTP services share one address: the wildcard, or the loopback without capture.
        self._shared = cls.loopback_address if self._bind_to_port else cls.wildcard_address
        self._entries: dict[tuple[int, str], _Entry] = {}

    def add(self, claim: _Claim) -> None:
        if claim.port.protocol.is_http:
            self._add_http(claim)
            return
        for place in places(self._snapshot, self._cls, claim.service, claim.port):
            self._add_tcp(claim, place)

    def result(self) -> tuple[OutboundListenerInput, ...]:
        return tuple(
            OutboundListenerInput(
                bind=bind,
                port=port,
                bind_to_port=self._bind_to_port,
                chains=tuple(entry.chains),
                fallthrough=self._fallthrough,
                settings=self._settings,
                conflicts=tuple(entry.conflicts),
            )
            for (port, bind), entry in sorted(self._entries.items())
        )

    def _add_http(self, claim: _Claim) -> None:
        key = (claim.port.number, self._shared)
        entry = self._entries.get(key)
        if entry is None:
            chain = self._http_chain(claim, self._shared, sniffed=not self._bind_to_port)
            protocol = Protocol.HTTP if self._bind_to_port else Protocol.UNSUPPORTED
            self._entries[key] = _Entry(claim, protocol, (chain,))
        elif entry.protocol.is_tcp:
            chain = self._http_chain(claim, self._shared, sniffed=not self._bind_to_port)
            if self._merge(key, claim, (chain,)):
                entry.protocol = Protocol.UNSUPPORTED
        elif any(
            isinstance(chain, HttpChain) and chain.route == str(claim.port.number)
            for chain in entry.chains
        ):
            entry.claims.append(claim)  # its requests are told apart by the shared routes
        else:
            entry.conflicts.append(_lost(claim, entry.claims[0], key))

    def _add_tcp(self, claim: _Claim, place: Place) -> None:
        """Add a TCP service, or one whose protocol is to be detected."""
        key = (claim.port.number, place.bind)
        detected = not claim.port.protocol.is_tcp
        entry = self._entries.get(key)
        tcp = self._tcp_chain(claim, place)
        chains: tuple[_Chain, ...] = (tcp,)
        if detected:
            chains = (tcp, self._http_chain(claim, place.bind, sniffed=True))
        if entry is None:
            self._entries[key] = _Entry(claim, claim.port.protocol, chains)
        elif entry.protocol.is_http and detected:
            # A detected service replaces HTTP on the same exact address (Istio's AutoOverHTTP).
            replaced = _Entry(claim, claim.port.protocol, chains)
            replaced.conflicts = [
                *entry.conflicts,
                *(_lost(loser, claim, key) for loser in entry.claims),
            ]
            self._entries[key] = replaced
        elif detected and not entry.protocol.is_tcp:
            self._merge(key, claim, (tcp,))
        elif self._merge(key, claim, chains) and (detected or entry.protocol.is_http):
            entry.protocol = Protocol.UNSUPPORTED

    def _merge(self, key: tuple[int, str], claim: _Claim, chains: tuple[_Chain, ...]) -> bool:
        """Add the chains whose matches are new; say whether the service was let in at all."""
        entry = self._entries[key]
        incoming = claim.port.protocol
        if incoming is not entry.protocol and not _SERVER_FIRST.isdisjoint(
            (incoming, entry.protocol)
        ):
            # Detection would wait for a client of a protocol whose server speaks first.
            entry.conflicts.append(_lost(claim, entry.claims[0], key))
            return False
        lost = False
        for chain in chains:
            if any(_same_match(chain, other) for other in entry.chains):
                lost = True
            else:
                entry.chains.append(chain)
        if lost:
            entry.conflicts.append(_lost(claim, entry.claims[0], key))
        entry.claims.append(claim)
        return True

    def _http_chain(self, claim: _Claim, bind: str, *, sniffed: bool) -> HttpChain:
        number = claim.port.number
        shared = claim.port.protocol.is_http or bind == self._cls.wildcard_address
        return HttpChain(
            route=str(number) if shared else f"{claim.service.host}:{number}",
            sniffed=sniffed,
            protocol=claim.port.protocol,
            ref=claim.service.ref,
            field=claim.field,
        )

    def _tcp_chain(self, claim: _Claim, place: Place) -> TcpChain:
        service = claim.service
        cluster = outbound_cluster(claim.port.number, "", service.host)
        rule = self._snapshot.rules.lookup(
            service.host,
            client_namespace=self._cls.namespace,
            service_namespace=service.namespace,
            client_labels=self._cls.labels,
        )
        # Istio reads the policy of the whole host here, not that of the port.
        policy = rule.traffic_policy if rule is not None else None
        pool = policy.connection_pool if policy is not None else None
        tcp = pool.tcp if pool is not None else None
        balancer = policy.load_balancer if policy is not None else None
        affinity = balancer.consistent_hash if balancer is not None else None
        return TcpChain(
            cluster=cluster,
            stat_prefix=cluster,
            ref=service.ref,
            field=claim.field,
            server_names=(service.host,) if _told_by_name(self._cls, claim, place) else (),
            prefixes=(place.network,) if place.network else (),
            idle_timeout=tcp.idle_timeout if tcp is not None else None,
            max_duration=tcp.max_connection_duration if tcp is not None else None,
            hash_source_ip=affinity is not None and bool(affinity.use_source_ip),
            policy_ref=rule.policy_ref if rule is not None else None,
        )


def _same_match(first: _Chain, second: _Chain) -> bool:
    return _match_key(first) == _match_key(second)


def _match_key(chain: _Chain) -> tuple[bool, frozenset[str], frozenset[str]]:
    if isinstance(chain, HttpChain):
        return (chain.sniffed, frozenset(), frozenset())
    return (False, frozenset(chain.server_names), frozenset(chain.prefixes))


def _lost(loser: _Claim, winner: _Claim, key: tuple[int, str]) -> Diagnostic:
    port, bind = key
    both_tcp = loser.port.protocol is winner.port.protocol is Protocol.TCP
    return Diagnostic(
        level=Level.WARNING,
        code=TCP_CONFLICT if both_tcp else CONFLICT,
        message=(
            f"{_kind(loser)} on {listener_name(bind, port)} cannot be told apart from"
            f" {_kind(winner)} of {winner.service.host}, which keeps the listener"
        ),
        ref=loser.service.ref,
        field=loser.field,
    )


def _kind(claim: _Claim) -> str:
    protocol = claim.port.protocol
    return "a detected protocol" if protocol is Protocol.UNSUPPORTED else str(protocol)

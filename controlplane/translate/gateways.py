"""What the Gateways of a proxy class add up to: its ports and the servers on each of them.

Owns which Gateways select a class, how a server's port becomes a port of the pod, which servers
share a port and which of them lose. Must not know listeners or routes as Envoy writes them. The
rule that is easy to break: the outcome depends on the age of the Gateways alone, never on the
order in which they arrived.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final, NamedTuple

from controlplane.model.base import Model
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.gateway import Gateway, Server
from controlplane.model.meta import ObjectRef, by_age
from controlplane.model.names import Host, RouteName, gateway_route, host_covers
from controlplane.model.services import Protocol, parse_protocol
from controlplane.model.snapshot import Snapshot, selects
from controlplane.translate.scope import OutboundClass

FIRST_UNPRIVILEGED_PORT: Final = 1024


class Family(enum.StrEnum):
    """What a gateway port speaks; all servers of one port are of one family."""

    HTTP = "HTTP"  # plaintext HTTP of any version: one route configuration for all servers
    TCP = "TCP"  # plaintext TCP: a single server
    TLS = "TLS"  # terminated or passed through, told apart by SNI


class ServerHost(NamedTuple):
    """One entry of a server's `hosts`; an empty namespace admits VirtualServices of any."""

    namespace: str
    host: Host


class MergedServer(Model):
    """One server of one Gateway, as it takes part on a port.

    `service_port` is the number that the Gateway says, which may differ from the port that the
    proxy opens. `route_name` is what an HTTP connection manager of this server asks RDS for,
    None when the server passes bytes on.
    """

    gateway: ObjectRef
    index: int
    server: Server
    hosts: tuple[ServerHost, ...]
    service_port: int
    protocol: Protocol
    route_name: RouteName | None = None

    @property
    def gateway_key(self) -> str:
        """`NAMESPACE/NAME` of the Gateway, as VirtualServices refer to it."""
        return f"{self.gateway.namespace}/{self.gateway.name}"

    @property
    def field(self) -> str:
        """The path of the server inside its Gateway."""
        return f"spec.servers[{self.index}]"

    @property
    def terminates_tls(self) -> bool:
        """Whether the proxy decrypts what arrives (a redirect to https does not)."""
        tls = self.server.tls
        return (
            tls is not None
            and not self.protocol.is_http
            and tls.mode not in ("PASSTHROUGH", "AUTO_PASSTHROUGH")
        )

    @property
    def redirects_to_https(self) -> bool:
        """Whether plaintext requests are answered with a redirect to https."""
        return self.server.tls is not None and self.server.tls.https_redirect

    @property
    def sni_hosts(self) -> tuple[Host, ...]:
        """The server names of a TLS chain, without repetition; empty when every name is meant."""
        names = tuple(dict.fromkeys(entry.host for entry in self.hosts))
        return () if "*" in names else names


class MergedPort(Model):
    """One address and port that the gateway opens. An empty `bind` means all addresses."""

    port: int
    bind: str
    family: Family
    servers: tuple[MergedServer, ...]

    @property
    def route_name(self) -> RouteName | None:
        """The one route configuration of an HTTP port, None for the other families."""
        return gateway_route(self.port, self.bind) if self.family is Family.HTTP else None


class MergedGateways(Model):
    """All ports of a gateway class, in the order in which the oldest Gateways open them."""

    ports: tuple[MergedPort, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()

    def servers_of_route(self, name: str) -> tuple[MergedServer, ...]:
        """Return the servers whose requests the named route configuration routes."""
        return tuple(
            server for port in self.ports for server in port.servers if server.route_name == name
        )


def merged_gateways(snapshot: Snapshot, cls: OutboundClass) -> MergedGateways:
    """Return the ports that a gateway class opens and the servers on each.

    Servers that cannot share a port with an older one are left out with a diagnostic. Source:
    Istio's model.mergeGateways; the oldest Gateway decides what a port speaks.
    """
    if not cls.is_router:
        return MergedGateways()
    merge = _Merge(cls)
    for gateway in sorted(snapshot.gateways, key=by_age):
        if selects(gateway.spec.selector, cls.labels):
            merge.add(gateway)
    return merge.result()


def matching_hosts(
    server: MergedServer, hosts: tuple[Host, ...], namespace: str
) -> tuple[Host, ...]:
    """Return the names that a server and a VirtualService of `namespace` both mean.

    Of a wildcard and a name under it the narrower is taken. In the order of `hosts`, without
    repetition.
    """
    found: dict[Host, None] = {}
    for host in hosts:
        for entry in server.hosts:
            if entry.namespace and entry.namespace != namespace:
                continue
            if host_covers(entry.host, host):
                found[host] = None
            elif host_covers(host, entry.host):
                found[entry.host] = None
    return tuple(found)


def target_ports(cls: OutboundClass, service_port: int) -> tuple[int, ...]:
    """Return the ports of the pod behind a port of the gateway's Services.

    A port that no Service of the gateway has is opened as it is.
    """
    found = {target for port, target in cls.gateway_ports if port == service_port}
    return tuple(sorted(found)) or (service_port,)


def server_hosts(server: Server, namespace: str) -> tuple[ServerHost, ...]:
    """Return a server's hosts with `./` resolved to the Gateway's namespace and `*/` to any."""
    found: dict[ServerHost, None] = {}
    for text in server.hosts:
        owner, slash, host = text.rpartition("/")
        if not slash or owner == "*":
            entry = ServerHost("", Host(host.lower()))
        else:
            entry = ServerHost(namespace if owner == "." else owner, Host(host.lower()))
        found[entry] = None
    return tuple(found)


class _Open:
    """A port while servers are being added to it."""

    def __init__(self, family: Family, protocol: Protocol) -> None:
        self.family = family
        self.protocol = protocol
        self.servers: list[MergedServer] = []
        self.sni: dict[Host, MergedServer] = {}


class _Merge:
    """The state of one merge; lives no longer than a call of merged_gateways."""

    def __init__(self, cls: OutboundClass) -> None:
        self._cls = cls
        self._open: dict[tuple[int, str], _Open] = {}
        self._diagnostics: list[Diagnostic] = []

    def add(self, gateway: Gateway) -> None:
        for index, server in enumerate(gateway.spec.servers):
            for port in target_ports(self._cls, server.port.number):
                self._add_server(gateway, index, server, port)

    def result(self) -> MergedGateways:
        return MergedGateways(
            ports=tuple(
                MergedPort(port=port, bind=bind, family=entry.family, servers=tuple(entry.servers))
                for (port, bind), entry in self._open.items()
            ),
            diagnostics=tuple(self._diagnostics),
        )

    def _add_server(self, gateway: Gateway, index: int, server: Server, port: int) -> None:
        family = _family(server)
        protocol = parse_protocol(server.port.protocol)
        merged = MergedServer(
            gateway=gateway.ref,
            index=index,
            server=server,
            hosts=server_hosts(server, gateway.metadata.namespace),
            service_port=server.port.number,
            protocol=protocol,
            route_name=_route_name(gateway, server, port),
        )
        problem = self._problem(merged, family, port)
        if problem is not None:
            code, field, message = problem
            self._diagnostics.append(
                Diagnostic(
                    level=Level.WARNING,
                    code=code,
                    message=message,
                    ref=gateway.ref,
                    field=f"{merged.field}.{field}",
                )
            )
            return
        assert family is not None
        entry = self._open.setdefault((port, server.bind), _Open(family, protocol))
        entry.servers.append(merged)
        if family is Family.TLS:
            entry.sni.update((host.host, merged) for host in merged.hosts)

    def _problem(
        self, merged: MergedServer, family: Family | None, port: int
    ) -> tuple[str, str, str] | None:
        """Return code, field and text of the reason to leave a server out, None to keep it."""
        server = merged.server
        if family is None:
            return (
                "UnsupportedGatewayProtocol",
                "port.protocol",
                f"protocol {server.port.protocol} needs a `tls` section, or is not supported"
                " on gateways; the server is left out",
            )
        if self._cls.unprivileged and port < FIRST_UNPRIVILEGED_PORT:
            return (
                "PrivilegedPort",
                "port.number",
                f"the gateway's pods run unprivileged and cannot open port {port}",
            )
        entry = self._open.get((port, server.bind))
        if entry is None:
            return None
        owner = entry.servers[0]
        if family is not entry.family or family is Family.TCP:
            return (
                "GatewayPortConflict",
                "port",
                f"port {port} is already {entry.family} by {owner.field} of {owner.gateway};"
                f" {family} cannot be added to it",
            )
        if family is Family.TLS:
            # Envoy refuses a listener with two chains for one server name.
            for host in merged.hosts:
                other = entry.sni.get(host.host)
                if other is not None:
                    return (
                        "IST0145",
                        "hosts",
                        f"host {host.host} on port {port} already belongs to {other.field} of"
                        f" {other.gateway}",
                    )
        if family is Family.TLS and merged.route_name is not None:
            for sibling in entry.servers:
                if sibling.route_name == merged.route_name:
                    return (
                        "GatewayPortConflict",
                        "port.name",
                        f"the port name {server.port.name!r} is already used by {sibling.field}",
                    )
        return None


def _family(server: Server) -> Family | None:
    """Return what a server makes of its port, None when no listener can be made."""
    protocol = parse_protocol(server.port.protocol)
    if protocol.is_http:
        return Family.HTTP
    if server.tls is not None and protocol.is_tcp:
        return Family.TLS
    if protocol.is_tcp and protocol not in (Protocol.HTTPS, Protocol.TLS):
        return Family.TCP
    return None


def _route_name(gateway: Gateway, server: Server, port: int) -> RouteName | None:
    protocol = parse_protocol(server.port.protocol)
    if protocol.is_http:
        return gateway_route(port, server.bind)
    if protocol is not Protocol.HTTPS or server.tls is None:
        return None
    if server.tls.mode in ("PASSTHROUGH", "AUTO_PASSTHROUGH"):
        return None
    meta = gateway.metadata
    name = f"https.{port}.{server.port.name}.{meta.name}.{meta.namespace}"
    return RouteName(f"{name}.{server.bind}" if server.bind else name)


def iterate_http_routes(gateways: MergedGateways) -> Iterator[RouteName]:
    """Yield the name of every route configuration that the ports ask for, each once."""
    names = (server.route_name for port in gateways.ports for server in port.servers)
    yield from dict.fromkeys(name for name in names if name is not None)

"""The virtual hosts of a gateway's route configuration.

Owns how VirtualServices meet the servers of Gateways. Must not know listeners. The rule that is
easy to break: a name that both a server and a VirtualService mean is opened with the narrower of
the two, so that a gateway never answers for a name that its Gateway does not list.
"""

from __future__ import annotations

from typing import Final

from controlplane.model.meta import ObjectRef
from controlplane.model.names import Host, specificity
from controlplane.model.snapshot import Snapshot
from controlplane.translate.destinations import Destinations
from controlplane.translate.gateways import MergedServer, matching_hosts, merged_gateways
from controlplane.translate.http_route import HttpRouteInput
from controlplane.translate.scope import OutboundClass
from controlplane.translate.virtual_hosts import (
    RuleContent,
    VirtualHostInput,
    bracketed,
    with_port,
)

Rules = tuple[tuple[HttpRouteInput, ...], ...]


class _Opened:
    """A host while VirtualServices are being added to it."""

    def __init__(self, port: int) -> None:
        self.port: Final = port
        self.rules: list[tuple[HttpRouteInput, ...]] = []
        self.sources: dict[tuple[ObjectRef, str], None] = {}
        self.require_tls = False


def gateway_virtual_hosts(
    snapshot: Snapshot, cls: OutboundClass, name: str
) -> tuple[VirtualHostInput, ...] | None:
    """Return the virtual hosts of a gateway route, by name; None when no server has that route.

    Without any VirtualService there is one that answers 404 to everything. Source: Istio's
    buildGatewayHTTPRouteConfig.
    """
    servers = merged_gateways(snapshot, cls).servers_of_route(name)
    if not servers:
        return None
    opened: dict[Host, _Opened] = {}
    destinations = Destinations(snapshot, cls)
    for server in servers:
        _add_rules(snapshot, cls, server, destinations, opened)
        if server.redirects_to_https:
            for entry in server.hosts:
                _open(opened, entry.host, server).require_tls = True
    if not opened:
        return (
            VirtualHostInput.of(
                name=with_port("blackhole", servers[0].service_port),
                text="*",
                content=RuleContent(),
                sources=tuple((server.gateway, server.field) for server in servers),
                count_attempts=False,
            ),
        )
    return tuple(sorted(_collapse(opened), key=lambda value: value.name))


def _add_rules(
    snapshot: Snapshot,
    cls: OutboundClass,
    server: MergedServer,
    destinations: Destinations,
    opened: dict[Host, _Opened],
) -> None:
    for rule in snapshot.routing.for_gateway(server.gateway_key, cls.namespace):
        hosts = matching_hosts(server, rule.hosts, rule.namespace)
        if not hosts:
            continue
        chosen = destinations.select(
            rule,
            gateway=server.gateway_key,
            port=server.service_port,
            tls=server.terminates_tls,
        )
        if not chosen:
            continue
        for host in hosts:
            entry = _open(opened, host, server)
            entry.require_tls = entry.require_tls or server.redirects_to_https
            # Two Gateways that bind one VirtualService to one host say the same twice.
            if chosen not in entry.rules:
                entry.rules.append(chosen)


def _open(opened: dict[Host, _Opened], host: Host, server: MergedServer) -> _Opened:
    entry = opened.get(host)
    if entry is None:
        entry = opened[host] = _Opened(server.service_port)
    entry.sources[server.gateway, server.field] = None
    return entry


def _collapse(opened: dict[Host, _Opened]) -> list[VirtualHostInput]:
    """Return virtual hosts, those with the same routes as one, named after the most specific.

    Source: Istio's collapseDuplicateRoutes.
    """
    groups: dict[tuple[Rules, bool], list[Host]] = {}
    for host in sorted(opened, key=specificity):
        entry = opened[host]
        groups.setdefault((tuple(entry.rules), entry.require_tls), []).append(host)
    out: list[VirtualHostInput] = []
    for (rules, require_tls), hosts in groups.items():
        sources = dict.fromkeys(source for host in hosts for source in opened[host].sources)
        out.append(
            VirtualHostInput.of(
                name=with_port(hosts[0], opened[hosts[0]].port),
                text=" ".join(map(bracketed, hosts)),
                content=RuleContent(rules=rules),
                sources=tuple(sources),
                require_tls=require_tls,
            )
        )
    return out

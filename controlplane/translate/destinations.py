"""Where the destinations of routes lead, as one proxy class sees the mesh.

Owns the choice of a destination's cluster and affinity, and which `http` entries and matches of
a VirtualService hold for a caller. Must not know Envoy's messages. The rule that is easy to
break: a destination that does not exist keeps its cluster name (Envoy answers 503); it is never
left out, which would shift its share to the others.
"""

from __future__ import annotations

from typing import Final

from controlplane.model.destination_rule import ConsistentHashLB
from controlplane.model.destination_rules import subset_policy
from controlplane.model.names import ClusterName, Host, outbound_cluster
from controlplane.model.services import Service
from controlplane.model.snapshot import Snapshot, selects, visible
from controlplane.model.virtual_service import Destination, HTTPMatchRequest, HTTPRoute
from controlplane.model.virtual_services import RoutingRule
from controlplane.translate.http_route import HttpRouteInput
from controlplane.translate.route_action import Target
from controlplane.translate.scope import OutboundClass


class Destinations:
    """Resolves destinations for one proxy class in one snapshot."""

    def __init__(self, snapshot: Snapshot, cls: OutboundClass) -> None:
        self._snapshot: Final = snapshot
        self._cls: Final = cls

    def sees(self, service: Service) -> bool:
        """Whether the service is exported to the namespace of the class."""
        export_to = service.export_to or self._snapshot.mesh.default_service_export_to
        return visible(export_to, service.namespace, self._cls.namespace)

    def service(self, host: str) -> Service | None:
        """Return the service of a host, None when there is none or it is not visible."""
        service = self._snapshot.service_by_host.get(Host(host))
        return service if service is not None and self.sees(service) else None

    def target(self, destination: Destination, port: int) -> Target:
        """Return the cluster and affinity of a destination; `port` is where requests come to.

        The destination's own port, else the only port of its service, else `port`. An
        ExternalName leads to the host behind it.
        """
        service = self.service(destination.host)
        host = Host(destination.host)
        if service is not None and service.alias_of is not None:
            host = service.alias_of
        if destination.port is not None and destination.port.number is not None:
            port = destination.port.number
        elif service is not None and len(service.ports) == 1:
            port = service.ports[0].number
        return Target(
            cluster=outbound_cluster(port, destination.subset, host),
            affinity=self.affinity(host, subset=destination.subset, port=port),
        )

    def mirror(self, destination: Destination, port: int) -> ClusterName:
        """Return the cluster of a shadow destination."""
        return self.target(destination, port).cluster

    def affinity(self, host: Host, *, subset: str, port: int) -> ConsistentHashLB | None:
        """Return the consistentHash of a destination's cluster, None when it has none."""
        service = self._snapshot.service_by_host.get(host)
        rule = self._snapshot.rules.lookup(
            host,
            client_namespace=self._cls.namespace,
            service_namespace=service.namespace if service is not None else "",
            client_labels=self._cls.labels,
        )
        if rule is None:
            return None
        balancer = subset_policy(rule, subset, port).load_balancer
        return balancer.consistent_hash if balancer is not None else None

    def select(
        self, rule: RoutingRule, *, gateway: str, port: int, tls: bool = False
    ) -> tuple[HttpRouteInput, ...]:
        """Return what of a VirtualService holds for this class on a port, in order.

        `gateway` is `mesh` or `NAMESPACE/NAME`. Empty when nothing holds. What comes after an
        entry without matches can never be reached and is left out.
        """
        chosen: list[HttpRouteInput] = []
        for index, route in enumerate(rule.http):
            matches = self._matches(route, gateway, port)
            # Delegation is not supported yet: such an entry has nothing to say.
            if matches and not _only_delegates(route):
                chosen.append(self._input(rule, index, matches, port=port, tls=tls))
            if not route.match:
                break
        return tuple(chosen)

    def _input(
        self, rule: RoutingRule, index: int, matches: tuple[int, ...], *, port: int, tls: bool
    ) -> HttpRouteInput:
        route = rule.http[index]
        shadows = [route.mirror] if route.mirror is not None else []
        shadows += [mirror.destination for mirror in route.mirrors]
        return HttpRouteInput(
            rule=rule.ref,
            index=index,
            route=route,
            matches=matches,
            targets=tuple(self.target(entry.destination, port) for entry in route.route),
            mirrors=tuple(self.mirror(shadow, port) for shadow in shadows),
            retries=route.retries or self._snapshot.mesh.default_http_retry_policy,
            port=port,
            tls=tls,
        )

    def _matches(self, route: HTTPRoute, gateway: str, port: int) -> tuple[int, ...]:
        if not route.match:
            return (-1,)
        return tuple(
            position
            for position, match in enumerate(route.match)
            if self._holds(match, gateway, port)
        )

    def _holds(self, match: HTTPMatchRequest, gateway: str, port: int) -> bool:
        """Whether the conditions on the caller hold. Source: Istio's sourceMatchHTTP."""
        if match.port and match.port != port:
            return False
        if match.gateways:
            # Istio reads no source conditions when gateways are named.
            return gateway in match.gateways
        if match.source_namespace and match.source_namespace != self._cls.namespace:
            return False
        return selects(match.source_labels, self._cls.labels)


def _only_delegates(route: HTTPRoute) -> bool:
    return (
        route.delegate is not None
        and not route.route
        and route.redirect is None
        and route.direct_response is None
    )

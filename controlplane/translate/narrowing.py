"""What one resource type reads of a proxy class: classes that agree in it share its resources.

Owns which fields each type reads, and which namespaces are alike to it. What is left out has its
default in the narrowed class, which is all that the translation of that type is given, so that
nothing can be read that is not part of the key. The rule that is easy to break: a type that is to
read one more field gets it through its function here.
"""

from __future__ import annotations

from typing import Final

from controlplane.model.destination_rules import MergedRule
from controlplane.model.names import is_wildcard
from controlplane.model.snapshot import Snapshot, visible
from controlplane.translate.filters import METADATA_EXCHANGE
from controlplane.translate.scope import OutboundClass

_CLUSTER_EXTENSIONS: Final = frozenset({METADATA_EXCHANGE})

_Sight = tuple[int, ...]


class Sights:
    """Finds namespaces that see the same services and follow the same DestinationRules.

    The same rules for every host that a route may lead to, whether it is a service or not.

    Valid for a snapshot, and for later ones that `fit`.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        # Without its other parts, so that they are neither read nor kept.
        self._snapshot: Final = Snapshot(
            mesh=snapshot.mesh,
            services=snapshot.services,
            service_by_host=snapshot.service_by_host,
            rules=snapshot.rules,
        )
        default = snapshot.mesh.default_service_export_to
        # When nothing is hidden, only its own rules can tell a namespace from others.
        self._open: Final = all(
            "*" in (service.export_to or default) for service in snapshot.services
        ) and all("*" in rule.export_to for rule in snapshot.rules.rules)
        self._own: Final[dict[str, list[MergedRule]]] = {}
        for rule in snapshot.rules.rules:
            self._own.setdefault(rule.namespace, []).append(rule)
        # Hosts that rules speak of and that are no services; routes may lead there.
        self._others: Final = sorted(
            {
                rule.host
                for rule in snapshot.rules.rules
                if rule.host not in snapshot.service_by_host
            }
        )
        self._for_all: Final = self._own.get(snapshot.mesh.root_namespace, [])
        self._known: Final[dict[str, str]] = {}
        self._first: Final[dict[_Sight, str]] = {}

    def fit(self, snapshot: Snapshot) -> bool:
        """Whether what is read here is the same in another snapshot."""
        mine = self._snapshot
        return (
            snapshot.services is mine.services
            and snapshot.rules is mine.rules
            and snapshot.mesh.default_service_export_to == mine.mesh.default_service_export_to
            and snapshot.mesh.root_namespace == mine.mesh.root_namespace
        )

    def alike(self, namespace: str) -> str:
        """Return the namespace that stands for all that see what this one sees.

        The empty one stands for those without anything of their own.
        """
        found = self._known.get(namespace)
        if found is None:
            own = self._own.get(namespace, ())
            if any(is_wildcard(rule.host) for rule in own):
                found = namespace  # alone: what it means by a host nobody knows beforehand
            elif self._open and not any(self._speaks_for_others(rule) for rule in own):
                found = ""
            else:
                found = self._first.setdefault(self._sight(namespace), namespace)
            self._known[namespace] = found
        return found

    def _speaks_for_others(self, rule: MergedRule) -> bool:
        """Whether a rule concerns anything but a service of its own namespace."""
        service = self._snapshot.service_by_host.get(rule.host)
        return service is None or service.namespace != rule.namespace

    def _sight(self, namespace: str) -> _Sight:
        default, rules = self._snapshot.mesh.default_service_export_to, self._snapshot.rules
        # The rules live as long as the snapshot, so an address tells them apart.
        found: list[int] = []
        for service in self._snapshot.services:
            rule = rules.lookup(
                service.host, client_namespace=namespace, service_namespace=service.namespace
            )
            seen = visible(service.export_to or default, service.namespace, namespace)
            found += (seen, id(rule))
        found += (
            id(rules.lookup(host, client_namespace=namespace, service_namespace=""))
            for host in self._others
        )
        found += (visible(rule.export_to, rule.namespace, namespace) for rule in self._for_all)
        return tuple(found)


def for_clusters(cls: OutboundClass, sights: Sights) -> OutboundClass:
    """Return what outbound clusters read of a class."""
    return OutboundClass(
        type=cls.type,
        namespace=sights.alike(cls.namespace),
        dns_domain="",
        ipv4=cls.ipv4,
        ipv6=cls.ipv6,
        serves_secrets=cls.serves_secrets,
        locality=cls.locality,
        node_name=cls.node_name,
        extensions=cls.extensions & _CLUSTER_EXTENSIONS,
    )


def for_load_assignments(cls: OutboundClass, sights: Sights) -> OutboundClass:
    """Return what load assignments read of a class."""
    return OutboundClass(
        type=cls.type,
        namespace=sights.alike(cls.namespace),
        dns_domain="",
        locality=cls.locality,
        node_name=cls.node_name,
    )


def for_listeners(cls: OutboundClass, sights: Sights) -> OutboundClass:
    """Return what outbound listeners read of a class: everything of a gateway's."""
    if cls.is_router:
        return cls
    # An unprivileged proxy without capture is told by name what its namespace cannot have.
    named = cls.unprivileged and cls.interception_mode == "NONE"
    return OutboundClass(
        type=cls.type,
        namespace=cls.namespace if named else sights.alike(cls.namespace),
        dns_domain="",
        interception_mode=cls.interception_mode,
        ipv4=cls.ipv4,
        ipv6=cls.ipv6,
        serves_secrets=cls.serves_secrets,
        http10=cls.http10,
        idle_timeout=cls.idle_timeout,
        http_proxy_port=cls.http_proxy_port,
        unprivileged=cls.unprivileged,
        exact_balance=cls.exact_balance,
        extensions=cls.extensions,
        own_headless=cls.own_headless,
    )

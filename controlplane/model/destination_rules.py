"""The index of DestinationRules: which rule speaks for a host, and the policy of one port.

Owns merging, precedence and visibility. Must not know services, endpoints or Envoy. The rules
that are easy to break: a port-level policy replaces, it never merges, and rules with a
workloadSelector take no part (Istio's push_context.go and destination_rule.go).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from msgspec import structs

from controlplane.model.base import NO_LABELS, FrozenDict, Labels, Model
from controlplane.model.destination_rule import (
    DestinationRule,
    PortTrafficPolicy,
    Subset,
    TrafficPolicy,
)
from controlplane.model.matching import visible
from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import ObjectRef, by_age
from controlplane.model.names import Host, host_covers, is_wildcard, resolve_host, specificity
from controlplane.model.table import changed_keys

NO_POLICY: Final = TrafficPolicy()


class SubsetOrigin(NamedTuple):
    """Where a subset of a merged rule was written: the object and the path inside it."""

    ref: ObjectRef
    field: str


class MergedRule(Model):
    """All DestinationRules of one namespace and host that are exported alike, as one.

    `subset_origins` runs parallel to `subsets`; `policy_ref` names the object whose traffic
    policy it is. `refs` holds every object that took part, oldest first.
    """

    host: Host
    namespace: str
    export_to: tuple[str, ...]
    refs: tuple[ObjectRef, ...]
    traffic_policy: TrafficPolicy | None = None
    policy_ref: ObjectRef | None = None
    subsets: tuple[Subset, ...] = ()
    subset_origins: tuple[SubsetOrigin, ...] = ()

    @property
    def ref(self) -> ObjectRef:
        """The oldest object of the rule: the one that `istio.config` metadata names."""
        return self.refs[0]

    def subset(self, name: str) -> Subset | None:
        """Return the subset with that name, None when the rule has none."""
        return next((subset for subset in self.subsets if subset.name == name), None)


class DestinationRules:
    """All DestinationRules of a snapshot, indexed. Read only, so that a snapshot may share it."""

    __slots__ = ("_owners", "_root")

    def __init__(
        self, owners: Mapping[str, _Owner] = FrozenDict(), *, root_namespace: str = ""
    ) -> None:
        """`owners` are the rules of each namespace that has any."""
        self._owners: Final = owners
        self._root: Final = root_namespace

    @classmethod
    def build(
        cls, rules: Iterable[DestinationRule], mesh: MeshConfig, domain: str = "cluster.local"
    ) -> DestinationRules:
        """Return the index of these rules, whatever their order."""
        ordered = sorted(rules, key=by_age)
        return cls().replaced(ordered, ordered, mesh, domain)

    def replaced(
        self,
        moved: Iterable[DestinationRule],
        rules: Iterable[DestinationRule],
        mesh: MeshConfig,
        domain: str,
    ) -> DestinationRules:
        """Return the index of `rules`, oldest first; `moved` are those that went and that came.

        The others are those that this is made of, with the same mesh and domain.
        """
        found: dict[str, dict[Host, list[MergedRule]]] = {}
        for rule in moved:
            found.setdefault(rule.metadata.namespace, {})[_host(rule, domain)] = []
        for rule in rules:
            hosts = found.get(rule.metadata.namespace)
            if hosts is None or rule.spec.workload_selector is not None:
                continue
            host = _host(rule, domain)
            if host in hosts:
                _merge(hosts[host], _single(rule, host, mesh))
        owners = dict(self._owners)
        for namespace, hosts in found.items():
            owner = owners.pop(namespace, _NO_RULES)
            by_host = {**owner.by_host, **{host: tuple(merged) for host, merged in hosts.items()}}
            left = {host: merged for host, merged in by_host.items() if merged}
            if left:
                owners[namespace] = _Owner(namespace, left)
        return DestinationRules(owners, root_namespace=mesh.root_namespace)

    @property
    def rules(self) -> tuple[MergedRule, ...]:
        """All rules, by namespace and host."""
        return tuple(
            rule
            for _, owner in sorted(self._owners.items())
            for _, merged in sorted(owner.by_host.items())
            for rule in merged
        )

    def changed_hosts(self, before: DestinationRules) -> frozenset[Host] | None:
        """Return the hosts for which a client may follow another rule than it did before.

        None when one of them is a wildcard: it may concern any host.
        """
        if self is before:
            return frozenset()
        hosts: set[Host] = set()
        mine, theirs = self._owners, before._owners
        for namespace in changed_keys(theirs, mine):
            old, new = (owners.get(namespace, _NO_RULES) for owners in (theirs, mine))
            hosts |= changed_keys(old.by_host, new.by_host)
        same_root = self._root == before._root or not mine or not theirs
        return frozenset(hosts) if same_root and not any(map(is_wildcard, hosts)) else None

    def hashes_like(self, before: DestinationRules) -> bool:
        """Whether surely every client chooses endpoints by the same hashes as it did before."""
        hosts = self.changed_hosts(before)
        if not hosts:
            return hosts is not None
        return not any(map(_hashes, itertools.chain(before._all_for(hosts), self._all_for(hosts))))

    def _all_for(self, hosts: frozenset[Host]) -> Iterator[MergedRule]:
        """Yield every rule that covers one of these hosts, whoever follows it."""
        for owner in self._owners.values():
            for pattern, rules in owner.by_host.items():
                if pattern in hosts or (
                    is_wildcard(pattern) and any(host_covers(pattern, host) for host in hosts)
                ):
                    yield from rules

    def lookup(
        self,
        host: str,
        *,
        client_namespace: str,
        service_namespace: str,
        client_labels: Labels = NO_LABELS,
    ) -> MergedRule | None:
        """Return the rule that a client of one namespace follows for a host of another.

        First the client's namespace, then the service's, then the root namespace; in each the
        exact host before the longest wildcard. Source: Istio's PushContext.destinationRule.
        `client_labels` decide nothing as long as rules with a workloadSelector take no part.
        """
        owners = self._owners
        if not owners:
            return None
        mine = owners.get(client_namespace)
        if mine is not None:
            # In the root namespace live rules for everybody; only its private rules speak for its
            # own proxies before the rules of a service's namespace do.
            found = (mine.private if client_namespace == self._root else mine.local).find(host)
            if found:
                return found[0]
        for namespace in (service_namespace, self._root):
            theirs = owners.get(namespace)
            if theirs is None:
                continue
            for rule in theirs.exported.find(host):
                if visible(rule.export_to, namespace, client_namespace):
                    return rule
        return None


class _Hosts:
    """Rules of one namespace by host."""

    __slots__ = ("_exact", "_wildcards")

    def __init__(self, exact: Mapping[Any, tuple[MergedRule, ...]]) -> None:
        self._exact: Final = exact  # asked for any text that may be a host
        self._wildcards: Final = tuple(sorted(filter(is_wildcard, exact), key=specificity))

    def find(self, host: str) -> tuple[MergedRule, ...]:
        """Return the rules of the most specific host that covers `host`, oldest first."""
        found = self._exact.get(host)
        if found is not None or not self._wildcards:
            return found or ()
        for pattern in self._wildcards:
            if host_covers(pattern, host):
                return self._exact[pattern]
        return ()


class _Owner:
    """The rules of one namespace: all by host, and those for its own clients and for others."""

    __slots__ = ("by_host", "exported", "local", "private")

    def __init__(self, namespace: str, by_host: Mapping[Host, tuple[MergedRule, ...]]) -> None:
        self.by_host: Final = by_host
        whole = _Hosts(by_host)

        def only(wanted: Callable[[MergedRule], bool]) -> _Hosts:
            found: dict[Host, tuple[MergedRule, ...]] = {}
            same = True
            for host, rules in by_host.items():
                chosen = tuple(filter(wanted, rules))
                same = same and len(chosen) == len(rules)
                if chosen:
                    found[host] = chosen
            return whole if same else _Hosts(found)

        def is_local(rule: MergedRule) -> bool:
            return visible(rule.export_to, namespace, namespace)

        self.local: Final = only(is_local)
        self.exported: Final = only(lambda rule: not _is_private(rule))
        self.private: Final = only(lambda rule: is_local(rule) and _is_private(rule))


_NO_RULES: Final = _Owner("", {})


def port_policy(policy: TrafficPolicy | None, port: int) -> TrafficPolicy:
    """Return the policy of a service port, without port-level settings.

    The port's own settings replace load balancer, connection pool, outlier detection and TLS,
    unset ones included; tunnel, proxy protocol and retry budget stay those of the destination.
    """
    if policy is None:
        return NO_POLICY
    if not policy.port_level_settings:
        return policy
    own = _for_port(policy, port)
    if own is None:
        return structs.replace(policy, port_level_settings=())
    return _replaced(policy, own)


def subset_policy(rule: MergedRule | None, subset: str, port: int) -> TrafficPolicy:
    """Return the policy of a subset's port: the destination's, overridden field by field.

    The empty subset is the whole host. Settings of the subset for the port replace in turn.
    Source: Istio's MergeSubsetTrafficPolicy.
    """
    if rule is None:
        return NO_POLICY
    base = port_policy(rule.traffic_policy, port)
    found = rule.subset(subset) if subset else None
    own = found.traffic_policy if found is not None else None
    if own is None:
        return base
    merged = TrafficPolicy(
        load_balancer=own.load_balancer or base.load_balancer,
        connection_pool=own.connection_pool or base.connection_pool,
        outlier_detection=own.outlier_detection or base.outlier_detection,
        tls=own.tls or base.tls,
        tunnel=own.tunnel or base.tunnel,
        proxy_protocol=own.proxy_protocol or base.proxy_protocol,
        retry_budget=own.retry_budget or base.retry_budget,
    )
    for_port = _for_port(own, port)
    return merged if for_port is None else _replaced(merged, for_port)


def with_mesh_defaults(policy: TrafficPolicy, mesh: MeshConfig) -> TrafficPolicy:
    """Return the policy with the mesh's connection pool and outlier detection where it has none."""
    defaults = mesh.default_traffic_policy
    if defaults is None:
        return policy
    return structs.replace(
        policy,
        connection_pool=policy.connection_pool or defaults.connection_pool,
        outlier_detection=policy.outlier_detection or defaults.outlier_detection,
    )


def _for_port(policy: TrafficPolicy, port: int) -> PortTrafficPolicy | None:
    for settings in policy.port_level_settings:
        if settings.port is not None and settings.port.number == port:
            return settings
    return None


def _replaced(policy: TrafficPolicy, own: PortTrafficPolicy) -> TrafficPolicy:
    return structs.replace(
        policy,
        load_balancer=own.load_balancer,
        connection_pool=own.connection_pool,
        outlier_detection=own.outlier_detection,
        tls=own.tls,
        port_level_settings=(),
    )


def _host(rule: DestinationRule, domain: str) -> Host:
    return resolve_host(rule.spec.host, rule.metadata.namespace, domain)


def _single(rule: DestinationRule, host: Host, mesh: MeshConfig) -> MergedRule:
    spec, ref = rule.spec, rule.ref
    named: dict[str, tuple[Subset, SubsetOrigin]] = {}
    for index, subset in enumerate(spec.subsets):
        named.setdefault(subset.name, (subset, SubsetOrigin(ref, _subset_field(index))))
    return MergedRule(
        host=host,
        namespace=rule.metadata.namespace,
        export_to=spec.export_to or mesh.default_destination_rule_export_to,
        refs=(ref,),
        traffic_policy=spec.traffic_policy,
        policy_ref=ref if spec.traffic_policy is not None else None,
        subsets=tuple(subset for subset, _ in named.values()),
        subset_origins=tuple(origin for _, origin in named.values()),
    )


@functools.lru_cache(maxsize=64)
def _subset_field(index: int) -> str:
    return f"spec.subsets[{index}]"


def _merge(found: list[MergedRule], newer: MergedRule) -> None:
    """Add a rule to the older ones of its host.

    It joins those that are exported alike, and those exported to less than itself; unless its
    export is exactly that of another, it also stands for itself.
    """
    alone = True
    for index, older in enumerate(found):
        mine, theirs = set(newer.export_to), set(older.export_to)
        if mine >= theirs or "*" in mine:
            found[index] = _joined(older, newer)
            alone = alone and mine != theirs
    if alone:
        found.append(newer)


def _joined(older: MergedRule, newer: MergedRule) -> MergedRule:
    taken = {subset.name for subset in older.subsets}
    added = [
        (subset, origin)
        for subset, origin in zip(newer.subsets, newer.subset_origins, strict=True)
        if subset.name not in taken
    ]
    own = older.traffic_policy is not None
    return structs.replace(
        older,
        refs=(*older.refs, *newer.refs),
        traffic_policy=older.traffic_policy if own else newer.traffic_policy,
        policy_ref=older.policy_ref if own else newer.policy_ref,
        subsets=(*older.subsets, *(subset for subset, _ in added)),
        subset_origins=(*older.subset_origins, *(origin for _, origin in added)),
    )


def _hashes(rule: MergedRule) -> bool:
    """Whether a rule says anywhere that endpoints are chosen by a hash."""
    policies = (rule.traffic_policy, *(subset.traffic_policy for subset in rule.subsets))
    balancers = (
        part.load_balancer for policy in policies if policy is not None for part in _parts(policy)
    )
    return any(found is not None and found.consistent_hash is not None for found in balancers)


def _parts(policy: TrafficPolicy) -> tuple[TrafficPolicy | PortTrafficPolicy, ...]:
    return (policy, *policy.port_level_settings)


def _is_private(rule: MergedRule) -> bool:
    return all(entry in (".", rule.namespace) for entry in rule.export_to)


EMPTY_RULES: Final = DestinationRules()

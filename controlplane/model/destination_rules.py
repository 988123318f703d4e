"""The index of DestinationRules: which rule speaks for a host, and the policy of one port.

Owns merging, precedence and visibility. Must not know services, endpoints or Envoy. The rules
that are easy to break: a port-level policy replaces, it never merges, and rules with a
workloadSelector take no part (Istio's push_context.go and destination_rule.go).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from msgspec import structs

from controlplane.model.base import NO_LABELS, Labels, Model
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

    __slots__ = ("_exported", "_local", "_root", "_root_local", "rules")

    def __init__(self, rules: Iterable[MergedRule] = (), *, root_namespace: str = "") -> None:
        self.rules: Final = tuple(rules)
        self._root: Final = root_namespace
        local: dict[str, list[MergedRule]] = {}
        exported: dict[str, list[MergedRule]] = {}
        for rule in self.rules:
            owner = rule.namespace
            if visible(rule.export_to, owner, owner):
                local.setdefault(owner, []).append(rule)
            if not _is_private(rule):
                exported.setdefault(owner, []).append(rule)
        self._local: Final = {key: _Hosts(found) for key, found in local.items()}
        self._exported: Final = {key: _Hosts(found) for key, found in exported.items()}
        # In the root namespace live rules for everybody; only its private rules speak for its
        # own proxies before the rules of a service's namespace do.
        self._root_local: Final = _Hosts(
            [rule for rule in local.get(root_namespace, ()) if _is_private(rule)]
        )

    @classmethod
    def build(
        cls, rules: Iterable[DestinationRule], mesh: MeshConfig, domain: str = "cluster.local"
    ) -> DestinationRules:
        """Return the index of these rules, whatever their order."""
        merged: dict[tuple[str, Host], list[MergedRule]] = {}
        for rule in sorted(rules, key=by_age):
            if rule.spec.workload_selector is not None:
                continue
            one = _single(rule, mesh=mesh, domain=domain)
            _merge(merged.setdefault((one.namespace, one.host), []), one)
        return cls(
            (rule for found in merged.values() for rule in found),
            root_namespace=mesh.root_namespace,
        )

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
        if not self.rules:
            return None
        if client_namespace != self._root:
            mine = self._local.get(client_namespace)
            found = mine.find(host) if mine is not None else None
        else:
            found = self._root_local.find(host)
        if found:
            return found[0]
        for owner in (service_namespace, self._root):
            theirs = self._exported.get(owner)
            if theirs is None:
                continue
            for rule in theirs.find(host):
                if visible(rule.export_to, owner, client_namespace):
                    return rule
        return None


class _Hosts:
    """The rules of one namespace by host."""

    __slots__ = ("_exact", "_wildcards")

    def __init__(self, rules: Iterable[MergedRule]) -> None:
        exact: dict[str, tuple[MergedRule, ...]] = {}
        for rule in rules:
            exact[rule.host] = (*exact.get(rule.host, ()), rule)
        self._exact: Final[Mapping[str, tuple[MergedRule, ...]]] = exact
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


def _single(rule: DestinationRule, *, mesh: MeshConfig, domain: str) -> MergedRule:
    spec, ref = rule.spec, rule.ref
    named: dict[str, tuple[Subset, SubsetOrigin]] = {}
    for index, subset in enumerate(spec.subsets):
        named.setdefault(subset.name, (subset, SubsetOrigin(ref, _subset_field(index))))
    return MergedRule(
        host=resolve_host(spec.host, rule.metadata.namespace, domain),
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


def _is_private(rule: MergedRule) -> bool:
    return all(entry in (".", rule.namespace) for entry in rule.export_to)


EMPTY_RULES: Final = DestinationRules()

"""Which DestinationRule speaks for a host, and what its policy is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controlplane.model.base import Labels
from controlplane.model.destination_rule import (
    ConnectionPoolSettings,
    DestinationRule,
    DestinationRuleSpec,
    LoadBalancerSettings,
    OutlierDetection,
    PortTrafficPolicy,
    Subset,
    TCPSettings,
    TrafficPolicy,
)
from controlplane.model.destination_rules import (
    DestinationRules,
    MergedRule,
    port_policy,
    subset_policy,
    with_mesh_defaults,
)
from controlplane.model.matching import PortSelector, WorkloadSelector
from controlplane.model.mesh import DefaultTrafficPolicy, MeshConfig
from controlplane.model.meta import ObjectMeta

HOST = "reviews.default.svc.cluster.local"
RANDOM = TrafficPolicy(load_balancer=LoadBalancerSettings(simple="RANDOM"))
ROBIN = TrafficPolicy(load_balancer=LoadBalancerSettings(simple="ROUND_ROBIN"))


def rule(
    name: str,
    host: str = "reviews",
    *,
    namespace: str = "default",
    subsets: tuple[str, ...] = (),
    policy: TrafficPolicy | None = None,
    export_to: tuple[str, ...] = (),
    created: str | None = None,
    selector: WorkloadSelector | None = None,
) -> DestinationRule:
    return DestinationRule(
        metadata=ObjectMeta(name=name, namespace=namespace, creation_timestamp=created),
        spec=DestinationRuleSpec(
            host=host,
            traffic_policy=policy,
            subsets=tuple(Subset(name=subset) for subset in subsets),
            export_to=export_to,
            workload_selector=selector,
        ),
    )


def index(*rules: DestinationRule, mesh: MeshConfig | None = None) -> DestinationRules:
    return DestinationRules.build(rules, mesh or MeshConfig())


def found(
    rules: DestinationRules, *, client: str = "default", service: str = "default", host: str = HOST
) -> MergedRule | None:
    return rules.lookup(host, client_namespace=client, service_namespace=service)


def name_of(rule: MergedRule | None) -> str | None:
    return rule.ref.name if rule is not None else None


def test_a_short_host_is_a_service_of_the_rules_namespace() -> None:
    rules = index(rule("mine"))
    assert name_of(found(rules)) == "mine"
    assert found(rules, host="reviews.other.svc.cluster.local") is None


def test_the_clients_namespace_comes_before_the_services_and_the_root() -> None:
    client = rule("client", HOST, namespace="shop")
    service = rule("service")
    root = rule("root", HOST, namespace="istio-system")
    order = [client, service, root]
    for expected in ("client", "service", "root"):
        assert name_of(found(index(*order), client="shop")) == expected
        order.pop(0)


def test_the_exact_host_comes_before_the_longest_wildcard() -> None:
    everything = rule("everything", "*")
    suffix = rule("suffix", "*.default.svc.cluster.local")
    exact = rule("exact", HOST)
    assert name_of(found(index(everything, suffix, exact))) == "exact"
    assert name_of(found(index(everything, suffix))) == "suffix"
    assert name_of(found(index(everything))) == "everything"


def test_a_wildcard_of_the_client_beats_the_exact_host_of_the_service() -> None:
    rules = index(rule("wild", "*", namespace="shop"), rule("exact"))
    assert name_of(found(rules, client="shop")) == "wild"


def test_a_private_rule_is_for_its_own_namespace() -> None:
    rules = index(rule("private", export_to=(".",)))
    assert name_of(found(rules)) == "private"
    assert found(rules, client="shop") is None


def test_a_rule_exported_elsewhere_is_not_for_its_own_namespace() -> None:
    rules = index(rule("away", export_to=("shop",)))
    assert found(rules) is None
    assert name_of(found(rules, client="shop")) == "away"


def test_the_mesh_default_decides_where_a_rule_says_nothing() -> None:
    mesh = MeshConfig(default_destination_rule_export_to=(".",))
    assert found(index(rule("quiet"), mesh=mesh), client="shop") is None


def test_root_rules_do_not_come_first_for_proxies_of_the_root_namespace() -> None:
    service = rule("service")
    public = rule("public", HOST, namespace="istio-system")
    private = rule("private", HOST, namespace="istio-system", export_to=(".",))
    assert name_of(found(index(service, public), client="istio-system")) == "service"
    assert name_of(found(index(service, private), client="istio-system")) == "private"


def test_rules_of_one_host_merge_and_the_oldest_policy_stays() -> None:
    old = rule("old", subsets=("v1",), policy=RANDOM, created="2024-01-01T00:00:00Z")
    new = rule("new", HOST, subsets=("v1", "v2"), policy=ROBIN, created="2024-01-02T00:00:00Z")
    merged = found(index(new, old))
    assert merged is not None
    assert [ref.name for ref in merged.refs] == ["old", "new"]
    assert [subset.name for subset in merged.subsets] == ["v1", "v2"]
    assert [(o.ref.name, o.field) for o in merged.subset_origins] == [
        ("old", "spec.subsets[0]"),
        ("new", "spec.subsets[1]"),
    ]
    assert merged.traffic_policy == RANDOM
    assert merged.policy_ref == old.ref


def test_a_younger_policy_counts_when_the_older_rule_has_none() -> None:
    merged = found(index(rule("a", subsets=("v1",)), rule("b", policy=ROBIN)))
    assert merged is not None
    assert merged.traffic_policy == ROBIN
    assert merged.policy_ref is not None
    assert merged.policy_ref.name == "b"


def test_rules_that_are_exported_differently_stay_apart() -> None:
    rules = index(
        rule("a-narrow", subsets=("v1",), export_to=("shop",)),
        rule("b-wide", subsets=("v2",), export_to=("*",)),
    )
    shop, other = found(rules, client="shop"), found(rules, client="third")
    assert shop is not None
    assert [subset.name for subset in shop.subsets] == ["v1", "v2"]
    assert other is not None
    assert [subset.name for subset in other.subsets] == ["v2"]


def test_rules_for_selected_workloads_take_no_part() -> None:
    selector = WorkloadSelector(match_labels=Labels({"app": "web"}))
    assert found(index(rule("some", selector=selector))) is None


@given(st.permutations(["a", "b", "c", "d"]))
def test_the_order_of_arrival_changes_nothing(names: list[str]) -> None:
    rules = [rule(name, subsets=(name, "same")) for name in names]
    assert found(index(*rules)) == found(index(*sorted(rules, key=lambda r: r.metadata.name)))


POOL = ConnectionPoolSettings(tcp=TCPSettings(max_connections=1))
OTHER_POOL = ConnectionPoolSettings(tcp=TCPSettings(max_connections=2))
OUTLIER = OutlierDetection(consecutive5xx_errors=1)


def _merged(policy: TrafficPolicy | None, *subsets: Subset) -> MergedRule:
    item = DestinationRule(
        metadata=ObjectMeta(name="r", namespace="default"),
        spec=DestinationRuleSpec(host=HOST, traffic_policy=policy, subsets=subsets),
    )
    merged = found(index(item))
    assert merged is not None
    return merged


def test_a_port_policy_replaces_what_it_does_not_mention() -> None:
    policy = TrafficPolicy(
        connection_pool=POOL,
        outlier_detection=OUTLIER,
        port_level_settings=(
            PortTrafficPolicy(port=PortSelector(number=80), connection_pool=OTHER_POOL),
        ),
    )
    assert port_policy(policy, 80) == TrafficPolicy(connection_pool=OTHER_POOL)
    assert port_policy(policy, 81) == TrafficPolicy(connection_pool=POOL, outlier_detection=OUTLIER)


def test_a_subset_policy_merges_and_its_port_policy_replaces() -> None:
    subset = Subset(
        name="v1",
        traffic_policy=TrafficPolicy(
            load_balancer=RANDOM.load_balancer,
            port_level_settings=(
                PortTrafficPolicy(port=PortSelector(number=81), connection_pool=OTHER_POOL),
            ),
        ),
    )
    merged = _merged(TrafficPolicy(connection_pool=POOL), subset)
    assert subset_policy(merged, "v1", 80) == TrafficPolicy(
        connection_pool=POOL, load_balancer=RANDOM.load_balancer
    )
    assert subset_policy(merged, "v1", 81) == TrafficPolicy(connection_pool=OTHER_POOL)
    assert subset_policy(merged, "", 80) == TrafficPolicy(connection_pool=POOL)
    assert subset_policy(None, "v1", 80) == TrafficPolicy()


def test_the_mesh_fills_connection_pool_and_outlier_detection_only_where_unset() -> None:
    mesh = MeshConfig(
        default_traffic_policy=DefaultTrafficPolicy(connection_pool=POOL, outlier_detection=OUTLIER)
    )
    own = TrafficPolicy(connection_pool=OTHER_POOL)
    assert with_mesh_defaults(own, mesh) == TrafficPolicy(
        connection_pool=OTHER_POOL, outlier_detection=OUTLIER
    )
    assert with_mesh_defaults(own, MeshConfig()) is own

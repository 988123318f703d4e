"""Priorities and weights of localities, and when a client's place counts at all."""

from __future__ import annotations

import pytest

from controlplane.model.base import FrozenDict
from controlplane.model.destination_rule import (
    Distribute,
    Failover,
    LoadBalancerSettings,
    LocalityLoadBalancerSetting,
    OutlierDetection,
    TrafficPolicy,
)
from controlplane.model.mesh import DefaultTrafficPolicy, MeshConfig
from controlplane.model.proxy import make_proxy
from controlplane.model.snapshot import Snapshot
from controlplane.translate.localities import (
    Group,
    LocalitySettings,
    arrange,
    is_weighted,
    locality_settings,
)
from controlplane.translate.scope import Classifier

OUTLIER = OutlierDetection(consecutive5xx_errors=1)
DETECTING = TrafficPolicy(outlier_detection=OUTLIER)
SHARES = LocalityLoadBalancerSetting(
    distribute=(Distribute(from_="eu", to=FrozenDict({"eu": 90, "us": 10})),)
)


def balanced(setting: LocalityLoadBalancerSetting, *, detects: bool = False) -> TrafficPolicy:
    return TrafficPolicy(
        load_balancer=LoadBalancerSettings(locality_lb_setting=setting),
        outlier_detection=OUTLIER if detects else None,
    )


def test_priorities_follow_the_distance_without_gaps() -> None:
    weights = {"eu/a/1": 1, "eu/a/2": 1, "eu/b/1": 1, "us/a/1": 1}
    found = arrange(weights, LocalitySettings(locality="eu/a/1"))
    assert {label: group.priority for label, group in found.items()} == {
        "eu/a/1": 0,
        "eu/a/2": 1,
        "eu/b/1": 2,
        "us/a/1": 3,
    }
    far = arrange({"us/a/1": 1, "us/b/1": 2}, LocalitySettings(locality="eu/a/1"))
    assert set(far.values()) == {Group(0, 1), Group(0, 2)}


def test_a_failover_rule_of_another_region_changes_nothing() -> None:
    settings = LocalitySettings(locality="eu", failover=(Failover(from_="asia", to="us"),))
    found = arrange({"us": 1, "africa": 1, "eu": 1}, settings)
    assert {label: group.priority for label, group in found.items()} == {
        "us": 1,
        "africa": 1,
        "eu": 0,
    }


def test_the_more_precise_share_takes_its_locality_first() -> None:
    settings = LocalitySettings(
        locality="eu/a",
        distribute=(Distribute(from_="eu/*", to=FrozenDict({"eu/*": 30, "eu/a/*": 70})),),
    )
    found = arrange({"eu/a": 5, "eu/b": 1, "us/c": 4}, settings)
    assert found == {
        "eu/a": Group(0, 70),
        "eu/b": Group(0, 30),
        "us/c": Group(0, 4, empty=True),
    }


def test_a_share_for_other_places_changes_nothing() -> None:
    settings = LocalitySettings(locality="us", distribute=SHARES.distribute)
    assert arrange({"eu": 1, "us": 2}, settings) == {"eu": Group(0, 1), "us": Group(0, 2)}


@pytest.mark.parametrize(
    ("policy", "locality", "counts"),
    [
        (TrafficPolicy(), "eu/a", False),  # without outlier detection nothing fails over
        (DETECTING, "eu/a", True),
        (DETECTING, "", False),  # a client without a place has no near and far
        (balanced(SHARES), "eu/a", True),
        (balanced(LocalityLoadBalancerSetting(enabled=False), detects=True), "eu/a", False),
    ],
)
def test_when_the_place_of_a_client_counts(
    policy: TrafficPolicy, locality: str, counts: bool
) -> None:
    assert (locality_settings(policy, MeshConfig(), locality) is not None) is counts


def test_the_mesh_setting_counts_where_a_rule_has_none() -> None:
    mesh = MeshConfig(locality_lb_setting=SHARES)
    assert is_weighted(TrafficPolicy(), mesh)
    assert not is_weighted(balanced(LocalityLoadBalancerSetting(enabled=False)), mesh)
    off = MeshConfig(locality_lb_setting=LocalityLoadBalancerSetting(enabled=False))
    assert locality_settings(DETECTING, off, "eu") is None


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(locality_lb_setting=SHARES),
        MeshConfig(default_traffic_policy=DefaultTrafficPolicy(outlier_detection=OUTLIER)),
    ],
)
def test_mesh_wide_settings_put_the_locality_into_the_class(mesh: MeshConfig) -> None:
    proxy = make_proxy("sidecar~10.0.0.1~a.b~b.svc.cluster.local", locality="eu/a")
    assert Classifier(Snapshot(mesh=mesh)).classify(proxy).outbound.locality == "eu/a"
    assert Classifier(Snapshot()).classify(proxy).outbound.locality == ""

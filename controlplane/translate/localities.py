"""Priorities and weights of localities, as one client's place sees them.

Owns Istio's locality load balancing (core/loadbalancer): the default failover, failover between
regions, and distribution by weight. Must not know Envoy's messages. The rule that is easy to
break: without outlier detection nothing fails over, because Envoy would never leave a priority.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from controlplane.model.base import Model
from controlplane.model.destination_rule import (
    Distribute,
    Failover,
    LocalityLoadBalancerSetting,
    TrafficPolicy,
)
from controlplane.model.mesh import MeshConfig


class Place(NamedTuple):
    """A locality in its three parts."""

    region: str
    zone: str
    subzone: str


class LocalitySettings(Model):
    """How the endpoints of one cluster are ordered for clients in one locality."""

    locality: str
    failover: tuple[Failover, ...] = ()
    distribute: tuple[Distribute, ...] = ()


class Group(NamedTuple):
    """What becomes of the endpoints of one locality; an empty group keeps its weight alone."""

    priority: int
    weight: int
    empty: bool = False


def parse_place(label: str) -> Place:
    """Return the parts of `region/zone/subzone`, missing ones empty."""
    parts = label.split("/", 2)
    return Place(*parts, *[""] * (3 - len(parts)))


def locality_setting(policy: TrafficPolicy, mesh: MeshConfig) -> LocalityLoadBalancerSetting | None:
    """Return the setting that counts: the DestinationRule's, else the mesh's, None when off."""
    balancer = policy.load_balancer
    own = balancer.locality_lb_setting if balancer is not None else None
    setting = own if own is not None else mesh.locality_lb_setting
    return None if setting.enabled is False else setting


def locality_settings(
    policy: TrafficPolicy, mesh: MeshConfig, locality: str
) -> LocalitySettings | None:
    """Return how to order endpoints for clients in `locality`, None when it has no influence."""
    if not locality or not parse_place(locality).region:
        return None
    setting = locality_setting(policy, mesh)
    if setting is None:
        return None
    if setting.distribute:
        return LocalitySettings(locality=locality, distribute=setting.distribute)
    if policy.outlier_detection is None:
        return None
    return LocalitySettings(locality=locality, failover=setting.failover)


def is_weighted(policy: TrafficPolicy, mesh: MeshConfig) -> bool:
    """Whether a cluster balances between localities by their weights.

    Only when the user asked for a share or a failover; otherwise weights would change what a
    policy such as LEAST_REQUEST does.
    """
    setting = locality_setting(policy, mesh)
    if setting is None:
        return False
    fails_over = policy.outlier_detection is not None and bool(setting.failover)
    return bool(setting.distribute) or fails_over


def arrange(weights: Mapping[str, int], settings: LocalitySettings) -> dict[str, Group]:
    """Return priority and weight of each locality, given the sum of its endpoints' weights."""
    place = parse_place(settings.locality)
    if settings.distribute:
        return _distributed(weights, place, settings.distribute)
    return _failed_over(weights, place, settings.failover)


def _distributed(
    weights: Mapping[str, int], place: Place, rules: Sequence[Distribute]
) -> dict[str, Group]:
    rule = next((rule for rule in rules if _matches(place, rule.from_)), None)
    if rule is None:
        return {label: Group(0, weight) for label, weight in weights.items()}
    left = dict(weights)
    groups: dict[str, Group] = {}
    for target, share in sorted((rule.to or {}).items(), key=lambda item: _precision(item[0])):
        chosen = [label for label in left if _matches(parse_place(label), target)]
        total = sum(left[label] for label in chosen)
        for label in chosen:
            # A share that several localities match is divided by their own weights.
            part = math.ceil(left.pop(label) * share / total) if total else 0
            groups[label] = Group(0, part or weights[label], empty=not part)
    for label, weight in left.items():
        groups[label] = Group(0, weight, empty=True)
    return groups


def _failed_over(
    weights: Mapping[str, int], place: Place, rules: Sequence[Failover]
) -> dict[str, Group]:
    target = next((rule.to for rule in rules if rule.from_ == place.region), None)
    ranks = {label: _distance(place, parse_place(label), target) for label in weights}
    # Envoy wants priorities without gaps.
    compact = {rank: index for index, rank in enumerate(sorted(set(ranks.values())))}
    return {label: Group(compact[ranks[label]], weight) for label, weight in weights.items()}


def _distance(place: Place, other: Place, target: str | None) -> int:
    if place.region != other.region:
        return _OTHER_REGION if target is None or other.region == target else _NOT_THE_TARGET
    if place.zone != other.zone:
        return 2
    return 0 if place.subzone == other.subzone else 1


def _matches(place: Place, pattern: str) -> bool:
    wanted = parse_place(pattern)
    return (
        wanted.region in ("*", place.region)
        and wanted.zone in ("*", "", place.zone)
        and wanted.subzone in ("*", "", place.subzone)
    )


def _precision(pattern: str) -> tuple[int, str]:
    """Sort key: the pattern that says most first, so that the result is not left to chance."""
    said = sum(part not in ("", "*") for part in parse_place(pattern))
    return (-said, pattern)


_OTHER_REGION: Final = 3
_NOT_THE_TARGET: Final = 4

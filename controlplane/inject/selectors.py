"""Whether labels match a Kubernetes label selector.

Owns the four operators. The rule that is easy to break: an empty selector matches everything in
Kubernetes, but nothing here, because Istio's injector skips empty selectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from controlplane.model.mesh import LabelSelector, LabelSelectorRequirement


def matches(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Return whether the labels fulfil every part of a selector that is not empty."""
    equal: Mapping[str, str] = selector.match_labels or {}
    if not equal and not selector.match_expressions:
        return False
    return all(labels.get(key) == value for key, value in equal.items()) and all(
        _fulfils(requirement, labels) for requirement in selector.match_expressions
    )


def _fulfils(requirement: LabelSelectorRequirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value is not None and value in requirement.values
        case "NotIn":
            return value is None or value not in requirement.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case _:
            assert_never(requirement.operator)

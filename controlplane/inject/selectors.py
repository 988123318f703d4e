"""Whether labels match a label selector of the injector.

The rule that is easy to break: an empty selector matches everything in Kubernetes, but nothing
here, because Istio's injector skips empty selectors.
"""

from __future__ import annotations

from collections.abc import Mapping

from controlplane.model import discovery
from controlplane.model.mesh import LabelSelector


def matches(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Return whether the labels fulfil every part of a selector that is not empty."""
    empty = not selector.match_labels and not selector.match_expressions
    return not empty and discovery.matches(selector, labels)

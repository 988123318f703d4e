"""What the service account must be allowed for this package: the rules that a chart needs.

A table, so that a test can compare it with the chart and with what is asked of an API server.
The rule that is easy to break: `namespaced` rules belong into a Role of the root namespace, and
only the others into a ClusterRole.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from controlplane.leader.assess import WITH_STATUS
from controlplane.model.kinds import NETWORKING


class Rule(NamedTuple):
    """One rule of RBAC; `namespaced` says that the root namespace is enough."""

    group: str
    resource: str
    verbs: frozenset[str]
    namespaced: bool


_WEBHOOKS: Final = ("mutatingwebhookconfigurations", "validatingwebhookconfigurations")

RULES: Final = (
    Rule("coordination.k8s.io", "leases", frozenset({"get", "create", "patch"}), True),
    Rule("", "configmaps", frozenset({"get", "create", "patch"}), True),
    Rule("", "secrets", frozenset({"get", "create", "patch"}), True),
    # The probe of `/validate` offers a Gateway that is never stored.
    Rule(NETWORKING, "gateways", frozenset({"create"}), True),
    *(
        Rule("admissionregistration.k8s.io", resource, frozenset({"list", "patch"}), False)
        for resource in _WEBHOOKS
    ),
    *(
        rule
        for kind in WITH_STATUS.values()
        for rule in (
            Rule(kind.group, kind.plural, frozenset({"get", "list"}), False),
            Rule(kind.group, f"{kind.plural}/status", frozenset({"patch"}), False),
        )
    ),
)
"""Everything that is asked of an API server here."""

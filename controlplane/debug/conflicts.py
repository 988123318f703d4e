"""What istiod counts as conflicts between objects, read from findings and the snapshot.

Owns which finding counts for which gauge. Must not know Prometheus. The rule that is easy to
break: a gauge says how many things lose now, each once, however many proxies see it.

istiod's pilot_duplicate_envoy_clusters has no counterpart: a host belongs to one service here,
so two clusters never want the same name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from controlplane.model.check_virtual_services import CONFLICTING_HOSTS
from controlplane.model.diagnostics import Diagnostic
from controlplane.model.snapshot import Snapshot
from controlplane.translate.clusters import WITHOUT_ENDPOINTS
from controlplane.translate.inbound_listeners import CONFLICTING_PORTS
from controlplane.translate.outbound_plan import TCP_CONFLICT

GAUGES: Final = {
    "pilot_conflict_outbound_listener_tcp_over_current_tcp": (
        "TCP ports that no listener can tell apart from those of an older service.",
        TCP_CONFLICT,
    ),
    "pilot_conflict_inbound_listener": (
        "Service ports whose target port belongs to an older service.",
        CONFLICTING_PORTS,
    ),
    "pilot_dns_cluster_without_endpoints": (
        "DNS clusters that are left out because they have no endpoints.",
        WITHOUT_ENDPOINTS,
    ),
    "pilot_vservice_dup_domain": (
        "Hosts of VirtualServices that belong to an older one.",
        CONFLICTING_HOSTS,
    ),
}
"""Each gauge with its text and the code of the findings that it counts."""

DUPLICATE_SUBSETS: Final = "pilot_destrule_subsets"
DUPLICATE_SUBSETS_TEXT: Final = "Subsets of DestinationRules that an older one already names."


def conflicts(snapshot: Snapshot, findings: Iterable[Diagnostic]) -> dict[str, int]:
    """Return the value of each gauge; `findings` are those of serving."""
    lost: dict[str, set[Diagnostic]] = {code: set() for _, code in GAUGES.values()}
    for group in (snapshot.diagnostics, findings):
        for finding in group:
            if finding.code in lost:
                lost[finding.code].add(finding)
    counts = {name: len(lost[code]) for name, (_, code) in GAUGES.items()}
    counts[DUPLICATE_SUBSETS] = duplicate_subsets(snapshot)
    return counts


def duplicate_subsets(snapshot: Snapshot) -> int:
    """Return how many subsets a merge of DestinationRules dropped."""
    names = {
        rule.ref: {subset.name for subset in rule.spec.subsets}
        for rule in snapshot.destination_rules
    }
    return sum(
        sum(len(names.get(ref, ())) for ref in merged.refs) - len(merged.subsets)
        for merged in snapshot.rules.rules
    )

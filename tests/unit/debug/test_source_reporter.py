"""The Kubernetes source in the metrics, under istiod's names."""

from __future__ import annotations

from controlplane.debug.metrics import Metrics
from controlplane.debug.source_reporter import SourceMetrics
from controlplane.model.kinds import KINDS, NETWORKING


def test_events_are_counted_as_istiod_counts_them() -> None:
    metrics = Metrics(version="1")
    reporter = SourceMetrics(metrics)
    reporter.events(KINDS[NETWORKING, "VirtualService"], {"add": 2, "updatesame": 1})
    reporter.events(KINDS["", "Pod"], {"delete": 3})
    reporter.relisted("Pod")
    reporter.healed("Pod", 2)
    metrics.state_age(lambda: 12.5)
    shown = metrics.render().decode().splitlines()
    for line in (
        'pilot_k8s_cfg_events{event="add",type="VirtualService"} 2.0',
        'pilot_k8s_cfg_events{event="updatesame",type="VirtualService"} 1.0',
        'pilot_k8s_reg_events{event="delete",type="Pod"} 3.0',
        'pylot_k8s_relists{type="Pod"} 1.0',
        'pylot_k8s_healed{type="Pod"} 2.0',
        "pylot_k8s_state_age_seconds 12.5",
    ):
        assert line in shown

"""Metrics under istiod's names."""

from __future__ import annotations

from controlplane.ads import types
from controlplane.ads.status import ServingStatus
from controlplane.ads.types import Send
from controlplane.debug.metrics import Metrics
from controlplane.debug.reporter import MetricsReporter
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.snapshot import Snapshot
from tests.unit.debug.conftest import CDS, RDS, connection, make_snapshot


def lines(metrics: Metrics) -> list[str]:
    """The text format without comments."""
    return [line for line in metrics.render().decode().splitlines() if not line.startswith("#")]


def test_streams_pushes_and_rejections_are_counted(serving: ServingStatus) -> None:
    metrics = Metrics(version="1.2.3")
    metrics.connected()
    metrics.connected()
    metrics.disconnected()
    metrics.responses.written(CDS, 2_000, making=0.002, writing=0.02)
    metrics.rejected(RDS)
    metrics.rejecting(serving)
    metrics.expired_nonce(RDS)
    metrics.responses.acknowledged(0.02)
    metrics.updated("eds")
    metrics.triggered("endpoint")
    shown = lines(metrics)
    for line in (
        'pilot_info{version="1.2.3"} 1.0',
        'pilot_xds{version="1.2.3"} 1.0',
        'pilot_xds_pushes{type="cds"} 1.0',
        'pilot_xds_config_size_bytes_bucket{le="10000.0",type="cds"} 1.0',
        'pilot_xds_push_time_sum{type="cds"} 0.022',
        'pilot_xds_push_time_bucket{le="0.01",type="cds"} 0.0',
        "pilot_xds_send_time_sum 0.02",
        'pilot_xds_send_time_bucket{le="0.05"} 1.0',
        'pilot_total_xds_rejects{type="rds"} 1.0',
        "pilot_xds_rds_reject 1.0",
        "pilot_xds_cds_reject 0.0",
        'pilot_xds_expired_nonce{type="rds"} 1.0',
        "pilot_proxy_convergence_time_count 1.0",
        'pilot_inbound_updates{type="eds"} 1.0',
        'pilot_push_triggers{type="endpoint"} 1.0',
    ):
        assert line in shown


def test_snapshot_sets_the_gauges() -> None:
    metrics = Metrics(version="1")
    broken = Diagnostic(level=Level.ERROR, code="X", message="m", file="a.yaml", line=1)
    metrics.published(make_snapshot(diagnostics=(broken,)))
    shown = lines(metrics)
    assert "pilot_services 1.0" in shown
    assert "pilot_virt_services 0.0" in shown
    assert "pilot_eds_no_instances 1.0" in shown
    assert 'pylot_config_errors{level="Error"} 1.0' in shown


def test_making_a_snapshot_and_waiting_before_are_counted() -> None:
    metrics = Metrics(version="1")
    metrics.made_snapshot(waited=0.3, making=0.004)
    shown = lines(metrics)
    assert "pilot_debounce_time_sum 0.3" in shown
    assert 'pilot_debounce_time_bucket{le="0.5"} 1.0' in shown
    assert 'pilot_debounce_time_bucket{le="0.1"} 0.0' in shown
    assert "pilot_pushcontext_init_seconds_sum 0.004" in shown


def test_endpoints_that_wait_for_their_pods_are_counted() -> None:
    metrics = Metrics(version="1")
    metrics.waiting_for_pods(3, 3)
    metrics.waiting_for_pods(2, 1)
    shown = metrics.render().decode()
    assert "pilot_k8s_endpoints_pending_pod 2.0" in shown
    assert "pilot_k8s_endpoints_with_no_pods 4.0" in shown


def test_uptime_follows_the_clock() -> None:
    now = 100.0
    metrics = Metrics(version="1", clock=lambda: now)
    now = 142.0
    assert "istiod_uptime_seconds 42.0" in lines(metrics)


def test_type_url_of_a_client_never_becomes_a_label() -> None:
    metrics = Metrics(version="1")
    for number in range(3):
        metrics.rejected(f"type.googleapis.com/invented.{number}")
    found = [line for line in lines(metrics) if line.startswith("pilot_total_xds_rejects")]
    assert found == ['pilot_total_xds_rejects{type="other"} 3.0']


def test_two_instances_share_nothing() -> None:
    first, second = Metrics(version="1"), Metrics(version="1")
    first.connected()
    assert 'pilot_xds{version="1"} 0.0' in lines(second)


def test_process_and_garbage_collector_are_shown() -> None:
    text = Metrics(version="1").render().decode()
    assert "process_resident_memory_bytes" in text
    assert "python_gc_collections_total" in text


def test_engine_is_counted_through_its_reporter(snapshot: Snapshot) -> None:
    metrics = Metrics(version="1")
    reporter = MetricsReporter(metrics)
    proxy = connection("a.default", "10.0.0.1", snapshot).proxy
    reporter.connected("a.default-1", proxy, delta=False)
    send = Send(types.CDS.url, "CDS", types.Nonce("n"), types.Version("v"), b"x" * 20_000, ("c",))
    reporter.written(send, making=0.001, writing=0.002)
    reporter.acknowledged("a.default-1", types.CDS, version="v", seconds=0.03, push=1)
    reporter.rejected("a.default-1", types.RDS, message="no", suspects=(), culprits=(), push=1)
    reporter.stale("a.default-1", types.RDS)
    reporter.failed("a.default-1", ZeroDivisionError("a mistake"))
    reporter.published(push=1, classes=1, streams=1, reason="config")
    reporter.published(push=2, classes=1, streams=1, reason="whatever a caller says")
    shown = lines(metrics)
    for line in (
        'pilot_xds{version="1"} 1.0',
        'pilot_xds_pushes{type="cds"} 1.0',
        'pilot_xds_config_size_bytes_sum{type="cds"} 20000.0',
        'pilot_proxy_convergence_time_bucket{le="0.05"} 1.0',
        'pilot_total_xds_rejects{type="rds"} 1.0',
        'pilot_xds_expired_nonce{type="rds"} 1.0',
        "pilot_total_xds_internal_errors 1.0",
        'pilot_push_triggers{type="config"} 1.0',
        'pilot_push_triggers{type="other"} 1.0',
    ):
        assert line in shown
    reporter.disconnected("a.default-1", reason="closed")
    assert 'pilot_xds{version="1"} 0.0' in lines(metrics)

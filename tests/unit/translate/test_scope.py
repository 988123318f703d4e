"""Who may have another class after a change, known without a look at any proxy."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest

from controlplane.ads.pusher import Pusher
from controlplane.model.assemble import make_snapshot
from controlplane.model.diff import diff
from controlplane.model.proxy import Proxy, make_proxy
from controlplane.model.snapshot import Snapshot
from controlplane.translate.build import Generator
from tests.golden.support import make_object


def item(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name, "namespace": "one"}, "spec": spec}


def service(name: str, **spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80}]
    return item("Service", name, **{"clusterIP": "10.96.0.1", "ports": ports, **spec})


def route(host: str, **match: Any) -> dict[str, Any]:
    entry = {"match": [match], "route": [{"destination": {"host": host}}]}
    return item("VirtualService", "route", hosts=["a"], http=[entry])


def proxy(number: int, **labels: str) -> Proxy:
    return make_proxy(
        f"sidecar~10.0.0.{number}~a-{number}.one~one.svc.cluster.local",
        {"NAMESPACE": "one", "LABELS": labels},
    )


PROXIES = (proxy(1), proxy(2, app="a"), proxy(3, app="a", version="v1"), proxy(4, version="v2"))
BASE = (service("a", selector={"app": "a", "version": "v1"}), service("b", selector={"app": "a"}))
KEPT = (
    route("b"),
    route("b", sourceNamespace="two"),
    item("DestinationRule", "b", host="b", trafficPolicy={"loadBalancer": {"simple": "RANDOM"}}),
    item("Gateway", "gate", servers=[]),
)
MOVED = (
    route("b", sourceLabels={"version": "v1"}),
    item("DestinationRule", "b", host="b", workloadSelector={"matchLabels": {"version": "v2"}}),
    item("DestinationRule", "b", host="b", trafficPolicy={"outlierDetection": {}}),
    item("Gateway", "gate", selector={"app": "a"}, servers=[]),
    service("c", selector={"version": "v2"}),
)


@pytest.mark.parametrize("change", KEPT, ids=lambda change: change["kind"])
def test_a_change_that_reads_nothing_of_proxies_leaves_them_alone(change: dict[str, Any]) -> None:
    before = make_snapshot(map(make_object, BASE))
    after = make_snapshot(map(make_object, (*BASE, change)), previous=before)
    generator, classify = Generator(), mock.Mock()
    was = [generator.classify(one, before) for one in PROXIES]
    assert generator.keeps_classes(before, after)
    assert was == [Generator().classify(one, after) for one in PROXIES]
    classify.side_effect = generator.classify
    pusher = Pusher(
        generator, classify, clock=lambda: 0.0, epoch=lambda: 0.0,
        snapshot=before, keeps_classes=generator.keeps_classes,
    )  # fmt: skip
    for one in PROXIES:
        pusher.connect(one, delta=True, wake=lambda: None)
    classify.reset_mock()
    pusher.publish(before, after, diff(before, after))
    classify.assert_not_called()


@pytest.mark.parametrize("change", MOVED, ids=lambda change: change["kind"])
def test_a_change_that_reads_something_new_of_proxies_moves_them(change: dict[str, Any]) -> None:
    before = make_snapshot(map(make_object, BASE))
    after = make_snapshot(map(make_object, (*BASE, change)), previous=before)
    generator = Generator()
    was = [generator.classify(one, before) for one in PROXIES]
    assert not generator.keeps_classes(before, after)
    assert [generator.classify(one, after) for one in PROXIES] == [
        Generator().classify(one, after) for one in PROXIES
    ]
    if "outlierDetection" not in str(change):  # these have no locality
        assert was != [generator.classify(one, after) for one in PROXIES]


def test_services_of_a_proxy_come_by_age_whatever_label_finds_them() -> None:
    young, old = service("young", selector={"app": "a"}), service("old", selector={"version": "v1"})
    young["metadata"]["creationTimestamp"] = "2025-01-01T00:00:00Z"
    old["metadata"]["creationTimestamp"] = "2024-01-01T00:00:00Z"
    snapshot = make_snapshot(map(make_object, (young, old)))
    targets = Generator().service_targets(PROXIES[2], snapshot)
    assert [target.host.partition(".")[0] for target in targets] == ["old", "young"]
    assert Generator().service_targets(PROXIES[0], snapshot) == ()


def test_labels_of_one_value_find_a_service_once() -> None:
    snapshot = make_snapshot([make_object(service("same", selector={"app": "a"}))])
    (target,) = Generator().service_targets(proxy(9, app="a", version="a"), snapshot)
    assert target.host.partition(".")[0] == "same"
    assert Generator().service_targets(proxy(9, version="a"), snapshot) == ()


def test_what_moved_is_not_looked_at_before_anybody_is_known() -> None:
    generator, first = Generator(), make_snapshot(map(make_object, BASE))
    with mock.patch("controlplane.translate.scope.moved_between", return_value=()) as moved:
        generator.keeps_classes(Snapshot(), first)
        assert not moved.called
        generator.classify(PROXIES[0], first)
        generator.keeps_classes(first, make_snapshot(map(make_object, BASE[:1])))
        assert moved.called

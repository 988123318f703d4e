"""What a cluster input holds: enough, and no more."""

from __future__ import annotations

from typing import Any

from controlplane.model.assemble import make_snapshot
from controlplane.model.meta import ObjectRef
from controlplane.model.proxy import make_proxy
from controlplane.model.snapshot import Snapshot
from controlplane.translate.clusters import ClusterInput, build_cluster, outbound_cluster_inputs
from controlplane.translate.resources import Origin
from controlplane.translate.scope import Classifier
from tests.golden.support import make_object

NODE = "sidecar~10.0.0.1~client.default~default.svc.cluster.local"
SERVICE: dict[str, Any] = {
    "kind": "Service",
    "metadata": {"name": "reviews"},
    "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 9080}]},
}
RULE: dict[str, Any] = {
    "kind": "DestinationRule",
    "metadata": {"name": "reviews"},
    "spec": {
        "host": "reviews",
        "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}},
        "subsets": [{"name": "v1", "labels": {"version": "v1"}}],
    },
}
UNRELATED: dict[str, Any] = {
    "kind": "DestinationRule",
    "metadata": {"name": "details"},
    "spec": {"host": "details", "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}},
}


def slice_of(*addresses: str) -> dict[str, Any]:
    return {
        "kind": "EndpointSlice",
        "metadata": {"name": "reviews-1", "labels": {"kubernetes.io/service-name": "reviews"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 9080}],
        "endpoints": [{"addresses": [address]} for address in addresses],
    }


def world(*objects: dict[str, Any]) -> Snapshot:
    return make_snapshot([make_object(item) for item in objects])


def inputs(snapshot: Snapshot, *, agent: bool = False) -> tuple[ClusterInput, ...]:
    metadata = {"ISTIO_VERSION": "1.32.0"} if agent else None
    cls = Classifier(snapshot).classify(make_proxy(NODE, metadata)).outbound
    return outbound_cluster_inputs(snapshot, cls)


def test_endpoints_and_unrelated_rules_leave_the_inputs_equal() -> None:
    before = inputs(world(SERVICE, RULE, slice_of("10.1.0.1")))
    after = inputs(world(SERVICE, RULE, UNRELATED, slice_of("10.1.0.1", "10.1.0.2")))
    assert before == after
    assert [hash(value) for value in before] == [hash(value) for value in after]


def test_a_changed_policy_changes_the_inputs() -> None:
    assert inputs(world(SERVICE, RULE))[0] != inputs(world(SERVICE))[0]


def test_endpoints_count_where_mutual_tls_checks_their_identity() -> None:
    pod = {
        "kind": "Pod",
        "metadata": {"name": "reviews-1", "labels": {"app": "reviews"}},
        "spec": {"serviceAccountName": "reviews"},
        "status": {"phase": "Running", "podIP": "10.1.0.1"},
    }
    selecting = {**SERVICE, "spec": {**SERVICE["spec"], "selector": {"app": "reviews"}}}
    assert inputs(world(SERVICE), agent=True)[0] != inputs(world(selecting, pod), agent=True)[0]


def test_a_cluster_knows_the_objects_that_made_it() -> None:
    made = [build_cluster(value).resource for value in inputs(world(SERVICE, RULE))]
    service = Origin("", ObjectRef("Service", "default", "reviews"))
    reference = ObjectRef("DestinationRule", "default", "reviews")
    base, subset = made[0], made[1]
    assert base is not None
    assert subset is not None
    assert base.origins == (service, Origin("", reference, "spec.trafficPolicy"))
    assert subset.origins == (*base.origins, Origin("", reference, "spec.subsets[0]"))
    assert subset.eds_name == "outbound|9080|v1|reviews.default.svc.cluster.local"

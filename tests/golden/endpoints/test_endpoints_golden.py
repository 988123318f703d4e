"""Load assignments, feature by feature: each golden pair and what it has to prove."""

from __future__ import annotations

from typing import Any

from controlplane.translate.clusters import build_cluster, outbound_cluster_inputs
from controlplane.translate.endpoints import build_load_assignment, load_assignment_input
from controlplane.translate.resources import Resource
from tests.golden.support import check_golden, load_case

REVIEWS = "reviews.default.svc.cluster.local"


def resources(feature: str) -> list[Resource]:
    """The load assignments of every EDS cluster of the case's proxy."""
    case = load_case(feature)
    snapshot, outbound = case.snapshot, case.cls.outbound
    made: list[Resource] = []
    for value in outbound_cluster_inputs(snapshot, outbound):
        cluster = build_cluster(value).resource
        if cluster is None or not cluster.eds_name:
            continue
        assignment = build_load_assignment(
            load_assignment_input(snapshot, outbound, cluster.eds_name)
        ).resource
        assert assignment is not None
        made.append(assignment)
    return made


def checked(feature: str) -> dict[str, dict[str, Any]]:
    return check_golden(load_case(feature), resources(feature))


def addresses(assignment: dict[str, Any]) -> list[list[str]]:
    return [
        [
            endpoint["endpoint"]["address"]["socket_address"]["address"]
            for endpoint in group.get("lb_endpoints", ())
        ]
        for group in assignment.get("endpoints", ())
    ]


def places(assignment: dict[str, Any]) -> list[str]:
    return ["/".join(group["locality"].values()) for group in assignment["endpoints"]]


def test_endpoints_are_grouped_by_locality_in_order_of_its_label() -> None:
    (found,) = checked("endpoints/localities").values()
    assert found["cluster_name"] == f"outbound|9080||{REVIEWS}"
    assert places(found) == ["asia/d", "eu/a", "eu/b", "us/c"]
    assert addresses(found) == [["10.1.0.5"], ["10.1.0.1", "10.1.0.2"], ["10.1.0.3"], ["10.1.0.4"]]
    assert [group["load_balancing_weight"] for group in found["endpoints"]] == [1, 2, 1, 1]
    assert not any("priority" in group for group in found["endpoints"])
    first = found["endpoints"][1]["lb_endpoints"][0]
    assert first["health_status"] == "HEALTHY"
    assert first["load_balancing_weight"] == 1
    assert first["endpoint"]["address"]["socket_address"]["port_value"] == 9080


def _priorities(found: dict[str, Any]) -> dict[str, int]:
    groups = found["endpoints"]
    return dict(zip(places(found), (group.get("priority", 0) for group in groups), strict=True))


def test_with_outlier_detection_nearer_localities_come_first() -> None:
    (found,) = checked("endpoints/locality_failover_default").values()
    assert _priorities(found) == {"eu/a": 0, "eu/b": 1, "us/c": 2, "asia/d": 2}


def test_a_failover_rule_prefers_one_other_region() -> None:
    (found,) = checked("endpoints/locality_failover_regions").values()
    assert _priorities(found) == {"eu/a": 0, "eu/b": 1, "asia/d": 2, "us/c": 3}


def test_distribution_shares_weights_and_empties_the_rest() -> None:
    (found,) = checked("endpoints/locality_distribute").values()
    weights = [group["load_balancing_weight"] for group in found["endpoints"]]
    # 80 for two localities with two and one endpoints: 53.3 and 26.7, rounded up.
    assert dict(zip(places(found), weights, strict=True))["eu/a"] == 54
    assert dict(zip(places(found), weights, strict=True))["eu/b"] == 27
    assert dict(zip(places(found), weights, strict=True))["us/c"] == 20
    assert addresses(found)[places(found).index("asia/d")] == []
    assert not any("priority" in group for group in found["endpoints"])


def test_endpoints_that_are_not_ready_are_sent_as_unhealthy() -> None:
    found = checked("endpoints/not_ready")
    (group,) = found[f"outbound|9080||{REVIEWS}"]["endpoints"]
    assert [endpoint["health_status"] for endpoint in group["lb_endpoints"]] == [
        "HEALTHY",
        "UNHEALTHY",
    ]
    assert group["load_balancing_weight"] == 2
    # With a minimum of healthy endpoints Envoy's panic would use them, so they are left out.
    assert addresses(found[f"outbound|9080|ready|{REVIEWS}"]) == [["10.1.0.1"]]


def test_subsets_have_the_endpoints_with_their_labels() -> None:
    found = checked("endpoints/subsets")
    assert addresses(found[f"outbound|9080||{REVIEWS}"]) == [["10.1.0.1", "10.1.0.2"]]
    assert addresses(found[f"outbound|9080|v1|{REVIEWS}"]) == [["10.1.0.1"]]
    assert addresses(found[f"outbound|9080|v2|{REVIEWS}"]) == [["10.1.0.2"]]
    assert found[f"outbound|9080|v3|{REVIEWS}"] == {"cluster_name": f"outbound|9080|v3|{REVIEWS}"}
    workloads = [
        endpoint["metadata"]["filter_metadata"]["istio"]["workload"]
        for endpoint in found[f"outbound|9080||{REVIEWS}"]["endpoints"][0]["lb_endpoints"]
    ]
    assert workloads[0].split(";")[:4] == ["reviews-v1", "default", "reviews", "v1"]
    assert workloads[1].split(";")[2:4] == ["ratings", ""]


def test_a_node_local_service_has_only_endpoints_of_the_node() -> None:
    (found,) = checked("endpoints/node_local").values()
    assert addresses(found) == [["10.1.0.2"]]


def test_endpoints_offer_mutual_tls_unless_the_rule_says_otherwise() -> None:
    found = checked("endpoints/mutual_tls")
    offered = {
        name.split("|")[2]: assignment["endpoints"][0]["lb_endpoints"][0]["metadata"][
            "filter_metadata"
        ].get("envoy.transport_socket_match")
        for name, assignment in found.items()
    }
    mutual = {"tlsMode": "istio"}
    assert offered == {"": mutual, "same": mutual, "mutual": mutual, "plain": None, "simple": None}


def test_a_gateway_gets_the_endpoints_of_headless_services() -> None:
    (found,) = checked("endpoints/headless_gateway").values()
    (group,) = found["endpoints"]
    assert group["lb_endpoints"][0]["endpoint"]["address"]["socket_address"] == {
        "address": "10.1.0.1",
        "port_value": 15432,
    }


def test_service_entry_endpoints_keep_weight_port_and_socket() -> None:
    found = checked("endpoints/service_entry")
    groups = found["outbound|80||machines.example.com"]["endpoints"]
    assert [group["load_balancing_weight"] for group in groups] == [8, 1]
    ports = {
        endpoint["endpoint"]["address"]["socket_address"]["address"]: (
            endpoint["endpoint"]["address"]["socket_address"]["port_value"],
            endpoint["load_balancing_weight"],
        )
        for endpoint in groups[0]["lb_endpoints"]
    }
    assert ports == {"192.0.2.1": (7070, 3), "2001:db8::1": (8080, 5)}
    (socket,) = groups[1]["lb_endpoints"]
    assert socket["endpoint"]["address"] == {"pipe": {"path": "/var/run/app.sock"}}

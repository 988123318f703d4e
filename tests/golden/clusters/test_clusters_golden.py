"""Clusters, feature by feature: each golden pair and what it has to prove."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.translate.clusters import build_cluster, outbound_cluster_inputs
from controlplane.translate.inbound_clusters import build_inbound_cluster, inbound_cluster_inputs
from controlplane.translate.resources import Resource, Translated
from tests.golden.support import Case, check_golden, load_case

UNLIMITED = 4294967295
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
REVIEWS = "reviews.default.svc.cluster.local"
AGENT_SECRETS = "sds-grpc"


def translate(case: Case) -> list[Translated]:
    cls = case.cls
    made = [build_cluster(value) for value in outbound_cluster_inputs(case.snapshot, cls.outbound)]
    if cls.inbound is not None:
        made += [
            build_inbound_cluster(value)
            for value in inbound_cluster_inputs(case.snapshot, cls.inbound)
        ]
    return made


def resources(case: Case) -> list[Resource]:
    return [made.resource for made in translate(case) if made.resource is not None]


def checked(feature: str) -> dict[str, dict[str, Any]]:
    case = load_case(feature)
    return check_golden(case, resources(case))


def options(cluster: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = cluster["typed_extension_protocol_options"][HTTP_OPTIONS]
    return found


def limits(cluster: dict[str, Any]) -> dict[str, Any]:
    (found,) = cluster["circuit_breakers"]["thresholds"]
    thresholds: dict[str, Any] = found
    return thresholds


def tls_of(cluster: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = cluster["transport_socket"]["typed_config"]
    return found


def test_a_service_port_is_an_eds_cluster_with_istio_defaults() -> None:
    found = checked("clusters/defaults")
    assert list(found) == [
        f"outbound|9080||{REVIEWS}",
        "BlackHoleCluster",
        "PassthroughCluster",
        "InboundPassthroughCluster",
    ]
    cluster = found[f"outbound|9080||{REVIEWS}"]
    assert cluster["type"] == "EDS"
    assert cluster["alt_stat_name"] == f"outbound|9080||{REVIEWS};"
    assert cluster["connect_timeout"] == "10s"
    assert cluster["lb_policy"] == "LEAST_REQUEST"
    assert cluster["common_lb_config"] == {"healthy_panic_threshold": {}}
    assert cluster["eds_cluster_config"] == {
        "eds_config": {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"},
        "service_name": f"outbound|9080||{REVIEWS}",
    }
    assert limits(cluster) == {
        "max_connections": UNLIMITED,
        "max_pending_requests": UNLIMITED,
        "max_requests": UNLIMITED,
        "max_retries": UNLIMITED,
    }
    assert cluster["metadata"]["filter_metadata"]["istio"] == {
        "services": [{"host": REVIEWS, "name": "reviews", "namespace": "default"}]
    }
    assert "typed_extension_protocol_options" not in cluster
    assert "transport_socket_matches" not in cluster
    black_hole = found["BlackHoleCluster"]
    assert black_hole["type"] == "STATIC"
    assert "load_assignment" not in black_hole
    passthrough = found["PassthroughCluster"]
    assert passthrough["type"] == "ORIGINAL_DST"
    assert passthrough["lb_policy"] == "CLUSTER_PROVIDED"
    assert options(passthrough)["common_http_protocol_options"] == {"idle_timeout": "300s"}
    inbound = found["InboundPassthroughCluster"]
    assert inbound["alt_stat_name"] == "PassthroughCluster;"
    assert inbound["upstream_bind_config"]["source_address"]["address"] == "127.0.0.6"


def test_subsets_follow_their_port_and_override_field_by_field() -> None:
    found = checked("clusters/subsets")
    names = [f"outbound|9080|{subset}|{REVIEWS}" for subset in ("", "v1", "v2")]
    assert list(found)[:3] == names
    base, first, second = (found[name] for name in names)
    assert [cluster["lb_policy"] for cluster in (base, first)] == ["RANDOM", "RANDOM"]
    assert second.get("lb_policy", "ROUND_ROBIN") == "ROUND_ROBIN"
    assert limits(second)["max_connections"] == 100
    metadata = second["metadata"]["filter_metadata"]["istio"]
    assert metadata["subset"] == "v2"
    path = "/apis/networking.istio.io/v1/namespaces/default/destination-rule/reviews"
    assert metadata["config"] == path
    assert base["metadata"]["filter_metadata"]["istio"]["config"] == path
    assert "subset" not in base["metadata"]["filter_metadata"]["istio"]


def test_a_port_level_policy_replaces_and_does_not_inherit() -> None:
    found = checked("clusters/port_level_policy")
    admin = found[f"outbound|9090||{REVIEWS}"]
    assert admin["lb_policy"] == "LEAST_REQUEST"
    assert limits(admin)["max_connections"] == UNLIMITED
    assert limits(admin)["max_pending_requests"] == 7
    assert limits(found[f"outbound|9080||{REVIEWS}"])["max_connections"] == 100
    subset = found[f"outbound|9090|v1|{REVIEWS}"]
    assert limits(subset)["max_pending_requests"] == 7
    assert subset["outlier_detection"]["consecutive_5xx"] == 3


def test_connection_pool_becomes_limits_timeouts_and_http_options() -> None:
    found = checked("clusters/connection_pool")
    http, grpc = found[f"outbound|9080||{REVIEWS}"], found[f"outbound|9081||{REVIEWS}"]
    assert http["connect_timeout"] == "0.030s"
    assert limits(http) == {
        "max_connections": 100,
        "max_pending_requests": 10,
        "max_requests": 1000,
        "max_retries": 3,
        "retry_budget": {"budget_percent": {"value": 25.0}, "min_retry_concurrency": 4},
    }
    assert http["upstream_connection_options"]["tcp_keepalive"] == {
        "keepalive_probes": 9,
        "keepalive_time": 7200,
        "keepalive_interval": 75,
    }
    common = {
        "idle_timeout": "60s",  # that of HTTP wins over that of TCP
        "max_requests_per_connection": 5,
        "max_connection_duration": "3600s",
    }
    assert options(http)["common_http_protocol_options"] == common
    assert options(http)["explicit_http_config"] == {"http_protocol_options": {}}
    assert options(grpc)["explicit_http_config"]["http2_protocol_options"] == {
        "max_concurrent_streams": 50,
        "connection_keepalive": {"interval": "30s", "timeout": "5s"},
    }


def test_outlier_detection_enforces_only_what_is_asked() -> None:
    found = checked("clusters/outlier_detection")
    cluster = found[f"outbound|9080||{REVIEWS}"]
    assert cluster["outlier_detection"] == {
        "consecutive_5xx": 7,
        "enforcing_consecutive_5xx": 100,
        "consecutive_gateway_failure": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "interval": "300s",
        "base_ejection_time": "900s",
        "max_ejection_percent": 60,
        "enforcing_success_rate": 0,
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 4,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_local_origin_success_rate": 0,
    }
    assert cluster["common_lb_config"]["healthy_panic_threshold"] == {"value": 30.0}
    empty = found[f"outbound|9081||{REVIEWS}"]
    assert empty["outlier_detection"] == {"enforcing_success_rate": 0}
    assert empty["common_lb_config"]["healthy_panic_threshold"] == {}


def test_load_balancers_have_envoys_policies() -> None:
    found = checked("clusters/load_balancers")
    by_port = {port: found[f"outbound|{port}||{REVIEWS}"] for port in range(9080, 9088)}
    policies = {port: cluster.get("lb_policy", "ROUND_ROBIN") for port, cluster in by_port.items()}
    assert policies == {
        9080: "LEAST_REQUEST",
        9081: "ROUND_ROBIN",
        9082: "RANDOM",
        9083: "RING_HASH",
        9084: "MAGLEV",
        9085: "CLUSTER_PROVIDED",
        9086: "LEAST_REQUEST",
        9087: "RING_HASH",
    }
    assert by_port[9083]["ring_hash_lb_config"] == {"minimum_ring_size": "2048"}
    assert by_port[9084]["maglev_lb_config"] == {"table_size": "251"}
    assert by_port[9087]["ring_hash_lb_config"] == {"minimum_ring_size": "1024"}
    assert by_port[9085]["type"] == "ORIGINAL_DST"
    assert "eds_cluster_config" not in by_port[9085]
    legacy = by_port[9081]["round_robin_lb_config"]["slow_start_config"]
    assert legacy == {"slow_start_window": "60s"}
    warm = by_port[9086]["least_request_lb_config"]["slow_start_config"]
    assert warm["slow_start_window"] == "30s"
    assert warm["aggression"]["default_value"] == 2.0
    assert warm["min_weight_percent"] == {"value": 20.0}


HTTP2: dict[str, Any] = {"explicit_http_config": {"http2_protocol_options": {}}}
AS_CLIENT: dict[str, Any] = {
    "use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}}
}


def _protocol(cluster: dict[str, Any]) -> dict[str, Any]:
    found = cluster.get("typed_extension_protocol_options", {}).get(HTTP_OPTIONS, {})
    return {key: value for key, value in found.items() if key != "@type"}


def test_a_sidecar_follows_the_client_on_ports_without_protocol() -> None:
    found = checked("clusters/protocols_sidecar")
    host = "mixed.default.svc.cluster.local"
    assert {port: _protocol(found[f"outbound|{port}||{host}"]) for port in range(80, 86)} == {
        80: {},
        81: HTTP2,
        82: HTTP2,
        83: {},
        84: {},
        85: AS_CLIENT,
    }
    assert f"outbound|53||{host}" not in found


def test_a_gateway_detects_nothing_and_has_no_passthrough() -> None:
    found = checked("clusters/protocols_gateway")
    host = "mixed.default.svc.cluster.local"
    assert _protocol(found[f"outbound|85||{host}"]) == {}
    assert _protocol(found[f"outbound|81||{host}"]) == HTTP2
    assert list(found)[-1] == "BlackHoleCluster"
    assert "PassthroughCluster" not in found


def test_the_mesh_upgrades_http_ports_unless_a_rule_objects() -> None:
    found = checked("clusters/http2_upgrade")
    host = "mixed.default.svc.cluster.local"
    assert {port: _protocol(found[f"outbound|{port}||{host}"]) for port in (80, 83, 86, 87)} == {
        80: HTTP2,
        83: {},
        86: {},
        87: AS_CLIENT,
    }


def test_dns_clusters_hold_their_endpoints() -> None:
    case = load_case("clusters/dns")
    made = translate(case)
    found = check_golden(case, [item.resource for item in made if item.resource is not None])
    single = found["outbound|80||api.example.com"]
    assert single["type"] == "STRICT_DNS"
    assert single["dns_lookup_family"] == "V4_ONLY"
    assert single["dns_refresh_rate"] == "60s"
    assert single["dns_jitter"] == "0.100s"
    assert single["respect_dns_ttl"] is True
    resolver = single["typed_dns_resolver_config"]
    assert resolver["name"] == "envoy.network.dns_resolver.cares"
    assert resolver["typed_config"]["udp_max_queries"] == 100
    (group,) = single["load_assignment"]["endpoints"]
    address = group["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    assert address == {"address": "api.example.com", "port_value": 80}
    assert single["metadata"]["filter_metadata"]["istio"]["external"] is True
    assert found["outbound|443||cdn.example.com"]["type"] == "LOGICAL_DNS"
    replicated = found["outbound|5432||db.example.com"]["load_assignment"]["endpoints"]
    assert [group["locality"] for group in replicated] == [
        {"region": "eu", "zone": "a"},
        {"region": "eu", "zone": "b"},
    ]
    assert [group["load_balancing_weight"] for group in replicated] == [1, 3]
    subset = found["outbound|5432|v2|db.example.com"]["load_assignment"]["endpoints"]
    assert len(subset) == 1
    assert subset[0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"] == {
        "address": "two.example.com",
        "port_value": 15432,
    }
    assert "external" not in found["outbound|5432||db.example.com"]["metadata"][
        "filter_metadata"]["istio"]  # fmt: skip
    assert "outbound|5432|v3|db.example.com" not in found
    (left_out,) = (note for item in made for note in item.diagnostics)
    assert left_out.code == "ClusterWithoutEndpoints"
    assert str(left_out.ref) == "DestinationRule default/replicated"
    assert left_out.field == "spec.subsets[1]"


def test_a_sidecar_lets_headless_services_keep_the_clients_address() -> None:
    found = checked("clusters/original_destination_sidecar")
    headless = found["outbound|5432||db.default.svc.cluster.local"]
    assert (headless["type"], headless["lb_policy"]) == ("ORIGINAL_DST", "CLUSTER_PROVIDED")
    assert "original_dst_lb_config" not in headless
    wild = found["outbound|80||*.example.com"]
    assert wild["type"] == "ORIGINAL_DST"
    assert wild["original_dst_lb_config"] == {"upstream_port_override": 8080}


def test_a_gateway_asks_for_the_endpoints_of_headless_services() -> None:
    found = checked("clusters/original_destination_gateway")
    headless = found["outbound|5432||db.default.svc.cluster.local"]
    assert (headless["type"], headless["lb_policy"]) == ("EDS", "LEAST_REQUEST")


def test_a_bare_envoy_reads_certificate_files_itself() -> None:
    found = checked("clusters/tls_origination_files")
    host = "api.example.com"
    simple = found[f"outbound|80||{host}"]
    common = tls_of(simple)["common_tls_context"]
    assert common["validation_context"]["trusted_ca"] == {
        "filename": "/etc/ssl/certs/ca-certificates.crt"
    }
    # The names of the ServiceEntry hold when the rule has none.
    assert common["validation_context"]["match_subject_alt_names"] == [
        {"exact": "spiffe://other/api"}
    ]
    assert options(simple)["upstream_http_protocol_options"] == {
        "auto_sni": True,
        "auto_san_validation": True,
    }
    assert simple["metadata"]["filter_metadata"]["istio"]["alpn_override"] == "false"
    named = found[f"outbound|81||{host}"]
    assert tls_of(named)["sni"] == "api.internal"
    assert tls_of(named)["common_tls_context"]["alpn_protocols"] == ["h2"]
    assert "upstream_http_protocol_options" not in options(named)
    mutual = tls_of(found[f"outbound|82||{host}"])["common_tls_context"]
    assert mutual["tls_certificates"] == [
        {
            "certificate_chain": {"filename": "/etc/certs/client.pem"},
            "private_key": {"filename": "/etc/certs/client.key"},
        }
    ]
    assert mutual["validation_context"]["trusted_ca"] == {"filename": "/etc/certs/ca.pem"}
    unverified = found[f"outbound|83||{host}"]
    assert tls_of(unverified)["common_tls_context"]["validation_context"] == {
        "trust_chain_verification": "ACCEPT_UNTRUSTED"
    }
    assert options(unverified)["upstream_http_protocol_options"] == {"auto_sni": True}
    assert AGENT_SECRETS not in str(found)


def test_an_agent_serves_certificate_files_as_secrets() -> None:
    found = checked("clusters/tls_origination_secrets")
    host = "api.example.com"
    simple = tls_of(found[f"outbound|80||{host}"])["common_tls_context"]
    combined = simple["combined_validation_context"]
    secret = combined["validation_context_sds_secret_config"]
    assert secret["name"] == "file-root:system"
    assert AGENT_SECRETS in str(secret["sds_config"])
    mutual = tls_of(found[f"outbound|82||{host}"])["common_tls_context"]
    (certificate,) = mutual["tls_certificate_sds_secret_configs"]
    assert certificate["name"] == "file-cert:/etc/certs/client.pem~/etc/certs/client.key"
    roots = mutual["combined_validation_context"]["validation_context_sds_secret_config"]
    assert roots["name"] == "file-root:/etc/certs/ca.pem"


def test_istio_mutual_tls_is_offered_by_endpoint_and_forced_by_rule() -> None:
    found = checked("clusters/istio_mutual")
    base = found[f"outbound|9080||{REVIEWS}"]
    istio, plain = base["transport_socket_matches"]
    assert (istio["name"], istio["match"]) == ("tlsMode-istio", {"tlsMode": "istio"})
    assert (plain["name"], plain["match"]) == ("tlsMode-disabled", {})
    assert plain["transport_socket"]["name"] == "envoy.transport_sockets.raw_buffer"
    context = istio["transport_socket"]["typed_config"]
    assert context["sni"] == f"outbound_.9080_._.{REVIEWS}"
    common = context["common_tls_context"]
    assert common["alpn_protocols"] == ["istio-peer-exchange", "istio"]
    assert common["tls_params"] == {
        "tls_minimum_protocol_version": "TLSv1_2",
        "tls_maximum_protocol_version": "TLSv1_3",
    }
    assert [secret["name"] for secret in common["tls_certificate_sds_secret_configs"]] == [
        "default"
    ]
    validation = common["combined_validation_context"]
    assert validation["validation_context_sds_secret_config"]["name"] == "ROOTCA"
    assert validation["default_validation_context"]["match_subject_alt_names"] == [
        {"exact": "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"}
    ]
    grpc = found[f"outbound|9081||{REVIEWS}"]["transport_socket_matches"][0]
    grpc_context = grpc["transport_socket"]["typed_config"]["common_tls_context"]
    assert grpc_context["alpn_protocols"] == ["istio-peer-exchange", "istio", "h2"]
    strict = found[f"outbound|9080|strict|{REVIEWS}"]
    assert "transport_socket_matches" not in strict
    assert tls_of(strict)["sni"] == f"outbound_.9080_.strict_.{REVIEWS}"
    disabled = found[f"outbound|9080|plain|{REVIEWS}"]
    assert "transport_socket" not in disabled
    assert "transport_socket_matches" not in disabled


def test_without_an_agent_no_cluster_waits_for_a_secret() -> None:
    found = checked("clusters/istio_mutual_without_agent")
    assert len(found) == 9
    for cluster in found.values():
        assert "transport_socket" not in cluster
        assert "transport_socket_matches" not in cluster


def test_the_proxy_protocol_wraps_the_socket() -> None:
    found = checked("clusters/proxy_protocol")
    socket = found[f"outbound|9080||{REVIEWS}"]["transport_socket"]
    assert socket["name"] == "envoy.transport_sockets.upstream_proxy_protocol"
    assert socket["typed_config"]["config"] == {"version": "V2"}
    inner = socket["typed_config"]["transport_socket"]
    assert inner["name"] == "envoy.transport_sockets.raw_buffer"


def test_inbound_clusters_take_only_the_connection_pool() -> None:
    found = checked("clusters/inbound")
    inbound = [name for name in found if name.startswith("inbound|")]
    assert inbound == ["inbound|9080||", "inbound|9081||", "inbound|9082||"]
    cluster = found["inbound|9080||"]
    assert (cluster["type"], cluster["lb_policy"]) == ("ORIGINAL_DST", "CLUSTER_PROVIDED")
    assert cluster["cleanup_interval"] == "9223372035s"
    assert cluster["common_lb_config"] == {}
    assert cluster["connect_timeout"] == "2s"
    assert limits(cluster)["max_connections"] == 20
    assert "outlier_detection" not in cluster
    assert cluster["upstream_bind_config"]["source_address"]["address"] == "127.0.0.6"
    assert cluster["metadata"]["filter_metadata"]["istio"]["services"] == [
        {"host": REVIEWS, "name": "reviews", "namespace": "default"}
    ]
    assert _protocol(cluster) == {}
    assert _protocol(found["inbound|9081||"]) == HTTP2
    assert _protocol(found["inbound|9082||"]) == AS_CLIENT
    assert list(found)[-1] == "InboundPassthroughCluster"


def test_localhost_mode_reaches_the_application_on_the_loopback_address() -> None:
    found = checked("clusters/inbound_localhost")
    cluster = found["inbound|9080||"]
    assert cluster.get("type", "STATIC") == "STATIC"
    (group,) = cluster["load_assignment"]["endpoints"]
    assert group["lb_endpoints"][0]["endpoint"]["address"]["socket_address"] == {
        "address": "127.0.0.1",
        "port_value": 9080,
    }
    assert "upstream_bind_config" not in cluster
    assert "cleanup_interval" not in cluster
    assert cluster["alt_stat_name"] == "reviews.default_http_9080;"


def test_a_dual_stack_sidecar_binds_in_both_families() -> None:
    found = checked("clusters/inbound_dual_stack")
    for name in ("inbound|9080||", "InboundPassthroughCluster"):
        bind = found[name]["upstream_bind_config"]
        assert bind["source_address"]["address"] == "127.0.0.6"
        (extra,) = bind["extra_source_addresses"]
        assert extra["address"]["address"] == "::6"


def test_mesh_settings_fill_what_no_rule_says() -> None:
    found = checked("clusters/mesh_settings")
    reviews = found[f"outbound|9080||{REVIEWS}"]
    assert reviews["connect_timeout"] == "3s"
    assert reviews["alt_stat_name"] == "reviews.default_9080_;"
    assert reviews["upstream_connection_options"]["tcp_keepalive"] == {"keepalive_time": 300}
    assert limits(reviews)["max_connections"] == 11
    external = found["outbound|80|all|api.example.com"]
    # The rule has a connection pool of its own, so only outlier detection comes from the mesh.
    assert limits(external)["max_connections"] == UNLIMITED
    assert limits(external)["max_retries"] == 5
    assert external["outlier_detection"]["consecutive_5xx"] == 2
    assert external["dns_refresh_rate"] == "5s"
    assert external["alt_stat_name"] == "api.example.com_80_all;"
    assert found["BlackHoleCluster"]["connect_timeout"] == "3s"
    assert limits(found["PassthroughCluster"])["max_connections"] == UNLIMITED


def test_metadata_exchange_only_where_the_client_has_it() -> None:
    found = checked("clusters/metadata_exchange")
    for name in (f"outbound|9080||{REVIEWS}", "PassthroughCluster"):
        (exchange,) = found[name]["filters"]
        assert exchange["name"] == "istio.metadata_exchange"
        assert exchange["typed_config"]["value"] == {"protocol": "istio-peer-exchange"}
    assert "filters" not in found["InboundPassthroughCluster"]
    assert "filters" not in found["inbound|9080||"]


def test_localities_are_weighted_only_when_a_share_or_failover_is_asked_for() -> None:
    found = checked("clusters/locality_weighted")
    weighted = {
        port: "locality_weighted_lb_config"
        in found[f"outbound|{port}||{REVIEWS}"]["common_lb_config"]
        for port in (9080, 9081, 9082)
    }
    assert weighted == {9080: True, 9081: True, 9082: False}


def test_services_and_rules_are_seen_where_they_are_exported() -> None:
    found = checked("clusters/export_to")
    assert "outbound|80||hidden.other.svc.cluster.local" not in found
    shown = found["outbound|80||shown.other.svc.cluster.local"]
    # The private rule of its namespace does not count here; that of the root namespace does.
    assert shown.get("lb_policy", "ROUND_ROBIN") == "ROUND_ROBIN"
    assert shown["metadata"]["filter_metadata"]["istio"]["config"].endswith("/fallback")


@pytest.mark.parametrize("feature", ["clusters/subsets", "clusters/istio_mutual"])
def test_the_same_input_gives_the_same_bytes(feature: str) -> None:
    assert [item.body for item in resources(load_case(feature))] == [
        item.body for item in resources(load_case(feature))
    ]

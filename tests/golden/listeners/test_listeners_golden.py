"""Listeners of sidecars and gateways: golden pairs, and what each of them proves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from controlplane.translate.listeners import (
    build_listener,
    inbound_listener_inputs,
    outbound_conflicts,
    outbound_listener_inputs,
)
from controlplane.translate.resources import Translated
from tests.golden.support import Case, check_golden

Golden = Callable[[str], Case]


def translated(case: Case) -> list[Translated]:
    cls = case.cls
    values = list(outbound_listener_inputs(case.snapshot, cls.outbound))
    if cls.inbound is not None:
        values += inbound_listener_inputs(case.snapshot, cls.inbound)
    return [build_listener(value) for value in values]


def checked(case: Case) -> dict[str, dict[str, Any]]:
    """The listeners by name, after the comparison with the golden file."""
    made = [value.resource for value in translated(case)]
    return check_golden(case, [resource for resource in made if resource is not None])


def problems(case: Case) -> list[str]:
    found = [str(diagnostic) for value in translated(case) for diagnostic in value.diagnostics]
    return found + [str(each) for each in outbound_conflicts(case.snapshot, case.cls.outbound)]


def terminal(chain: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the filter that ends a chain."""
    config: dict[str, Any] = chain["filters"][-1]["typed_config"]
    return config


def filter_names(chain: dict[str, Any]) -> list[str]:
    return [entry["name"].rpartition(".")[2] for entry in terminal(chain)["http_filters"]]


def inspectors(listener: dict[str, Any]) -> list[str]:
    return [
        entry["name"].removeprefix("envoy.filters.listener.")
        for entry in listener.get("listener_filters", ())
    ]


SNIFFED = {"transport_protocol": "raw_buffer", "application_protocols": ["http/1.1", "h2c"]}


def test_http_services_of_a_port_share_the_wildcard_listener(golden: Golden) -> None:
    found = checked(golden("listeners/http-services-share-a-port"))
    assert list(found) == ["0.0.0.0_9080", "0.0.0.0_9090", "virtualOutbound", "virtualInbound"]
    shared = found["0.0.0.0_9080"]
    assert shared["bind_to_port"] is False
    assert inspectors(shared) == ["http_inspector"]
    (chain,) = shared["filter_chains"]
    assert chain["filter_chain_match"] == SNIFFED
    assert chain["transport_socket_connect_timeout"] == "15s"
    assert terminal(chain)["rds"]["route_config_name"] == "9080"
    assert terminal(chain)["stat_prefix"] == "outbound_0.0.0.0_9080;"
    assert filter_names(chain) == ["grpc_stats", "fault", "cors", "router"]
    default = shared["default_filter_chain"]
    assert default["name"] == "PassthroughFilterChain"
    assert terminal(default)["cluster"] == "PassthroughCluster"
    assert filter_names(found["0.0.0.0_9090"]["filter_chains"][0])[0] == "grpc_web"


def test_a_tcp_service_listens_on_its_address(golden: Golden) -> None:
    found = checked(golden("listeners/tcp-service-on-its-address"))["10.96.0.3_3306"]
    (chain,) = found["filter_chains"]
    assert "filter_chain_match" not in chain
    assert "default_filter_chain" not in found
    assert inspectors(found) == []
    cluster = "outbound|3306||mysqldb.default.svc.cluster.local"
    assert (terminal(chain)["cluster"], terminal(chain)["stat_prefix"]) == (cluster, cluster)


def test_a_detected_protocol_has_routes_of_its_own_on_its_address(golden: Golden) -> None:
    found = checked(golden("listeners/detected-protocol"))
    own = found["10.96.0.4_8000"]
    (http,) = own["filter_chains"]
    assert http["filter_chain_match"] == SNIFFED
    name = "unknown.default.svc.cluster.local:8000"
    assert terminal(http)["rds"]["route_config_name"] == name
    assert terminal(own["default_filter_chain"])["cluster"].startswith("outbound|8000||unknown")
    shared = found["0.0.0.0_8001"]["filter_chains"][0]
    assert terminal(shared)["rds"]["route_config_name"] == "8001"


def test_a_headless_tcp_service_has_a_listener_for_each_other_pod(golden: Golden) -> None:
    found = checked(golden("listeners/headless-tcp-service"))
    assert [name for name in found if name[0].isdigit()] == [
        "10.0.0.11_5432",
        "10.0.0.13_5432",
        "0.0.0.0_8008",
    ]


def test_networks_are_told_apart_on_the_wildcard(golden: Golden) -> None:
    found = checked(golden("listeners/networks-of-a-service-entry"))
    assert "198.51.100.7_5433" in found
    wildcard = found["0.0.0.0_5433"]
    matches = [chain["filter_chain_match"] for chain in wildcard["filter_chains"]]
    assert matches == [
        {"prefix_ranges": [{"address_prefix": "192.0.2.0", "prefix_len": 24}]},
        {"prefix_ranges": [{"address_prefix": "203.0.113.0", "prefix_len": 24}]},
        {
            "prefix_ranges": [{"address_prefix": "192.0.2.0", "prefix_len": 25}],
            "server_names": ["secure.example.com"],
        },
    ]
    assert inspectors(wildcard) == ["tls_inspector"]
    assert wildcard["default_filter_chain"]["name"] == "PassthroughFilterChain"


def test_tls_hosts_without_address_are_told_apart_by_server_name(golden: Golden) -> None:
    found = checked(golden("listeners/tls-hosts-without-address"))["0.0.0.0_443"]
    names = [chain["filter_chain_match"]["server_names"] for chain in found["filter_chains"]]
    assert names == [["*.example.org"], ["one.example.com"]]
    assert inspectors(found) == ["tls_inspector"]


def test_tcp_and_http_share_a_wildcard_and_the_younger_tcp_loses(golden: Golden) -> None:
    case = golden("listeners/tcp-and-http-on-one-wildcard")
    found = checked(case)["0.0.0.0_7000"]
    assert terminal(found["filter_chains"][0])["rds"]["route_config_name"] == "7000"
    assert terminal(found["default_filter_chain"])["cluster"] == "outbound|7000||first.example.com"
    (problem,) = problems(case)
    assert problem.startswith("ServiceEntry default/second spec.ports[0]: ")
    assert "first.example.com" in problem


def test_without_capture_listeners_bind_the_loopback_address(golden: Golden) -> None:
    case = golden("listeners/without-capture")
    found = checked(case)
    assert list(found) == ["127.0.0.1_9080", "127.0.0.1_9100"]
    http = found["127.0.0.1_9080"]
    assert "bind_to_port" not in http
    assert http["max_connections_to_accept_per_socket_event"] == 1
    assert "filter_chain_match" not in http["filter_chains"][0]
    assert "default_filter_chain" not in http
    assert terminal(http["filter_chains"][0])["rds"]["route_config_name"] == "9080"
    (problem,) = problems(case)
    assert problem.startswith("Service default/late spec.ports[0]: ")


def test_registry_only_sends_the_unknown_into_the_black_hole(golden: Golden) -> None:
    found = checked(golden("listeners/registry-only"))
    assert terminal(found["0.0.0.0_80"]["default_filter_chain"])["cluster"] == "BlackHoleCluster"
    blackhole, catch_all = found["virtualOutbound"]["filter_chains"]
    assert blackhole["name"] == "virtualOutbound-blackhole"
    assert blackhole["filter_chain_match"] == {"destination_port": 15001}
    assert catch_all["name"] == "virtualOutbound-catchall-tcp"
    assert terminal(catch_all)["cluster"] == "BlackHoleCluster"
    assert found["virtualOutbound"]["use_original_dst"] is True


def test_access_logs_are_on_filters_and_on_listeners_for_what_matches_nothing(
    golden: Golden,
) -> None:
    found = checked(golden("listeners/access-log-as-text"))
    tcp = terminal(found["10.96.0.6_81"]["filter_chains"][0])
    (log,) = tcp["access_log"]
    text = log["typed_config"]["log_format"]["text_format_source"]["inline_string"]
    assert text.startswith('[%START_TIME%] "%REQ(:METHOD)% ')
    assert text.endswith("%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n")
    assert tcp["idle_timeout"] == "90s"
    assert "access_log" not in found["0.0.0.0_80"]
    assert found["0.0.0.0_80"]["listener_filters_timeout"] == "5s"
    for name in ("virtualOutbound", "virtualInbound"):
        assert found[name]["access_log"][0]["filter"]["response_flag_filter"]["flags"] == ["NR"]
        assert "access_log" not in terminal(found[name]["filter_chains"][0])


def test_a_json_access_log_has_the_default_keys(golden: Golden) -> None:
    listener = checked(golden("listeners/access-log-as-json"))["0.0.0.0_8080"]
    (log,) = terminal(listener["filter_chains"][0])["access_log"]
    keys = log["typed_config"]["log_format"]["json_format"]
    assert len(keys) == 24
    assert keys["upstream_cluster"] == "%UPSTREAM_CLUSTER_RAW%"


def test_an_http_proxy_port_accepts_absolute_urls(golden: Golden) -> None:
    found = checked(golden("listeners/http-proxy"))
    assert list(found) == ["127.0.0.1_15080", "virtualOutbound", "virtualInbound"]
    manager = terminal(found["127.0.0.1_15080"]["filter_chains"][0])
    assert manager["rds"]["route_config_name"] == "http_proxy"
    assert manager["http_protocol_options"] == {"allow_absolute_url": True, "accept_http_10": True}


def test_transparent_capture_keeps_the_clients_address(golden: Golden) -> None:
    found = checked(golden("listeners/transparent-capture"))
    assert found["virtualOutbound"]["transparent"] is True
    assert found["virtualInbound"]["transparent"] is True
    assert inspectors(found["virtualInbound"])[:2] == ["original_dst", "original_src"]
    assert found["virtualInbound"]["listener_filters"][1]["typed_config"]["mark"] == 1337


def chains(listener: dict[str, Any]) -> list[tuple[str, int, str, tuple[str, ...], bool]]:
    """Name, port, transport, ALPN and whether TLS ends here, of each chain."""
    found = []
    for chain in listener["filter_chains"]:
        match = chain["filter_chain_match"]
        found.append(
            (
                chain["name"],
                match.get("destination_port", 0),
                match.get("transport_protocol", ""),
                tuple(match.get("application_protocols", ())),
                "transport_socket" in chain,
            )
        )
    return found


def test_a_proxy_without_secrets_takes_plaintext_only(golden: Golden) -> None:
    case = golden("listeners/inbound-plaintext")
    listener = checked(case)["virtualInbound"]
    http = ("http/1.1", "h2c")
    assert chains(listener) == [
        ("virtualInbound-blackhole", 15006, "", (), False),
        ("virtualInbound-catchall-http", 0, "raw_buffer", http, False),
        ("virtualInbound", 0, "raw_buffer", (), False),
        ("0.0.0.0_8080", 8080, "raw_buffer", (), False),
        ("0.0.0.0_8081", 8081, "raw_buffer", (), False),
        ("0.0.0.0_8082", 8082, "raw_buffer", (), False),
        ("0.0.0.0_8083", 8083, "raw_buffer", http, False),
        ("0.0.0.0_8083", 8083, "raw_buffer", (), False),
    ]
    assert inspectors(listener) == ["original_dst", "http_inspector"]
    catch_all, grpc = listener["filter_chains"][1], listener["filter_chains"][4]
    assert terminal(catch_all)["stat_prefix"] == "InboundPassthroughCluster;"
    assert terminal(catch_all)["route_config"]["name"] == "InboundPassthroughCluster"
    assert terminal(grpc)["stat_prefix"] == "inbound_0.0.0.0_8081;"
    assert terminal(grpc)["http2_protocol_options"] == {}
    assert terminal(grpc)["server_name"] == "istio-envoy"
    assert terminal(grpc)["forward_client_cert_details"] == "APPEND_FORWARD"
    assert terminal(grpc)["route_config"]["name"] == "inbound|8081||"
    (problem,) = problems(case)
    assert problem == (
        "Service default/web spec.ports[4]: target port 15021 belongs to the proxy itself"
    )


def test_the_oldest_of_services_on_one_target_port_wins_and_the_others_are_told(
    golden: Golden,
) -> None:
    case = golden("listeners/two-services-one-target-port")
    listener = checked(case)["virtualInbound"]
    (chain,) = [one for one in listener["filter_chains"] if one["name"] == "0.0.0.0_8080"]
    (host,) = terminal(chain)["route_config"]["virtual_hosts"]
    assert host["routes"][0]["decorator"]["operation"] == "old.default.svc.cluster.local:80/*"
    before = "Service default/old has named target port 8080 of the same workload before"
    assert problems(case) == [
        f"Service default/middle spec.ports[0]: {before}; inbound connections have the settings "
        "and the statistics of that service",
        f"Service default/young spec.ports[0]: {before}, as HTTP; inbound connections are not "
        "treated as TCP",
    ]


def test_a_proxy_with_secrets_takes_plaintext_and_mutual_tls(golden: Golden) -> None:
    listener = checked(golden("listeners/inbound-permissive"))["virtualInbound"]
    mutual_http = ("istio-http/1.0", "istio-http/1.1", "istio-h2")
    mutual_tcp = ("istio-peer-exchange", "istio")
    mutual_any = ("istio", "istio-peer-exchange", *mutual_http)
    http = ("http/1.1", "h2c")

    def detected(name: str, name_of_http: str, port: int) -> list[Any]:
        return [
            (name_of_http, port, "tls", mutual_http, True),
            (name_of_http, port, "raw_buffer", http, False),
            (name, port, "tls", mutual_tcp, True),
            (name, port, "raw_buffer", (), False),
            (name, port, "tls", (), False),
        ]

    assert chains(listener) == [
        ("virtualInbound-blackhole", 15006, "", (), False),
        *detected("virtualInbound", "virtualInbound-catchall-http", 0),
        ("0.0.0.0_8080", 8080, "tls", mutual_any, True),
        ("0.0.0.0_8080", 8080, "raw_buffer", (), False),
        ("0.0.0.0_8081", 8081, "tls", mutual_any, True),
        ("0.0.0.0_8081", 8081, "raw_buffer", (), False),
        ("0.0.0.0_8082", 8082, "tls", mutual_any, True),
        ("0.0.0.0_8082", 8082, "tls", (), False),
        ("0.0.0.0_8082", 8082, "raw_buffer", (), False),
        *detected("0.0.0.0_8083", "0.0.0.0_8083", 8083),
    ]
    assert inspectors(listener) == ["original_dst", "tls_inspector", "http_inspector"]

    def only(port: int) -> dict[str, Any]:
        return {"destination_port_range": {"start": port, "end": port + 1}}

    tls, http_detection = listener["listener_filters"][1:]
    assert tls["filter_disabled"] == only(15006)
    rules = http_detection["filter_disabled"]["or_match"]["rules"]
    assert rules == [only(8080), only(8081), only(8082), only(15006)]


def test_gateways_open_the_pods_ports_for_http(golden: Golden) -> None:
    found = checked(golden("listeners/gateway-http"))
    assert list(found) == ["0.0.0.0_8080", "127.0.0.1_9000"]
    listener = found["0.0.0.0_8080"]
    assert "bind_to_port" not in listener
    assert "listener_filters" not in listener
    (chain,) = listener["filter_chains"]
    assert "filter_chain_match" not in chain
    manager = terminal(chain)
    assert manager["rds"]["route_config_name"] == "http.8080"
    assert manager["use_remote_address"] is True
    assert manager["forward_client_cert_details"] == "SANITIZE_SET"
    assert manager["set_current_client_cert_details"] == {
        "subject": True,
        "cert": True,
        "dns": True,
        "uri": True,
    }
    grpc_web = found["127.0.0.1_9000"]["filter_chains"][0]
    assert terminal(grpc_web)["rds"]["route_config_name"] == "http.9000.127.0.0.1"
    assert filter_names(grpc_web)[0] == "grpc_web"


def test_extensions_of_istio_go_to_clients_that_have_them(golden: Golden) -> None:
    found = checked(golden("listeners/extensions-of-istio"))
    outbound = found["0.0.0.0_80"]["filter_chains"][0]
    names = ["metadata_exchange", "grpc_stats", "alpn", "fault", "cors", "router"]
    assert filter_names(outbound) == names
    inbound = found["virtualInbound"]["filter_chains"][-1]
    assert filter_names(inbound) == [name for name in names if name != "alpn"]
    assert inbound["filters"][0]["name"] == "istio.metadata_exchange"

"""Route configurations of sidecars and gateways: golden pairs and the facts they prove."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.translate.resources import Translated
from tests.golden.routes.routing import hosts, translate
from tests.golden.support import check_golden, expand, load_case

# Each pair and the names of the route configurations that its proxy asks for.
PAIRS: dict[str, tuple[str, ...]] = {
    "routes/services": ("9080",),
    "routes/registry-only": ("9080",),
    "routes/matches": ("9080",),
    "routes/destinations": ("9080",),
    "routes/actions": ("9080",),
    "routes/retries": ("9080",),
    "routes/faults": ("9080",),
    "routes/mirrors": ("9080",),
    "routes/cors": ("9080",),
    "routes/headers": ("9080",),
    "routes/affinity": ("9080",),
    "routes/mistakes": ("9080",),
    "routes/other-hosts": ("80", "8080"),
    "routes/http-proxy": ("http_proxy",),
    "routes/detected": (
        "guess.default.svc.cluster.local:7000",
        "ruled.default.svc.cluster.local:7000",
        "unknown.default.svc.cluster.local:7000",
    ),
    "routes/gateway": ("http.80", "http.81"),
    "routes/gateway-redirect": ("http.80", "https.443.https.web.default"),
    "routes/gateway-unbound": ("http.80",),
}
REVIEWS = "reviews.default.svc.cluster.local"
RATINGS = "ratings.default.svc.cluster.local"


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_is_as_expected(name: str) -> None:
    case = load_case(name)
    made = [translate(case, route).resource for route in PAIRS[name]]
    check_golden(case, [resource for resource in made if resource is not None])


def made(name: str, route: str = "9080") -> tuple[dict[str, dict[str, Any]], Translated]:
    """Return the virtual hosts of a pair by name, and the translation."""
    translated = translate(load_case(f"routes/{name}"), route)
    assert translated.resource is not None
    return hosts(expand(translated.resource)), translated


def routes_of(name: str, host: str = REVIEWS) -> list[dict[str, Any]]:
    found, _ = made(name)
    routes: list[dict[str, Any]] = found[f"{host}:9080"]["routes"]
    return routes


def test_domains_follow_the_namespaces_of_proxy_and_service() -> None:
    found, _ = made("services")
    # An ExternalName service is one more set of names of the service behind it.
    assert found[f"{REVIEWS}:9080"]["domains"] == [
        REVIEWS,
        f"{REVIEWS}.",
        "reviews",
        "reviews.default.svc",
        "reviews.default",
        "critics.default.svc.cluster.local",
        "critics.default.svc.cluster.local.",
        "critics",
        "critics.default.svc",
        "critics.default",
        "10.0.0.5",
    ]
    # Another namespace: no bare name. An IPv4 proxy: no IPv6 address.
    assert found["details.other.svc.cluster.local:9080"]["domains"] == [
        "details.other.svc.cluster.local",
        "details.other.svc.cluster.local.",
        "details.other",
        "details.other.svc",
        "10.0.0.7",
    ]
    assert "*.peers" in found["peers.default.svc.cluster.local:9080"]["domains"]
    assert found["api.books.example:9080"]["domains"] == ["api.books.example", "api.books.example."]


def test_only_visible_http_services_have_virtual_hosts_and_the_catch_all_is_last() -> None:
    found, translated = made("services")
    assert list(found) == [
        "api.books.example:9080",
        "details.other.svc.cluster.local:9080",
        "peers.default.svc.cluster.local:9080",
        f"{RATINGS}:9080",
        f"{REVIEWS}:9080",
        "allow_any",
    ]
    assert translated.resource is not None
    assert "PassthroughCluster" in translated.resource.clusters
    assert f"outbound|9080||{REVIEWS}" in translated.resource.clusters


def test_the_default_route_retries_and_never_times_out() -> None:
    (route,) = routes_of("services", RATINGS)
    assert route["name"] == "default"
    assert route["decorator"] == {"operation": f"{RATINGS}:9080/*"}
    action = route["route"]
    assert action["cluster"] == f"outbound|9080||{RATINGS}"
    assert (action["timeout"], action["max_grpc_timeout"]) == ("0s", "0s")
    policy = action["retry_policy"]
    assert policy["num_retries"] == 2
    assert policy["retry_on"] == (
        "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
    )
    assert policy["host_selection_retry_max_attempts"] == "5"
    assert policy["retry_host_predicate"][0]["name"] == "envoy.retry_host_predicates.previous_hosts"


def test_registry_only_refuses_unknown_destinations() -> None:
    found, translated = made("registry-only")
    (route,) = found["block_all"]["routes"]
    assert route["direct_response"] == {"status": 502}
    assert translated.resource is not None
    assert "PassthroughCluster" not in translated.resource.clusters


def test_matches_that_do_not_hold_for_the_proxy_are_left_out() -> None:
    # `others` names another label, namespace, port and gateway; `mesh` names its gateway, and
    # then source labels are not read; nothing comes after the match of everything.
    assert [route.get("name") for route in routes_of("matches")] == [
        "exact.all",
        "exact",
        "mesh",
        "rest",
    ]


def test_a_match_that_cannot_be_expressed_drops_its_route_with_a_diagnostic() -> None:
    _, translated = made("matches")
    assert [(item.field, str(item.ref)) for item in translated.diagnostics] == [
        (
            "spec.http[3].match[0].headers[@request.auth.claims.group]",
            "VirtualService default/reviews",
        ),
        ("spec.http[4].match[0].uri.regex", "VirtualService default/reviews"),
    ]
    assert translated.resource is not None
    assert not any("|admin|" in name or "|open|" in name for name in translated.resource.clusters)


def test_every_condition_of_a_match_is_expressed() -> None:
    route = routes_of("matches")[0]
    match = route["match"]
    assert route["stat_prefix"] == "exact_reviews"
    assert (match["path"], match["case_sensitive"]) == ("/Reviews", False)
    headers = {header["name"]: header for header in match["headers"]}
    assert headers["any"]["present_match"]
    assert headers["star"]["present_match"]
    assert headers["x-b"]["string_match"] == {"exact": "1"}
    assert headers["end-user"]["string_match"]["safe_regex"]["regex"] == "jas.*"
    assert headers["gone"] == {"name": "gone", "present_match": True, "invert_match": True}
    assert headers["x-a"]["invert_match"]
    assert headers["x-a"]["treat_missing_header_as_empty"]
    assert headers[":scheme"]["string_match"] == {"exact": "https"}
    assert headers[":method"]["string_match"]["safe_regex"]["regex"] == "GET|HEAD"
    assert headers[":authority"]["string_match"] == {"prefix": "reviews"}
    assert [item["name"] for item in match["query_parameters"]] == ["debug", "page", "some"]


def test_weights_leave_out_zero_and_headers_stay_with_their_destination() -> None:
    weighted = routes_of("destinations")[0]["route"]["weighted_clusters"]["clusters"]
    assert [(item["name"], item["weight"]) for item in weighted] == [
        (f"outbound|9080|v1|{REVIEWS}", 90),
        (f"outbound|9080|v3|{REVIEWS}", 10),
    ]
    assert weighted[0]["host_rewrite_literal"] == "v1.example"
    assert weighted[0]["request_headers_to_add"][0]["header"] == {"key": "x-v", "value": "1"}


def test_the_port_of_a_destination_is_its_own_or_the_only_one_or_that_of_the_listener() -> None:
    clusters = routes_of("destinations")[1]["route"]["weighted_clusters"]["clusters"]
    assert [item["name"] for item in clusters] == [
        "outbound|8000||web.shop.svc.cluster.local",
        "outbound|9080||multi.default.svc.cluster.local",
        "outbound|8001||multi.default.svc.cluster.local",
        "outbound|9080||nowhere.example",
    ]


def test_weights_of_zero_answer_500_and_say_so() -> None:
    found, translated = made("destinations")
    route = found[f"{REVIEWS}:9080"]["routes"][2]
    assert route["direct_response"] == {"status": 500}
    (diagnostic,) = translated.diagnostics
    assert diagnostic.field == "spec.http[2].route"


def test_redirects_direct_responses_and_rewrites() -> None:
    old, prefix, odd, text, binary, rewrite, regex, _ = routes_of("actions")
    assert old["redirect"] == {
        "host_redirect": "new.example",
        "path_redirect": "/new",
        "scheme_redirect": "https",  # 443 goes without saying
        "response_code": "PERMANENT_REDIRECT",
    }
    assert prefix["redirect"] == {"prefix_rewrite": "/other", "port_redirect": 9080}
    assert odd["direct_response"] == {"status": 500}
    assert text["direct_response"] == {"status": 503, "body": {"inline_string": "closed"}}
    assert binary["direct_response"]["body"] == {"inline_bytes": "aGVsbG8="}
    assert rewrite["route"]["prefix_rewrite"] == "/"
    assert rewrite["route"]["host_rewrite_literal"] == "other.example"
    assert regex["route"]["regex_rewrite"]["substitution"] == r"/\2/\1"


def test_retries_and_timeouts() -> None:
    everything, none, default = (route["route"] for route in routes_of("retries"))
    assert (everything["timeout"], everything["max_grpc_timeout"]) == ("0.500s", "0.500s")
    policy = everything["retry_policy"]
    assert policy["num_retries"] == 3
    assert policy["per_try_timeout"] == "0.250s"
    assert policy["retry_on"] == "gateway-error,retriable-status-codes"
    assert policy["retriable_status_codes"] == [418, 409]
    assert policy["retry_back_off"] == {"base_interval": "0.030s"}
    assert policy["retry_priority"]["typed_config"]["update_frequency"] == 2
    assert "retry_host_predicate" not in policy
    assert "retry_policy" not in none
    # The mesh's policy is the default of routes with and without a VirtualService.
    assert default["retry_policy"]["num_retries"] == 4
    (ratings,) = routes_of("retries", RATINGS)
    assert ratings["route"]["retry_policy"]["retry_on"] == "5xx"


def test_faults() -> None:
    filters = [
        route.get("typed_per_filter_config", {}).get("envoy.filters.http.fault")
        for route in routes_of("faults", RATINGS)
    ]
    jason, grpc, void, half = filters
    assert jason["delay"]["fixed_delay"] == "7s"
    assert jason["delay"]["percentage"] == {"numerator": 1_000_000, "denominator": "MILLION"}
    assert jason["abort"]["http_status"] == 500
    assert jason["abort"]["percentage"] == {"numerator": 5_000, "denominator": "MILLION"}
    assert grpc["abort"]["grpc_status"] == 14
    assert void is None
    assert half["delay"]["percentage"] == {"numerator": 50}


def test_mirrors() -> None:
    one, never, several = (route["route"] for route in routes_of("mirrors"))
    (mirror,) = one["request_mirror_policies"]
    assert mirror["cluster"] == f"outbound|9080|v2|{REVIEWS}"
    assert mirror["runtime_fraction"]["default_value"] == {"numerator": 100}
    assert mirror["disable_shadow_host_suffix_append"] is True
    assert "request_mirror_policies" not in never
    assert [item["cluster"] for item in several["request_mirror_policies"]] == [
        f"outbound|9080|v2|{REVIEWS}",
        f"outbound|8000||{RATINGS}",
    ]
    _, translated = made("mirrors")
    assert translated.resource is not None
    assert f"outbound|8000||{RATINGS}" in translated.resource.clusters


def test_cors() -> None:
    full, old = (
        route["typed_per_filter_config"]["envoy.filters.http.cors"] for route in routes_of("cors")
    )
    # An expression that is not RE2 admits nobody.
    assert full["allow_origin_string_match"] == [
        {"exact": "https://a.example"},
        {"prefix": "https://b."},
        {"safe_regex": {"regex": r".*\.c\.example"}},
    ]
    assert (full["allow_methods"], full["max_age"]) == ("GET,POST", "86400")
    assert full["allow_credentials"] is True
    assert full["forward_not_matching_preflights"] is False
    assert old["allow_origin_string_match"] == [{"exact": "old.example"}]
    assert old["forward_not_matching_preflights"] is True
    assert "allow_credentials" not in old


def test_header_operations_of_both_levels() -> None:
    (route,) = routes_of("headers")
    added = [
        (item["header"]["key"], item["header"]["value"], item.get("append_action", "APPEND"))
        for item in route["request_headers_to_add"]
    ]
    assert added == [
        ("x-a", "1", "OVERWRITE_IF_EXISTS_OR_ADD"),
        ("x-b", "2", "OVERWRITE_IF_EXISTS_OR_ADD"),
        ("x-c", "3", "APPEND"),
        ("x-a", "9", "OVERWRITE_IF_EXISTS_OR_ADD"),
    ]
    assert route["request_headers_to_remove"] == ["x-d", "x-g"]
    assert route["response_headers_to_remove"] == ["x-f"]
    # The route's host stands above the destination's, `set` above `add`.
    assert route["route"]["host_rewrite_literal"] == "set.example"


def test_affinity_of_destination_rules() -> None:
    cookie, weighted = (route["route"] for route in routes_of("affinity"))
    assert cookie["hash_policy"][0]["cookie"] == {
        "name": "session",
        "path": "/p",
        "ttl": "60s",
        "attributes": [{"name": "SameSite", "value": "Lax"}],
    }
    assert "retry_host_predicate" not in cookie["retry_policy"]
    assert weighted["hash_policy"] == [
        {"header": {"header_name": "x-user"}},
        {"query_parameter": {"name": "user"}},
    ]
    (plain,) = routes_of("affinity", "plain.default.svc.cluster.local")
    assert plain["route"]["hash_policy"] == [{"connection_properties": {"source_ip": True}}]
    assert "retry_host_predicate" not in plain["route"]["retry_policy"]


def test_hosts_that_are_no_services_are_routed_on_port_80() -> None:
    found, _ = made("other-hosts", "80")
    assert found["www.example.com:80"]["domains"] == ["www.example.com"]
    assert found["*.example.org:80"]["domains"] == ["*.example.org"]
    # `*` belongs to the catch-all alone.
    assert [name for name, host in found.items() if "*" in host["domains"]] == ["allow_any"]
    # On another port only beside a service that the same VirtualService routes there.
    found, _ = made("other-hosts", "8080")
    assert "shop.example.net:8080" in found
    assert "www.example.com:8080" not in found
    # A `*` in the mesh does not take the services.
    assert found["web.default.svc.cluster.local:8080"]["routes"][0]["name"] == "default"


def test_the_proxy_listener_tells_ports_apart_by_domain() -> None:
    found, translated = made("http-proxy", "http_proxy")
    assert f"{REVIEWS}:9080" in found[f"{REVIEWS}:9080"]["domains"]
    assert REVIEWS not in found[f"{REVIEWS}:9080"]["domains"]
    assert "web" in found["web.default.svc.cluster.local:80"]["domains"]
    assert translated.resource is not None


def test_a_detected_port_has_one_virtual_host_for_everything() -> None:
    found, _ = made("detected", "ruled.default.svc.cluster.local:7000")
    (host,) = found.values()
    assert host["domains"] == ["*"]
    assert host["routes"][0]["route"]["timeout"] == "2s"


def test_gateway_hosts_are_those_of_server_and_virtual_service_both() -> None:
    found, _ = made("gateway", "http.80")
    assert {name: host["domains"] for name, host in found.items()} == {
        "a.example.com:80": ["a.example.com"],
        "b.example.com:80": ["b.example.com"],
        # `*` of the VirtualService narrows to what the server lists for its namespace.
        "own.example:80": ["own.example", "*.example.com"],
    }
    # Nothing for only.example: its server admits namespace shop alone, whose VirtualService is
    # not exported to the gateway.
    paths = [
        route["match"].get("path") or route["match"].get("prefix")
        for route in found["a.example.com:80"]["routes"]
    ]
    # Oldest first, the one for everything last; the `mesh` match is not for gateways.
    assert paths == ["/gateway", "/ratings", "/"]


def test_https_redirect_requires_tls_with_and_without_routes() -> None:
    found, _ = made("gateway-redirect", "http.80")
    assert all(host["require_tls"] == "ALL" for host in found.values())
    assert found["b.example.com:80"]["domains"] == ["b.example.com", "c.example.com"]
    secure, _ = made("gateway-redirect", "https.443.https.web.default")
    (host,) = secure.values()
    assert "require_tls" not in host
    assert "port_redirect" not in host["routes"][0]["redirect"]


def test_a_gateway_without_virtual_services_answers_404() -> None:
    found, _ = made("gateway-unbound", "http.80")
    assert found["blackhole:80"] == {"name": "blackhole:80", "domains": ["*"]}


def test_a_mistake_costs_its_own_route_alone() -> None:
    found, translated = made("mistakes")
    assert list(found) == [f"{REVIEWS}:9080", "allow_any"]
    by_path = {
        route["match"].get("path", route["match"].get("prefix")): route
        for route in found[f"{REVIEWS}:9080"]["routes"]
    }
    # What cannot be matched is dropped; what cannot be done answers 500 in its place.
    answers = {path for path, route in by_path.items() if route.get("direct_response")}
    assert answers == {
        "/status",
        "/body",
        "/nothing",
        "/rewrite",
        "/header-value",
        "/header-format",
        "/authority",
        "/rewritten",
        "/redirected",
        "/weights",
    }
    assert all(by_path[path]["direct_response"] == {"status": 500} for path in answers)
    assert all(diagnostic.ref is not None for diagnostic in translated.diagnostics)
    fields = {diagnostic.field for diagnostic in translated.diagnostics}
    assert "spec.http[16].headers.request.add[x-e]" in fields
    # A timeout below zero is none, and a fault of nothing is none.
    time = by_path["/time"]
    assert time["route"]["timeout"] == "0s"
    assert "typed_per_filter_config" not in time

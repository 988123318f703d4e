"""`pylot proxy-config` against dumps made by hand: columns, filters, sources, errors."""

from __future__ import annotations

import base64
import datetime
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner, Result

from controlplane.cli.proxy_config import app
from controlplane.errors import OutsideError, UsageError
from tests.unit.cli.http_fixture import Answers, answering

ADMIN = "type.googleapis.com/envoy.admin.v3."
HTTP = "envoy.filters.network.http_connection_manager"
TCP = "envoy.filters.network.tcp_proxy"
REVIEWS = "reviews.default.svc.cluster.local"


def istio(kind: str, name: str) -> dict[str, Any]:
    """Metadata that names the object of a part."""
    path = f"/apis/networking.istio.io/v1/namespaces/default/{kind}/{name}"
    return {"filter_metadata": {"istio": {"config": path}}}


def socket(address: str, port: int) -> dict[str, Any]:
    """An address."""
    return {"socket_address": {"address": address, "port_value": port}}


def chain(kind: str, config: dict[str, Any], **match: Any) -> dict[str, Any]:
    """A filter chain with one filter."""
    return {"filter_chain_match": match, "filters": [{"name": kind, "typed_config": config}]}


def listeners() -> list[dict[str, Any]]:
    """virtualInbound, an HTTP listener, a TCP listener; not in the order of output."""
    everything = {
        "virtual_hosts": [
            {
                "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "inbound|9080||"}}],
            }
        ]
    }
    return [
        {
            "name": "virtualInbound",
            "address": socket("0.0.0.0", 15006),
            "filter_chains": [
                chain(TCP, {"cluster": "BlackHoleCluster"}, destination_port=15006),
                chain(
                    HTTP,
                    {"route_config": everything},
                    destination_port=9080,
                    transport_protocol="tls",
                    application_protocols=["istio-http/1.0", "istio-http/1.1", "istio-h2"],
                ),
            ],
        },
        {
            "name": "10.96.0.9_443",
            "address": socket("10.96.0.9", 443),
            "filter_chains": [
                chain(
                    TCP,
                    {"cluster": f"outbound|443||{REVIEWS}"},
                    server_names=["a.example", "b.example"],
                    prefix_ranges=[{"address_prefix": "10.96.0.9", "prefix_len": 32}],
                )
            ],
        },
        {
            "name": "0.0.0.0_443",
            "address": socket("0.0.0.0", 443),
            "filter_chains": [chain(HTTP, {"rds": {"route_config_name": "443"}})],
            "default_filter_chain": chain(TCP, {"cluster": "PassthroughCluster"}),
        },
    ]


def cluster(name: str, kind: str = "EDS", **more: Any) -> dict[str, Any]:
    """A cluster."""
    return {"name": name, "type": kind, **more}


def certificate(days: int) -> tuple[str, str]:
    """A self-signed certificate that ends so many days from now: PEM in base64 and serial."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(tz=datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(0xABC123)
        .not_valid_before(now - datetime.timedelta(days=10))
        .not_valid_after(now + datetime.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    return base64.b64encode(made.public_bytes(serialization.Encoding.PEM)).decode(), "abc123"


def dump() -> dict[str, Any]:
    """A config dump of a sidecar."""
    valid, _ = certificate(5)
    expired, _ = certificate(-1)
    routes = [
        {
            "name": "http.8080",
            "virtual_hosts": [{"name": "bookinfo:80", "domains": ["*"], "routes": []}],
        },
        {
            "name": "9080",
            "virtual_hosts": [
                {
                    "name": f"{REVIEWS}:9080",
                    "domains": [REVIEWS, f"{REVIEWS}:9080", f"{REVIEWS}.", "reviews",
                                "reviews:9080", "reviews.default", "10.96.0.7"],
                    "routes": [
                        {
                            "match": {"path_separated_prefix": "/api"},
                            "metadata": istio("virtual-service", "reviews"),
                        },
                        {"match": {"safe_regex": {"regex": "/v[12]"}}},
                    ],
                }
            ],
        },
    ]  # fmt: skip
    assignment = {
        "cluster_name": f"outbound|9080||{REVIEWS}",
        "endpoints": [
            {
                "lb_endpoints": [
                    {"endpoint": {"address": socket("10.0.0.2", 9080)}},
                    {
                        "endpoint": {"address": socket("10.0.0.1", 9080)},
                        "health_status": "DRAINING",
                    },
                    {"endpoint": {"address": {"pipe": {"path": "/run/app.sock"}}}},
                ]
            }
        ],
    }
    return {
        "configs": [
            {
                "@type": ADMIN + "BootstrapConfigDump",
                "bootstrap": {
                    "node": {"id": "sidecar~10.0.0.1~a.b~b", "cluster": "a.b"},
                    "admin": {"address": socket("127.0.0.1", 15000)},
                },
            },
            {
                "@type": ADMIN + "ClustersConfigDump",
                "static_clusters": [{"cluster": cluster("xds-grpc", "STRICT_DNS")}],
                "dynamic_active_clusters": [
                    {
                        "cluster": cluster(
                            f"outbound|9080|v1|{REVIEWS}",
                            metadata=istio("destination-rule", "reviews"),
                        )
                    },
                    {"cluster": cluster(f"outbound|9080||{REVIEWS}")},
                    {"cluster": cluster("inbound|9080||", "ORIGINAL_DST")},
                ],
            },
            {
                "@type": ADMIN + "ListenersConfigDump",
                "dynamic_listeners": [
                    *({"name": x["name"], "active_state": {"listener": x}} for x in listeners()),
                    {"name": "refused", "error_state": {"details": "no"}},
                ],
            },
            {
                "@type": ADMIN + "RoutesConfigDump",
                "dynamic_route_configs": [{"route_config": route} for route in routes],
            },
            {
                "@type": ADMIN + "EndpointsConfigDump",
                "dynamic_endpoint_configs": [{"endpoint_config": assignment}],
            },
            {
                "@type": ADMIN + "SecretsConfigDump",
                "dynamic_active_secrets": [
                    {
                        "name": "default",
                        "secret": {
                            "name": "default",
                            "tls_certificate": {
                                "certificate_chain": {"inline_bytes": valid},
                                "private_key": {"inline_bytes": "c2VjcmV0"},
                            },
                        },
                    },
                    {
                        "name": "ROOTCA",
                        "secret": {"validation_context": {"trusted_ca": {"inline_bytes": expired}}},
                    },
                ],
                "dynamic_warming_secrets": [{"name": "late"}],
            },
            {"@type": ADMIN + "SomethingNewConfigDump"},
        ]
    }


@pytest.fixture
def file(tmp_path: Path) -> str:
    """The dump in a file."""
    path = tmp_path / "dump.json"
    path.write_text(json.dumps(dump()))
    return str(path)


def run(*arguments: str, stdin: str | None = None) -> Result:
    """Run a sub-command."""
    return CliRunner().invoke(app, list(arguments), input=stdin)


def rows(result: Result) -> list[list[str]]:
    """The cells of a table; columns are at least three spaces apart."""
    assert result.exception is None, result.exception
    lines = result.stdout.splitlines()
    starts = [
        at for at, char in enumerate(lines[0])
        if char != " " and (at == 0 or lines[0][at - 3 : at] == "   ")
    ]  # fmt: skip
    ends = [*starts[1:], None]
    return [
        [line[start:end].strip() for start, end in zip(starts, ends, strict=True)] for line in lines
    ]


def test_listeners_by_port_with_match_and_destination(file: str) -> None:
    assert rows(run("listener", "--file", file)) == [
        ["ADDRESS", "PORT", "MATCH", "DESTINATION"],
        ["0.0.0.0", "443", "ALL", "Route: 443"],
        ["0.0.0.0", "443", "ALL", "PassthroughCluster"],
        [
            "10.96.0.9", "443", "SNI: a.example,b.example; Addr: 10.96.0.9/32",
            f"Cluster: outbound|443||{REVIEWS}",
        ],
        ["0.0.0.0", "15006", "Addr: *:15006", "BlackHoleCluster"],
        [
            "0.0.0.0", "15006", "Trans: tls; App: Istio HTTP; Addr: *:9080",
            "Cluster: inbound|9080||",
        ],
    ]  # fmt: skip


def test_listener_filters_and_summary(file: str) -> None:
    brief = rows(run("listener", "--file", file, "--no-verbose"))
    assert brief == [
        ["ADDRESS", "PORT", "TYPE"],
        ["0.0.0.0", "443", "HTTP+TCP"],
        ["10.96.0.9", "443", "TCP"],
        ["0.0.0.0", "15006", "HTTP"],
    ]

    def ports(*flags: str) -> list[str]:
        found = rows(run("listener", "--file", file, "--no-verbose", *flags))
        return [f"{row[0]}:{row[1]}" for row in found[1:]]

    assert ports("--port", "15006") == ["0.0.0.0:15006"]
    assert ports("--address", "10.96.0.9") == ["10.96.0.9:443"]
    assert ports("--type", "tcp") == ["10.96.0.9:443"]
    assert ports("--name", "virtualInbound") == ["0.0.0.0:15006"]
    assert ports("--port", "1") == []


def test_clusters_by_host_with_the_rule_that_shaped_them(file: str) -> None:
    assert rows(run("cluster", "--file", file)) == [
        ["SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"],
        ["", "9080", "-", "inbound", "ORIGINAL_DST", ""],
        [REVIEWS, "9080", "-", "outbound", "EDS", ""],
        [REVIEWS, "9080", "v1", "outbound", "EDS", "reviews.default"],
        ["xds-grpc", "-", "-", "-", "STRICT_DNS", ""],
    ]


def test_cluster_filters(file: str) -> None:
    def names(*flags: str) -> list[str]:
        found = run("cluster", "--file", file, "-o", "json", *flags)
        return [entry["name"] for entry in json.loads(found.stdout)]

    plain, v1 = f"outbound|9080||{REVIEWS}", f"outbound|9080|v1|{REVIEWS}"
    assert names("--fqdn", REVIEWS) == [plain, v1]
    assert names("--subset", "v1") == [v1]
    assert names("--subset", "", "--direction", "outbound") == [plain]
    assert names("--direction", "INBOUND") == ["inbound|9080||"]
    assert names("--port", "9080", "--fqdn", "xds-grpc") == []


def test_routes_with_domains_match_and_virtual_service(file: str) -> None:
    assert rows(run("route", "--file", file)) == [
        ["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"],
        [
            "9080", f"{REVIEWS}:9080", f"{REVIEWS}, reviews + 2 more...", "PathPrefix:/api",
            "reviews.default",
        ],
        ["9080", f"{REVIEWS}:9080", f"{REVIEWS}, reviews + 2 more...", "regex /v[12]", ""],
        ["http.8080", "bookinfo:80", "*", "", ""],
    ]  # fmt: skip
    assert rows(run("route", "--file", file, "--no-verbose", "--name", "9080")) == [
        ["NAME", "VIRTUAL HOSTS"],
        ["9080", "1"],
    ]


def test_endpoints_of_a_dump_have_no_outlier_check(file: str) -> None:
    name = f"outbound|9080||{REVIEWS}"
    assert rows(run("endpoint", "--file", file)) == [
        ["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"],
        ["10.0.0.1:9080", "DRAINING", "-", name],
        ["10.0.0.2:9080", "HEALTHY", "-", name],
        ["unix:///run/app.sock", "HEALTHY", "-", name],
    ]
    found = rows(run("endpoint", "--file", file, "--status", "draining"))
    assert [row[0] for row in found[1:]] == ["10.0.0.1:9080"]
    found = rows(run("endpoint", "--file", file, "--address", "10.0.0.2", "--port", "9080"))
    assert [row[0] for row in found[1:]] == ["10.0.0.2:9080"]


def test_secrets_show_certificates_and_never_keys(file: str) -> None:
    found = rows(run("secret", "--file", file))
    assert found[0] == [
        "RESOURCE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE",
    ]  # fmt: skip
    assert [row[:5] for row in found[1:]] == [
        ["ROOTCA", "CA", "ACTIVE", "false", "abc123"],
        ["default", "Cert Chain", "ACTIVE", "true", "abc123"],
        ["late", "-", "WARMING", "false", "-"],
    ]
    assert "c2VjcmV0" not in run("secret", "--file", file, "-o", "json").stdout


def test_all_prints_each_kind_and_yaml_can_be_read_back(file: str) -> None:
    text = run("all", "--file", file).stdout
    for header in ("SERVICE FQDN", "ADDRESS", "VHOST NAME", "OUTLIER CHECK", "SERIAL NUMBER"):
        assert header in text
    data = yaml.safe_load(run("all", "--file", file, "-o", "yaml").stdout)
    assert len(data["listeners"]) == 3
    assert data["bootstrap"]["node"]["cluster"] == "a.b"


def test_bootstrap_is_json_unless_a_summary_is_asked(file: str) -> None:
    assert json.loads(run("bootstrap", "--file", file).stdout)["node"]["cluster"] == "a.b"
    assert ["Admin address", "127.0.0.1:15000"] in rows(
        run("bootstrap", "--file", file, "-o", "short")
    )


def test_dump_is_read_from_standard_input() -> None:
    result = run("route", "--file", "-", "--no-verbose", stdin=json.dumps(dump()))
    assert rows(result)[1] == ["9080", "1"]


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "is not JSON"), ("[]", "is not an Envoy config dump"), ("{}", "no list `configs`")],
)
def test_what_is_no_dump_is_said(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    error = run("cluster", "--file", str(path)).exception
    assert isinstance(error, OutsideError)
    assert said in str(error)
    assert str(path) in str(error)


def test_file_that_is_not_there_and_two_sources_are_wrong_usage(tmp_path: Path) -> None:
    missing = run("cluster", "--file", str(tmp_path / "none.json")).exception
    assert isinstance(missing, UsageError)
    assert "none.json cannot be read" in str(missing)
    both = run("cluster", "reviews-1", "--file", "x").exception
    assert isinstance(both, UsageError)
    assert "POD and --file" in str(both)
    assert isinstance(run("cluster", "--admin", "ftp://x").exception, UsageError)


def test_live_envoy_tells_health_and_outlier_detection() -> None:
    hosts = [
        {"address": socket("10.0.0.1", 9080), "health_status": {"eds_health_status": "HEALTHY"}},
        {
            "address": socket("10.0.0.2", 9080),
            "health_status": {"eds_health_status": "HEALTHY", "failed_outlier_check": True},
        },
    ]
    answers: Answers = {
        "/config_dump?include_eds": dump(),
        "/clusters?format=json": {"cluster_statuses": [{"name": "a", "host_statuses": hosts}]},
    }
    with answering(answers) as base:
        assert rows(run("endpoint", "--admin", base))[1:] == [
            ["10.0.0.1:9080", "HEALTHY", "OK", "a"],
            ["10.0.0.2:9080", "UNHEALTHY", "FAILED", "a"],
        ]


def test_pod_is_resolved_by_the_control_plane() -> None:
    answers: Answers = {
        "/debug/syncz": [
            {"proxy": "reviews-1.default", "connection_id": "reviews-1.default-7"},
            {"proxy": "reviews-10.default", "connection_id": "reviews-10.default-8"},
        ],
        "/debug/config_dump?proxyID=reviews-1.default-7&include_eds=true": dump(),
    }
    with answering(answers) as base:
        for pod in ("reviews-1", "reviews-1.default", "reviews-1.default-7"):
            assert len(rows(run("cluster", pod, "--control-plane", base))) == 5
        error = run("cluster", "nobody", "--control-plane", base).exception
    assert isinstance(error, OutsideError)
    assert "reviews-1.default, reviews-10.default" in str(error)


def test_nobody_answering_names_the_address_and_what_to_try() -> None:
    error = run("cluster", "--admin", "127.0.0.1:9").exception
    assert isinstance(error, OutsideError)
    assert "http://127.0.0.1:9/config_dump" in str(error)
    assert "--admin URL" in str(error)

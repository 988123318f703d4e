"""The arguments of `pylot proxy`, of today and of long ago."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from controlplane.cli.proxy import log_level, plain_switches, register, without_obsolete
from controlplane.errors import UsageError

ENVIRONMENT = {"POD_NAME": "web", "POD_NAMESPACE": "shop", "INSTANCE_IP": "10.244.0.7"}
# What an injection template of the first Istio releases passed.
OLD = (
    "sidecar --domain shop.svc.cluster.local --configPath /etc/istio/proxy --binaryPath "
    "/usr/local/bin/envoy --serviceCluster web.shop --drainDuration 45s --parentShutdownDuration "
    "1m0s --discoveryAddress istio-pilot.istio-system:15010 --zipkinAddress zipkin.istio-system:"
    "9411 --dnsRefreshRate 300s --connectTimeout 10s --proxyAdminPort 15000 --concurrency 2 "
    "--controlPlaneAuthPolicy NONE --statusPort 15020 --applicationPorts 9080 --proxyLogLevel="
    "warning --proxyComponentLogLevel=misc:error --log_output_level=default:info --trust-domain="
    "cluster.local --stsPort 0 --statsdUdpAddress statsd:9125 --disableInternalTelemetry"
).split()


def run(*words: str, **environment: str) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    register(app)
    return CliRunner().invoke(app, [*words, "--bootstrap-only"], env={**ENVIRONMENT, **environment})


def test_arguments_of_every_generation_are_taken_and_warned_of() -> None:
    done = run(*OLD)
    assert done.exit_code == 0, done.output
    built = json.loads(done.stdout)
    assert built["node"]["id"] == "sidecar~10.244.0.7~web.shop~shop.svc.cluster.local"
    assert built["node"]["cluster"] == "web.shop"
    xds = built["static_resources"]["clusters"][0]
    assert (xds["connect_timeout"], xds["dns_refresh_rate"]) == ("10s", "300s")
    warned = [line.split()[1] for line in done.stderr.splitlines() if "no effect" in line]
    assert warned == [
        "--parentShutdownDuration",
        "--zipkinAddress",
        "--applicationPorts",
        "--trust-domain",
        "--stsPort",
        "--statsdUdpAddress",
        "--disableInternalTelemetry",
    ]


def test_without_arguments_the_bootstrap_is_that_of_a_sidecar() -> None:
    done = run()
    assert json.loads(done.stdout)["node"]["id"].startswith("sidecar~10.244.0.7~web.shop~shop.svc")


def test_a_router_is_a_router() -> None:
    built = json.loads(run("router", "--sotw").stdout)
    assert built["node"]["id"].startswith("router~")
    assert built["dynamic_resources"]["ads_config"]["api_type"] == "GRPC"


def test_another_role_is_refused() -> None:
    done = run("waypoint")
    assert isinstance(done.exception, UsageError)
    assert "waypoint" in str(done.exception)


def test_labels_of_the_downward_api_reach_the_node(tmp_path: Path) -> None:
    (tmp_path / "labels").write_text('app="web"\n')
    built = json.loads(run("sidecar", "--pod-directory", str(tmp_path)).stdout)
    assert built["node"]["metadata"]["LABELS"] == {"app": "web"}
    assert built["node"]["cluster"] == "web.shop"


def test_obsolete_arguments_take_their_value_with_them() -> None:
    kept, warnings = without_obsolete(
        ["sidecar", "--stsPort", "1", "--zipkinAddress=a:1", "--profiling", "--domain", "d"]
    )
    assert kept == ["sidecar", "--domain", "d"]
    assert len(warnings) == 3


def test_switches_take_truth_values_as_go_writes_them() -> None:
    words = ["--log_as_json=true", "--sotw=false", "--domain=true"]
    assert plain_switches(words, {"--log_as_json", "--sotw"}) == ["--log_as_json", "--domain=true"]


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("", "info"),
        ("debug", "debug"),
        ("default:warn", "warning"),
        ("dns:debug,default:error", "error"),
        ("dns:debug", "info"),
        ("none", "error"),
    ],
)
def test_log_levels_of_istio(text: str, level: str) -> None:
    assert log_level(text) == level


def test_an_unknown_log_level_is_refused() -> None:
    with pytest.raises(UsageError, match="loud"):
        log_level("default:loud")

"""A real, stock Envoy accepts the listeners of every golden pair.

Istio's own extensions are the one exception: a stock Envoy must reject them, which is why they
are sent to no client that does not list them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controlplane.translate.listeners import (
    build_listener,
    inbound_listener_inputs,
    outbound_listener_inputs,
)
from controlplane.translate.resources import Resource
from tests.golden.support import GOLDEN, Case, expand, load_case

pytestmark = pytest.mark.envoy

PAIRS = sorted(GOLDEN.glob("listeners/*.in.yaml"))
OF_ISTIO = "extensions-of-istio"


def listeners_of(case: Case) -> list[Resource]:
    cls = case.cls
    values = list(outbound_listener_inputs(case.snapshot, cls.outbound))
    if cls.inbound is not None:
        values += inbound_listener_inputs(case.snapshot, cls.inbound)
    made = [build_listener(value).resource for value in values]
    return [resource for resource in made if resource is not None]


def bootstrap(listeners: list[dict[str, Any]], clusters: set[str]) -> dict[str, Any]:
    """A static bootstrap with these listeners; routes come from an xDS server that is not there."""

    def cluster(name: str) -> dict[str, Any]:
        return {"name": name, "type": "STATIC", "connect_timeout": "1s"}

    xds = {**cluster("xds"), "typed_extension_protocol_options": HTTP2}
    return {
        "node": {"id": "validation", "cluster": "validation"},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            }
        },
        "static_resources": {
            "listeners": listeners,
            "clusters": [xds, {**xds, "name": "sds-grpc"}, *map(cluster, sorted(clusters))],
        },
    }


HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


def validate(config: dict[str, Any], directory: Path) -> subprocess.CompletedProcess[str]:
    beside = Path(sys.executable).with_name("envoy")
    command = str(beside) if beside.exists() else shutil.which("envoy")
    assert command is not None
    file = directory / "bootstrap.json"
    file.write_bytes(msgspec.json.encode(config))
    return subprocess.run(
        [command, "--mode", "validate", "-c", str(file), "--disable-hot-restart"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "path",
    [path for path in PAIRS if OF_ISTIO not in path.name],
    ids=lambda path: path.name.removesuffix(".in.yaml"),
)
def test_a_stock_envoy_accepts_the_listeners(path: Path, tmp_path: Path) -> None:
    resources = listeners_of(load_case(path))
    assert resources
    clusters = {name for resource in resources for name in resource.clusters}
    result = validate(bootstrap([expand(each) for each in resources], clusters), tmp_path)
    assert result.returncode == 0, result.stderr
    assert "deprecated" not in result.stderr.lower(), result.stderr


def test_a_stock_envoy_rejects_extensions_of_istio(tmp_path: Path) -> None:
    resources = listeners_of(load_case(f"listeners/{OF_ISTIO}"))
    clusters = {name for resource in resources for name in resource.clusters}
    result = validate(bootstrap([expand(each) for each in resources], clusters), tmp_path)
    assert result.returncode != 0
    assert "istio." in result.stderr

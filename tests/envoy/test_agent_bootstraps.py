"""A stock Envoy accepts every bootstrap that `pylot proxy --bootstrap-only` prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from controlplane.agent.run import envoy_binary
from tests.golden.support import GOLDEN

pytestmark = pytest.mark.envoy

CONFIG = {
    "runtimeValues": {"envoy.reloadable_features.http_reject_path_with_fragment": "true"},
    "extraStatTags": ["request_kind"],
    "proxyStatsMatcher": {
        "inclusionPrefixes": ["a."],
        "inclusionSuffixes": [".b"],
        "inclusionRegexps": ["c.*d"],
    },
}


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (["sidecar"], {}),
        (["router", "--sotw"], {}),
        (["sidecar", "--discoveryAddress", "127.0.0.1:15010"], {}),
        (["sidecar", "--discoveryAddress", "unix:/run/xds", "--proxyAdminSocket", "/run/a"], {}),
        (["sidecar"], {"INSTANCE_IP": "fd00::7"}),
        (["sidecar", "--statusPort", "0"], {"ISTIO_META_DNS_CAPTURE": "true"}),
        (
            ["sidecar", "--connectTimeout", "1.5s", "--dnsRefreshRate", "300s"],
            {
                "PROXY_CONFIG": json.dumps(CONFIG),
                "ISTIO_METAJSON_LABELS": '{"app":"web","istio-locality":"r.z.s"}',
                "ISTIO_META_POD_PORTS": '[{"containerPort":9080}]',
            },
        ),
    ],
)
def test_envoy_accepts_it(words: list[str], environment: dict[str, str], tmp_path: Path) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "controlplane", "proxy", *words, "--bootstrap-only"],
        env={
            **os.environ,
            **{"POD_NAME": "web", "POD_NAMESPACE": "default", "INSTANCE_IP": "127.0.0.1"},
            **environment,
        },
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert printed.returncode == 0, printed.stderr
    check(printed.stdout, tmp_path)


GOLDEN_BOOTSTRAPS = sorted(GOLDEN.glob("bootstrap/*.out.yaml"))


@pytest.mark.parametrize(
    "golden", GOLDEN_BOOTSTRAPS, ids=lambda path: path.name.partition(".out")[0]
)
def test_envoy_accepts_the_golden_ones(golden: Path, tmp_path: Path) -> None:
    made = yaml.safe_load(golden.read_text())["bootstrap"]
    check(json.dumps(made).encode(), tmp_path)


def test_there_are_golden_ones() -> None:
    assert len(GOLDEN_BOOTSTRAPS) >= 8


def check(bootstrap: bytes, directory: Path) -> None:
    """Fail with Envoy's own words when it does not take a bootstrap."""
    file = directory / "bootstrap.json"
    file.write_bytes(bootstrap)
    checked = subprocess.run(
        [envoy_binary(None), "--mode", "validate", "-c", str(file), "--disable-hot-restart"],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr.decode()
    assert b"OK" in checked.stdout + checked.stderr

"""A stock Envoy accepts every bootstrap that `pylot proxy --bootstrap-only` prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane.agent.run import envoy_binary

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
    file = tmp_path / "bootstrap.json"
    file.write_bytes(printed.stdout)
    checked = subprocess.run(
        [envoy_binary(None), "--mode", "validate", "-c", str(file), "--disable-hot-restart"],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr.decode()
    assert b"OK" in checked.stdout + checked.stderr

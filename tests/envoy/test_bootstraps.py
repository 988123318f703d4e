"""A real Envoy accepts the bootstraps: those that we make and those that people read."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from controlplane.agent.bootstrap import Bootstrap, PipeAddress, SocketAddress, bootstrap_json
from controlplane.agent.envoy import find_envoy
from controlplane.demo.layout import Layout, gateway_bootstrap, sidecar_bootstrap
from controlplane.model.proxy import ProxyType
from tests.envoy.harness import BOOKINFO

pytestmark = pytest.mark.envoy

OTHER = Bootstrap(
    proxy_type=ProxyType.SIDECAR,
    ip="fd00::7",
    name="reviews-v1.default",
    xds=PipeAddress(path="/run/pylot/xds"),
    admin=SocketAddress(host="::1", port=15000),
    delta=False,
    prometheus_port=15090,
    status_port=15021,
)
HAND_WRITTEN = sorted(
    path for where in ("local", "compose") for path in (BOOKINFO / where).glob("*.yaml")
)


# docker-compose.yml names each sidecar on its command line.
NAMED = ("--service-node", "sidecar~10.0.0.1~a.b~b.svc.cluster.local", "--service-cluster", "a.b")


def validate(file: Path, *flags: str) -> None:
    """Fail unless Envoy accepts a bootstrap without a word of warning."""
    done = subprocess.run(
        [find_envoy(), "--mode", "validate", "-l", "warning", "-c", file, *flags],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "[warning]" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    "bootstrap",
    [gateway_bootstrap(Layout()), sidecar_bootstrap(Layout(), delta=False), OTHER],
    ids=["gateway", "sidecar", "every option"],
)
def test_envoy_accepts_a_bootstrap_of_ours(bootstrap: Bootstrap, tmp_path: Path) -> None:
    file = tmp_path / "envoy.json"
    file.write_bytes(bootstrap_json(bootstrap))
    validate(file)


@pytest.mark.parametrize("file", HAND_WRITTEN, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_envoy_accepts_a_hand_written_bootstrap(file: Path) -> None:
    validate(file, *(NAMED if file.match("compose/sidecar.yaml") else ()))


def test_there_are_four_hand_written_bootstraps() -> None:
    assert len(HAND_WRITTEN) == 4

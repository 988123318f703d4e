"""`pylot render` by hand: what it prints, what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane.cli.main import main

NODE = "sidecar~10.0.0.9~web-1.default~default.svc.cluster.local"
MESH = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.96.0.1
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.9]}]
"""


def render(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error of `pylot render`."""
    monkeypatch.setattr(sys, "argv", ["pylot", "render", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    written = capsys.readouterr()
    return int(ended.value.code or 0), written.out, written.err


@pytest.fixture
def mesh(tmp_path: Path) -> Path:
    """A directory with one service and one endpoint."""
    (tmp_path / "mesh.yaml").write_text(MESH)
    return tmp_path


def test_every_kind_is_printed_under_its_plural(
    mesh: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = render(monkeypatch, capsys, "--config-dir", str(mesh), "--node", NODE)
    data = json.loads(out)
    assert (code, err) == (0, "")
    assert list(data) == ["listeners", "clusters", "routes", "endpoints"]
    assert [route["name"] for route in data["routes"]] == ["80"]
    assert "outbound|80||web.default.svc.cluster.local" in [
        cluster["name"] for cluster in data["clusters"]
    ]


def test_only_the_asked_kinds_are_printed(
    mesh: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--config-dir", str(mesh), "--node", NODE, "--type", "eds")
    code, out, _ = render(monkeypatch, capsys, *words)
    (assignment,) = json.loads(out)["endpoints"]
    assert (code, list(json.loads(out))) == (0, ["endpoints"])
    workload = assignment["endpoints"][0]["lb_endpoints"][0]["metadata"]["filter_metadata"]["istio"]
    assert workload["workload"].endswith(";Kubernetes")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--node", "web"), "--node: node id 'web'"),
        (("--node", f"sidecar~10.0.0.9~{'x' * 2000}~d"), "more than 1024"),
        (("--node", NODE, "--metadata", "["), "--metadata: not a JSON object"),
        (
            ("--node", NODE, "--labels", "a=b", "--metadata", '{"LABELS": "x"}'),
            "--metadata: LABELS is not an object",
        ),
        (("--node", NODE, "--labels", "a"), "--labels: 'a'"),
        (("--node", NODE, "--config-dir", "nowhere"), "--config-dir: nowhere is not a directory"),
        (("--node", NODE, "--mesh-config", "nowhere"), "--mesh-config: there is no file nowhere"),
    ],
)
def test_wrong_usage_is_one_sentence_that_names_the_flag(
    words: tuple[str, ...],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = render(monkeypatch, capsys, *words)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


def test_a_port_lost_to_another_service_is_told(
    mesh: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, created in (("old", "2020-01-01T00:00:00Z"), ("young", "2021-01-01T00:00:00Z")):
        (mesh / f"{name}.yaml").write_text(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n"
            f"metadata: {{name: {name}, creationTimestamp: '{created}'}}\n"
            f"spec: {{hosts: [{name}.example], ports: [{{number: 9, name: tcp, protocol: TCP}}]}}\n"
        )
    code, _, err = render(monkeypatch, capsys, "--config-dir", str(mesh), "--node", NODE)
    assert code == 0
    assert "ServiceEntry default/young" in err


def test_the_output_is_the_same_in_every_process(mesh: Path) -> None:
    digests = set()
    for seed in ("1", "2", "3"):
        made = subprocess.run(
            [sys.executable, "-m", "controlplane", "render", "--config-dir", mesh, "--node", NODE],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=30,
        )
        digests.add(hashlib.sha256(made.stdout).hexdigest())
    assert len(digests) == 1

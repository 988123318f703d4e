"""What `deploy/` applies, against a real API server: taken, restricted, and enough to run."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from controlplane.crds.definitions import definitions
from controlplane.crds.text import as_yaml
from controlplane.leader.duties import LEASE, STATUS_LEASE
from controlplane.leader.webhook_secret import secret_name
from tests.deploy.helm import CHART, DEPLOY, KUBERNETES, run_helm
from tests.deploy.kind import VALUES, applied
from tests.deploy.objects import find, objects, pods
from tests.envoy.harness import free_ports
from tests.kubernetes.cluster import Cluster

pytestmark = [pytest.mark.kubernetes, pytest.mark.helm]

PATIENCE: Final = 60.0  # seconds, on a loaded machine
RESTRICTED: Final = "pod-security.kubernetes.io/enforce=restricted"
ROOT: Final = "istio-system"


def _dry_run(cluster: Cluster, *items: dict[str, Any], check: bool = True) -> str:
    done = cluster.kubectl(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-",
        stdin=yaml.safe_dump_all(items), check=check,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("revision=canary", "autoscaleEnabled=false", "gateway.autoscaleEnabled=false"),
        ("sidecarInjectorWebhook.enableNamespacesByDefault=true", "gateway.enabled=false"),
    ],
)
def test_the_api_server_takes_the_chart(
    cluster: Cluster, namespace: str, settings: tuple[str, ...]
) -> None:
    """Every object, without an unknown field and without a warning."""
    items = objects(*settings, namespace=namespace)
    told = _dry_run(cluster, *items)
    assert told.count("serverside-applied (server dry run)") == len(items)
    assert "Warning" not in told


def test_the_namespace_of_the_plain_manifest_is_restricted(cluster: Cluster) -> None:
    """It is made by the manifest itself, before everything that is in it."""
    items = list(yaml.safe_load_all((DEPLOY / "pylot.yaml").read_text("utf-8")))
    first = next(item for item in items if item)
    assert first["kind"] == "Namespace"
    key, value = RESTRICTED.split("=")
    assert first["metadata"]["labels"][key] == value
    _dry_run(cluster, first)


def test_pods_keep_to_the_restricted_level(cluster: Cluster, namespace: str) -> None:
    """Control plane and gateway start where Pod Security demands the most; others do not."""
    cluster.kubectl("label", "namespace", namespace, RESTRICTED)
    made = pods(objects(namespace=namespace), namespace)
    assert len(made) == 2
    _dry_run(cluster, *made)
    made[0]["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    assert "violates PodSecurity" in _dry_run(cluster, made[0], check=False)


def test_everything_that_the_kind_script_applies_is_taken(
    cluster: Cluster, namespace: str, istio_crds: None
) -> None:
    """The definitions of the chart, the chart with its values, and Bookinfo."""
    cluster.kubectl(
        "apply", "--server-side", "--dry-run=server",
        "-f", str(DEPLOY / "chart" / "pylot" / "crds"),
    )  # fmt: skip
    _dry_run(cluster, *objects(namespace=namespace, values=VALUES))
    files = applied()
    assert len(files) == 4
    for path in files:
        cluster.kubectl(
            "apply", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", str(path)
        )


def test_an_upgrade_keeps_what_the_control_plane_wrote(cluster: Cluster, namespace: str) -> None:
    """The failurePolicy of validation: neither undone for a moment, nor a conflict."""

    def rendered() -> str:
        return run_helm(
            "template", "pylot", str(CHART), "--namespace", namespace,
            "--set", f"revision={namespace}", "--show-only", "templates/validatingwebhook.yaml",
            "--dry-run=server", "--kubeconfig", str(cluster.kubeconfig),
            "--kube-version", KUBERNETES,
        )  # fmt: skip

    first = rendered()
    (hook,) = yaml.safe_load(first)["webhooks"]
    assert hook["failurePolicy"] == "Ignore"
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=first)
    name = yaml.safe_load(first)["metadata"]["name"]
    try:
        cluster.kubectl(
            "patch", "validatingwebhookconfiguration", name, "--type=json",
            "--field-manager=pylot", "-p",
            '[{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Fail"}]',
        )  # fmt: skip
        again = rendered()
        assert yaml.safe_load(again)["webhooks"][0]["failurePolicy"] == "Fail"
        cluster.kubectl("apply", "--server-side", "-f", "-", stdin=again)
    finally:
        cluster.kubectl("delete", "validatingwebhookconfiguration", name)


def _eventually(what: Callable[[], Any], told: Callable[[], str]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < deadline, told()
        time.sleep(0.1)


def _get(url: str, token: str = "") -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=5
        ) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


class _Serve:
    """`pylot serve` as the chart's account, outside of the cluster."""

    def __init__(self, cluster: Cluster, account: str, directory: Path) -> None:
        self.http, self.monitoring, self.grpc, self.https = free_ports(4)
        self._log = directory / "serve.log"
        kubeconfig = cluster.kubeconfig_for(
            f"system:serviceaccount:{ROOT}:{account}",
            "system:serviceaccounts",
            f"system:serviceaccounts:{ROOT}",
        )
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "controlplane", "serve",
                    f"--kubeconfig={kubeconfig}", "--kubernetes",
                    f"--root-namespace={ROOT}",
                    f"--http-addr=127.0.0.1:{self.http}",
                    f"--monitoring-addr=127.0.0.1:{self.monitoring}",
                    f"--grpc-addr=127.0.0.1:{self.grpc}",
                    f"--https-addr=127.0.0.1:{self.https}",
                    "--secure-grpc-addr=",
                    "--shutdown-duration=1s",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "POD_NAME": "istiod-0"},
            )  # fmt: skip

    def log(self) -> str:
        """What it has written."""
        return self._log.read_text(errors="replace")


@contextlib.contextmanager
def _serving(cluster: Cluster, account: str, directory: Path) -> Iterator[_Serve]:
    serve = _Serve(cluster, account, directory)
    try:
        yield serve
    finally:
        if serve.process.poll() is None:
            serve.process.kill()
        serve.process.wait(timeout=20)


def _read(cluster: Cluster, *what: str) -> Any:
    done = cluster.kubectl("get", *what, "-o", "json", "--ignore-not-found")
    return json.loads(done.stdout) if done.stdout else None


def test_the_rights_of_the_chart_are_enough(own_cluster: Cluster, tmp_path: Path) -> None:
    """As that account it watches, leads, patches the webhooks and writes status: nothing of it is
    forbidden. SIGTERM ends it in time, and gives the Leases away."""
    cluster = own_cluster
    cluster.kubectl("create", "namespace", ROOT)
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=as_yaml(definitions()))
    items = [item for item in objects() if item["kind"] not in ("Deployment",)]
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(items))
    cluster.kubectl("create", "namespace", "shop")
    cluster.apply(
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {
                "hosts": ["web"],
                "http": [{"route": [{"destination": {"host": "nobody"}}]}],
            },
        }
    )
    account = find(items, "ServiceAccount", "istiod")["metadata"]["name"]
    with _serving(cluster, account, tmp_path) as serve:
        ready = f"http://127.0.0.1:{serve.http}/ready"
        _eventually(lambda: _get(ready)[0] == 200, lambda: f"{_get(ready)} {serve.log()[-3000:]}")
        assert "warning" not in _get(ready)[1]
        container = find(objects(), "Deployment", "istiod")["spec"]["template"]["spec"][
            "containers"
        ][0]
        # An open port tells nothing: the kernel takes connections for a loop that hangs.
        alive = container["livenessProbe"]["httpGet"]
        assert alive["port"] == "http-monitoring"
        assert _get(f"http://127.0.0.1:{serve.monitoring}{alive['path']}")[0] == 200
        for lease in (STATUS_LEASE, LEASE):
            _eventually(partial(_holder, cluster, lease), serve.log)
        assert _eventually(lambda: _read(cluster, "secret", "-n", ROOT, secret_name("")), serve.log)
        for kind in ("mutatingwebhookconfiguration", "validatingwebhookconfiguration"):
            _eventually(partial(_trusted, cluster, kind), serve.log)
        _eventually(
            lambda: "status" in _read(cluster, "virtualservice", "-n", "shop", "web"), serve.log
        )
        token = cluster.kubectl("create", "token", "-n", ROOT, account).stdout.strip()
        mesh = f"http://127.0.0.1:{serve.monitoring}/debug/mesh"
        assert _get(mesh, token)[0] == 200
        began = time.monotonic()
        serve.process.send_signal(signal.SIGTERM)
        assert serve.process.wait(timeout=30) == 0, serve.log()[-3000:]
        assert time.monotonic() - began < 20
        log = serve.log()
    assert "forbidden" not in log.lower(), log[-3000:]
    assert "Traceback" not in log, log[-3000:]
    for lease in (STATUS_LEASE, LEASE):
        assert not _holder(cluster, lease)


def _holder(cluster: Cluster, lease: str) -> str:
    found = _read(cluster, "lease", "-n", ROOT, lease) or {}
    return str(found.get("spec", {}).get("holderIdentity") or "")


def _trusted(cluster: Cluster, kind: str) -> bool:
    hooks = [hook for item in _read(cluster, kind)["items"] for hook in item["webhooks"]]
    assert hooks
    return all(
        b"BEGIN CERTIFICATE" in base64.b64decode(hook["clientConfig"].get("caBundle", ""))
        for hook in hooks
    )

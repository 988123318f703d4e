"""`pylot serve` as the API server meets it: a certificate and templates out of files, replaced."""

from __future__ import annotations

import base64
import json
import os
import selectors
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.inject.certificate import Authority, ServingCertificate

NAME = "istiod.istio-system.svc"
LONGEST = 30.0  # seconds for anything here, on a busy machine
NAMESPACE = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
"""


class Serve:
    """A running `pylot serve` with a webhook on a port that the system chose."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.address = self.wait_for("app.listening", name="https")["address"]

    def wait_for(self, event: str, **fields: Any) -> dict[str, Any]:
        """Return the first line of the log with this event and these fields."""
        assert self.process.stderr is not None
        end = time.monotonic() + LONGEST
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stderr, selectors.EVENT_READ)
            while time.monotonic() < end:
                for line in self.lines:
                    if line["event"] == event and fields.items() <= line.items():
                        return line
                if selector.select(timeout=0.2):
                    text = self.process.stderr.readline()
                    assert text, f"serve ended; it said {self.lines}"
                    self.lines.append(json.loads(text))
        raise AssertionError(f"no {event} {fields} in {self.lines}")

    def image_of_the_proxy(self, trusted: bytes) -> str:
        """Ask for the injection of a pod, trusting this authority; returns the proxy's image."""
        return str(self.proxy(trusted)["image"])

    def proxy(self, trusted: bytes) -> dict[str, Any]:
        """Ask for the injection of a pod, trusting this authority; returns its istio-proxy."""
        asked = {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "u",
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "namespace": "shop",
                "object": {"spec": {"containers": [{"name": "app", "image": "x"}]}},
            },
        }
        context = ssl.create_default_context(cadata=trusted.decode())
        context.check_hostname = False  # the certificate names a service, this is an address
        request = urllib.request.Request(
            f"https://{self.address}/inject",
            json.dumps(asked).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=LONGEST, context=context) as answer:
            response = json.loads(answer.read())["response"]
        assert response["allowed"], response
        patch = json.loads(base64.b64decode(response["patch"]))
        found: dict[str, Any]
        (found,) = (
            one
            for change in patch
            for one in (change["value"] if isinstance(change.get("value"), list) else ())
            if isinstance(one, dict) and one.get("name") == "istio-proxy"
        )
        return found


def write(directory: Path, certificate: ServingCertificate) -> None:
    """Replace the certificate's files, one after the other as a mounted Secret never would."""
    for name, data in (
        ("tls.crt", certificate.chain),
        ("tls.key", certificate.key),
        ("ca.crt", certificate.authority),
    ):
        (directory / name).write_bytes(data)


@pytest.fixture
def authority() -> Authority:
    """Return somebody else's authority."""
    return Authority()


@pytest.fixture
def serve(tmp_path: Path, authority: Authority) -> Iterator[Serve]:
    """Run `pylot serve` with everything of the webhook in files."""
    write(tmp_path, authority.issue((NAME,)))
    (tmp_path / "values.yaml").write_text("global: {hub: first}")
    objects = tmp_path / "objects"
    objects.mkdir()
    (objects / "namespace.yaml").write_text(NAMESPACE)
    command = [sys.executable, "-m", "controlplane", "serve", "--no-kubernetes"]
    command += ["--config-dir", str(objects), "--log-format", "json"]
    command += ["--https-addr", "127.0.0.1:0", "--cluster-id", "west", "--domain", "west.local"]
    for other in ("grpc", "secure-grpc", "http", "monitoring"):
        command += [f"--{other}-addr", ""]
    for flag, file in (
        ("--tls-cert-file", "tls.crt"),
        ("--tls-key-file", "tls.key"),
        ("--ca-cert-file", "ca.crt"),
        ("--inject-values", "values.yaml"),
    ):
        command += [flag, str(tmp_path / file)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, bufsize=0, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    try:
        serve = Serve(process)
        serve.wait_for("app.snapshot")
        yield serve
    finally:
        process.terminate()
        process.wait(LONGEST)
        assert process.stderr is not None
        process.stderr.close()


def test_the_webhook_follows_its_files(serve: Serve, tmp_path: Path, authority: Authority) -> None:
    first = authority.certificate
    proxy = serve.proxy(first)
    assert proxy["image"].startswith("first/proxy:")
    # What the control plane is told of the cluster, its pods are told too.
    assert "$(POD_NAMESPACE).svc.west.local" in proxy["args"]
    assert {"name": "ISTIO_META_CLUSTER_ID", "value": "west"} in proxy["env"]

    (tmp_path / "values.yaml").write_text("global: {hub: second}")
    assert serve.image_of_the_proxy(first).startswith("second/proxy:")

    (tmp_path / "values.yaml").write_text("global: [")
    assert serve.image_of_the_proxy(first).startswith("second/proxy:")
    assert "values.yaml:" in serve.wait_for("inject_config_refused")["reason"]

    other = Authority()
    write(tmp_path, other.issue((NAME,)))
    serve.wait_for("webhook_certificate_renewed")
    assert serve.image_of_the_proxy(other.certificate).startswith("second/proxy:")

    (tmp_path / "tls.key").write_bytes(b"no key")
    assert "tls.key" in serve.wait_for("webhook_certificate_unreadable")["reason"]
    assert serve.image_of_the_proxy(other.certificate).startswith("second/proxy:")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--tls-cert-file", "FILE"], "--tls-cert-file and --tls-key-file belong together"),
        (["--ca-cert-file", "FILE"], "--ca-cert-file says who signed --tls-cert-file"),
        (["--tls-key-file", "/none"], "--tls-key-file"),
        (
            ["--leader-elect-renew-deadline", "20s"],
            "--leader-elect-lease-duration has to be longer",
        ),
    ],
)
def test_flags_that_do_not_fit_are_wrong_usage(
    tmp_path: Path, flags: list[str], sentence: str
) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    command = [sys.executable, "-m", "controlplane", "serve", "--config-dir", str(tmp_path)]
    found = subprocess.run(
        [*command, *(str(file) if flag == "FILE" else flag for flag in flags)],
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    assert found.returncode == 2, found.stderr
    assert sentence in found.stderr
    assert "Traceback" not in found.stderr

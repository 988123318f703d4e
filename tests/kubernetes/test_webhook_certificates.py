"""The API server trusts the webhooks of `pylot serve`, whatever happens to the Secret."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509

from controlplane.inject.certificate import AUTHORITY_LIFE, LIFE, Authority, now, serving_names
from controlplane.leader.shared_certificate import OVERLAP, Shared, to_data
from controlplane.leader.webhooks import EVERY
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.replica import PATIENCE, Replica, running_replica

pytestmark = pytest.mark.kubernetes

SECRET: Final = "pylot-webhook-tls"
TIMING: Final = (
    "--leader-elect-lease-duration=6s",
    "--leader-elect-renew-deadline=4s",
    "--leader-elect-retry-period=0.5s",
)


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait until something is true, and return it."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.1)
    return found


def own_address() -> str:
    """An address of this machine that an EndpointSlice may hold, which loopback's may not be.

    What is sent to it does not leave the machine.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))  # sends nothing: it only looks for a route
        except OSError:
            pytest.skip("this machine has no address beside loopback")
        return str(probe.getsockname()[0])


def service(namespace: str, address: str, port: int) -> list[dict[str, Any]]:
    """The Service of the webhooks, whose endpoint is a process on this machine."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "istiod", "namespace": namespace},
            "spec": {"ports": [{"name": "https-webhook", "port": 443}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "istiod",
                "namespace": namespace,
                "labels": {"kubernetes.io/service-name": "istiod"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
            "ports": [{"name": "https-webhook", "port": port}],
        },
    ]


def configuration(kind: str, namespace: str, path: str, webhook: dict[str, Any]) -> dict[str, Any]:
    """A configuration as a chart has it: without an authority."""
    service = {"namespace": namespace, "name": "istiod", "path": path}
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": f"test-{namespace}", "labels": {"istio.io/rev": "default"}},
        "webhooks": [
            {
                "clientConfig": {"service": service},
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "timeoutSeconds": 5,
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            }
            | webhook
        ],
    }


def rule(group: str, resource: str) -> dict[str, Any]:
    return {
        "operations": ["CREATE"],
        "apiGroups": [group],
        "apiVersions": ["*"],
        "resources": [resource],
    }


def injector(namespace: str) -> dict[str, Any]:
    """The injector, without which no pod is created."""
    webhook = {
        "name": "namespace.sidecar-injector.istio.io",
        "failurePolicy": "Fail",
        "rules": [rule("", "pods")],
    }
    return configuration("MutatingWebhookConfiguration", namespace, "/inject", webhook)


def validator(namespace: str) -> dict[str, Any]:
    """The validation, which begins with being ignored when it does not answer."""
    webhook = {
        "name": "rev.validation.istio.io",
        "failurePolicy": "Ignore",
        "rules": [rule("networking.istio.io", "*")],
    }
    return configuration("ValidatingWebhookConfiguration", namespace, "/validate", webhook)


class Clock:
    """A clock that a test sets."""

    def __init__(self, time: datetime) -> None:
        self.time = time

    def __call__(self) -> datetime:
        return self.time


class Mesh:
    """One root namespace, which is also the one with the pods."""

    replica: Replica  # the one that the API server asks

    def __init__(self, cluster: Cluster, namespace: str, address: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self._address = address
        self._numbers = iter(range(1000))

    @contextlib.contextmanager
    def replicate(self, directory: Path, name: str) -> Iterator[None]:
        """Run a replica, and let it be the one that the API server asks."""
        with running_replica(
            self.cluster,
            directory,
            name,
            *TIMING,
            root_namespace=self.namespace,
            https_host=self._address,
        ) as self.replica:
            self.replica.wait_for("app.snapshot")
            self.answers_at(self.replica.port("https"))
            yield

    def answers_at(self, port: int) -> None:
        """Let the webhooks' Service lead to a port of this machine."""
        self.cluster.apply(*service(self.namespace, self._address, port))

    def inject(self) -> bool:
        """Try to create a pod; return whether it was injected, False when it was refused."""
        name = f"pod-{next(self._numbers)}"
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "serviceAccountName": "default",
                "containers": [{"name": "app", "image": "x"}],
            },
        }
        done = self.cluster.kubectl(
            "create", "-f", "-", "-o", "json", stdin=json.dumps(pod), check=False
        )
        if done.returncode != 0:
            assert "failed calling webhook" in done.stderr, done.stderr
            return False
        spec = json.loads(done.stdout)["spec"]
        names = {item["name"] for item in (*spec["containers"], *spec["initContainers"])}
        assert "istio-proxy" in names, names
        return True

    def secret(self) -> dict[str, Any]:
        found = self.cluster.kubectl(
            "get", "secret", "-n", self.namespace, SECRET, "-o", "json", check=False
        )
        return dict(json.loads(found.stdout)) if found.returncode == 0 else {}

    def bundle(self) -> str:
        """The authority that the API server trusts, as the configuration has it."""
        found = self.cluster.kubectl(
            "get", "mutatingwebhookconfiguration", f"test-{self.namespace}", "-o", "json"
        )
        client = json.loads(found.stdout)["webhooks"][0]["clientConfig"]
        return str(client.get("caBundle", ""))

    def authorities(self) -> list[x509.Certificate]:
        return x509.load_pem_x509_certificates(base64.b64decode(self.bundle()))

    def put(self, shared: Shared) -> None:
        """Let the Secret hold something else."""
        self.cluster.kubectl(
            "patch", "secret", "-n", self.namespace, SECRET, "--type=merge",
            "-p", json.dumps({"data": to_data(shared)}),
        )  # fmt: skip

    def is_signed_by(self, authority: Authority) -> bool:
        """Whether the replica serves with a certificate of that authority."""
        context = ssl.create_default_context(cadata=authority.certificate.decode())
        address = (self._address, self.replica.port("https"))
        name = f"istiod.{self.namespace}.svc"
        try:
            with (
                socket.create_connection(address, timeout=PATIENCE) as plain,
                context.wrap_socket(plain, server_hostname=name),
            ):
                return True
        except ssl.SSLCertVerificationError:
            return False


@pytest.fixture
def mesh(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[Mesh]:
    """A replica whose injector the API server asks for every pod of the namespace."""
    cluster.kubectl("label", "namespace", namespace, "istio-injection=enabled")
    mesh = Mesh(cluster, namespace, own_address())
    with mesh.replicate(tmp_path, "istiod-1"):
        cluster.apply(injector(namespace))
        try:
            yield mesh
        finally:
            cluster.kubectl("delete", "mutatingwebhookconfiguration", f"test-{namespace}")


def test_pods_are_injected_whatever_happens_to_secret_and_configuration(
    mesh: Mesh, tmp_path: Path
) -> None:
    """With `failurePolicy: Fail`, so that every moment without trust is a refused pod."""
    until(mesh.inject, "the API server trusts the webhook")
    assert mesh.bundle() == mesh.secret()["data"]["ca.crt"]
    assert mesh.secret()["type"] == "kubernetes.io/tls"

    before = mesh.secret()
    mesh.cluster.kubectl("delete", "secret", "-n", mesh.namespace, SECRET)
    after = until(mesh.secret, "the Secret is made again")
    assert after["data"] == before["data"], "nothing that trusts it has to change"
    assert mesh.inject()

    mesh.cluster.kubectl(
        "patch", "mutatingwebhookconfiguration", f"test-{mesh.namespace}", "--type=json",
        "-p", '[{"op":"remove","path":"/webhooks/0/clientConfig/caBundle"}]',
    )  # fmt: skip
    until(mesh.bundle, "the configuration is mended")
    until(mesh.inject, "the API server trusts the webhook again")

    first = mesh.replica
    with mesh.replicate(tmp_path, "istiod-2"):
        first.end()
        until(mesh.inject, "another replica has the same certificate")
        assert mesh.secret()["data"] == before["data"]


def test_an_authority_that_ends_is_replaced_while_pods_are_injected(mesh: Mesh) -> None:
    """A new one joins the old one, and signs what is served when everybody trusts it."""
    until(mesh.inject, "the API server trusts the webhook")
    clock = Clock(now() - AUTHORITY_LIFE + 1.5 * LIFE)
    old = Authority(clock)
    clock.time = now()
    leaf = old.issue(serving_names(mesh.namespace))
    mesh.put(Shared(chain=leaf.chain, key=leaf.key, bundle=old.certificate, signer=old.key))
    until(lambda: len(mesh.authorities()) == 2, "a second authority is trusted")
    assert mesh.authorities()[1] == x509.load_pem_x509_certificate(old.certificate)
    until(mesh.inject, "the API server trusts the old one of the two")
    assert mesh.secret()["data"]["tls.crt"] == base64.b64encode(leaf.chain).decode()

    clock.time = now() - 2 * OVERLAP
    new = Authority(clock)
    mesh.put(
        Shared(
            chain=leaf.chain,
            key=leaf.key,
            bundle=new.certificate + old.certificate,
            signer=new.key,
        )
    )
    until(lambda: mesh.is_signed_by(new), "the new one signs what is served")
    until(mesh.inject, "the API server trusts the new one of the two")
    assert len(mesh.authorities()) == 2


def test_a_secret_that_somebody_spoilt_is_replaced_by_what_is_served(mesh: Mesh) -> None:
    until(mesh.inject, "the API server trusts the webhook")
    good = mesh.secret()["data"]
    spoilt = {"data": {"tls.key": base64.b64encode(b"no key").decode()}}
    mesh.cluster.kubectl(
        "patch", "secret", "-n", mesh.namespace, SECRET, "--type=merge", "-p", json.dumps(spoilt)
    )
    mesh.replica.wait_for("webhooks.secret_unusable")
    until(lambda: mesh.secret()["data"] == good, "the Secret is mended")
    assert mesh.inject()


@pytest.mark.usefixtures("istio_crds")
def test_validation_is_enforced_as_soon_as_it_answers(mesh: Mesh) -> None:
    name = f"test-{mesh.namespace}"

    def policy() -> str:
        return mesh.cluster.kubectl(
            "get", "validatingwebhookconfiguration", name,
            "-o", "jsonpath={.webhooks[0].failurePolicy}",
        ).stdout  # fmt: skip

    def trusted() -> str:
        return mesh.cluster.kubectl(
            "get", "validatingwebhookconfiguration", name,
            "-o", "jsonpath={.webhooks[0].clientConfig.caBundle}",
        ).stdout  # fmt: skip

    mesh.answers_at(1)
    mesh.cluster.apply(validator(mesh.namespace))
    try:
        until(trusted, "the authority is published")
        time.sleep(2 * EVERY)
        assert policy() == "Ignore", "a webhook that does not answer must not stop everybody"
        mesh.answers_at(mesh.replica.port("https"))
        until(lambda: policy() == "Fail", "the webhook is enforced")
        found = mesh.cluster.kubectl("get", "gateway.networking.istio.io", "-A", "-o", "name")
        assert "probe" not in found.stdout
    finally:
        mesh.cluster.kubectl("delete", "validatingwebhookconfiguration", name)

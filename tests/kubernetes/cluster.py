"""A cluster of tests: etcd and kube-apiserver, with certificates and RBAC of their own.

Owns the processes and the kubeconfigs. Neither kubelet nor, unless a test starts them, controllers
run: what these would write (Pods' status, EndpointSlices, service accounts), tests write
themselves. The rule that is easy to break: a restart keeps ports and data, so that a client sees
the same server again.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from controlplane.agent.processes import namespace_prefix
from controlplane.demo.visitor import Visitor
from tests.envoy.harness import free_ports
from tests.kubernetes.binaries import (
    Binaries,
    find_binaries,
    missing_binaries,
    missing_controller_manager,
)
from tests.kubernetes.certificates import Certificates, kubeconfig

_HOST: Final = "127.0.0.1"
_PATIENCE: Final = 90.0  # seconds; four is usual on an idle machine
_PAUSE: Final = 0.1
_ISSUER: Final = "https://kubernetes.default.svc.cluster.local"
# Those without which a Deployment does not become Pods and endpoints, and what is deleted stays.
_CONTROLLERS: Final = (
    "deployment-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "replicaset-controller",
    "serviceaccount-controller",
)


class Cluster:
    """A running API server; `kubeconfig` is that of its administrator."""

    def __init__(self, binaries: Binaries, directory: Path, *, network_namespace: str = "") -> None:
        """Nothing is started yet; everything will run in that namespace of `ip netns`."""
        self._binaries = binaries
        self._prefix = namespace_prefix(network_namespace)
        self._visitor = Visitor(network_namespace) if network_namespace else None
        self._directory = directory
        self._certificates = Certificates(directory)
        self._server = self._certificates.server("kube-apiserver", _HOST, "localhost")
        self._accounts = self._certificates.key_pair("service-accounts")
        self._etcd_port, self._etcd_peer, self.port = free_ports(3)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.kubeconfig: Final = self.kubeconfig_for("admin", "system:masters")

    @property
    def url(self) -> str:
        """The address of the API server."""
        return f"https://{_HOST}:{self.port}"

    def start(self) -> None:
        """Start both processes, and wait until the API server is ready."""
        self.start_etcd()
        self.start_api_server()

    def stop(self) -> None:
        """End all processes."""
        self._end("kube-controller-manager")
        self.stop_api_server()
        self._end("etcd")
        if self._visitor is not None:
            self._visitor.close()

    def start_etcd(self) -> None:
        """Start etcd on the data that it had."""
        client = f"http://{_HOST}:{self._etcd_port}"
        peer = f"http://{_HOST}:{self._etcd_peer}"
        self._start(
            "etcd",
            self._binaries.etcd,
            f"--data-dir={self._directory / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",  # the data live no longer than the tests
            "--logger=zap",
            "--log-level=warn",
        )
        self._wait("etcd", f"{client}/health")

    def start_api_server(self) -> None:
        """Start the API server, and wait until it is ready."""
        self._start(
            "kube-apiserver",
            self._binaries.api_server,
            f"--etcd-servers=http://{_HOST}:{self._etcd_port}",
            f"--bind-address={_HOST}",
            f"--advertise-address={_HOST}",
            f"--secure-port={self.port}",
            f"--cert-dir={self._directory}",
            f"--tls-cert-file={self._server.certificate}",
            f"--tls-private-key-file={self._server.key}",
            f"--client-ca-file={self._certificates.authority}",
            f"--service-account-issuer={_ISSUER}",
            f"--service-account-key-file={self._accounts.certificate}",
            f"--service-account-signing-key-file={self._accounts.key}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=RBAC",
            "--allow-privileged=true",
            # Nothing makes the service account `default` of a namespace here.
            "--disable-admission-plugins=ServiceAccount",
            "--endpoint-reconciler-type=none",
            "--etcd-compaction-interval=0",  # tests compact themselves
            "--shutdown-delay-duration=0s",
            # There is no kube-proxy: webhooks are called at the endpoints of their services.
            "--enable-aggregator-routing=true",
        )
        self._wait("kube-apiserver", f"{self.url}/readyz")

    def start_controller_manager(self) -> None:
        """Start the controllers of Deployments, EndpointSlices and what these need.

        What they make may come some seconds later. Raises AssertionError when there is no such
        program.
        """
        program = self._binaries.controller_manager
        assert program is not None, missing_controller_manager()
        kubeconfig = self.kubeconfig_for("system:kube-controller-manager")
        (port,) = free_ports(1)
        self._start(
            "kube-controller-manager",
            program,
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            f"--bind-address={_HOST}",
            f"--secure-port={port}",
            f"--cert-dir={self._directory / 'kube-controller-manager'}",
            f"--controllers={','.join(_CONTROLLERS)}",
            "--use-service-account-credentials=true",  # each with the rights of its own account
            "--leader-elect=false",
        )

    def stop_api_server(self, *, kill: bool = False) -> None:
        """End the API server; its data stay."""
        self._end("kube-apiserver", signal.SIGKILL if kill else signal.SIGTERM)

    def restart_api_server(self, *, kill: bool = False) -> None:
        """End the API server, and start it again at the same address."""
        self.stop_api_server(kill=kill)
        self.start_api_server()

    def compact(self) -> int:
        """Forget the history of etcd, as its compaction does; return the revision kept."""
        status = self._etcd("maintenance/status", {})
        revision = int(status["header"]["revision"])
        self._etcd("kv/compaction", {"revision": str(revision), "physical": True})
        return revision

    def kubeconfig_for(self, user: str, *groups: str) -> Path:
        """Return a kubeconfig with which a client is that user."""
        pair = self._certificates.user(user, *groups)
        path = self._directory / f"{user.replace(':', '-')}.kubeconfig"
        path.write_text(kubeconfig(self.url, self._certificates.authority, user, pair))
        return path

    def kubectl(
        self,
        *arguments: str,
        stdin: str | None = None,
        kubeconfig: Path | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl to its end; raises AssertionError with its words when it fails."""
        done = subprocess.run(
            [
                *self._prefix,
                self._binaries.kubectl,
                f"--kubeconfig={kubeconfig or self.kubeconfig}",
                *arguments,
            ],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "HOME": str(self._directory)},  # where it caches the discovery
        )
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply objects as the administrator."""
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def log(self, name: str) -> str:
        """What one of the programs has written."""
        return (self._directory / f"{name}.log").read_text(errors="replace")

    def _start(self, name: str, program: Path, *arguments: str) -> None:
        with (self._directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*self._prefix, program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _end(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=20)

    def _wait(self, name: str, url: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                with self._open(url):
                    return
            except OSError as error:  # a URLError is one
                last = str(error)
                if isinstance(error, urllib.error.HTTPError):
                    error.close()
            status = self._processes[name].poll()
            if status is not None:
                raise AssertionError(f"{name} ended with {status}: {self.log(name)[-3000:]}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{name} is not ready: {last}; {self.log(name)[-3000:]}")
            time.sleep(_PAUSE)

    def client_tls(self) -> ssl.SSLContext:
        """How the administrator speaks TLS with the API server."""
        context = ssl.create_default_context(cafile=str(self._certificates.authority))
        admin = self._directory / "admin"
        context.load_cert_chain(admin.with_suffix(".crt"), admin.with_suffix(".key"))
        return context

    def _open(self, url: str) -> contextlib.AbstractContextManager[Any]:
        context = self.client_tls() if url.startswith("https:") else None
        return contextlib.closing(self._ask(url, timeout=5, context=context))

    def _ask(self, request: str | urllib.request.Request, **settings: Any) -> Any:
        ask = functools.partial(urllib.request.urlopen, request, **settings)
        return ask() if self._visitor is None else self._visitor.do(ask)

    def _etcd(self, method: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"http://{_HOST}:{self._etcd_port}/v3/{method}", data=json.dumps(body).encode()
        )
        with self._ask(request, timeout=20) as answer:
            return json.load(answer)


@contextlib.contextmanager
def running_cluster(*, network_namespace: str = "") -> Iterator[Cluster]:
    """Run a cluster of one's own; nothing of it is left behind."""
    binaries = find_binaries()
    assert binaries is not None, missing_binaries()
    with tempfile.TemporaryDirectory(prefix="pylot-cluster-") as directory:
        cluster = Cluster(binaries, Path(directory), network_namespace=network_namespace)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()

"""A real API server asks `/validate` before it stores an object."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
import yaml
from aiohttp import web

from controlplane.admission.http import make_admission_app
from controlplane.admission.webhook import add_validation
from controlplane.debug.metrics import Metrics
from controlplane.inject.certificate import Authority, ssl_context
from controlplane.model.kinds import EXTENSIONS, NETWORKING, SECURITY, TELEMETRY
from tests.kubernetes.cluster import Cluster

pytestmark = [pytest.mark.kubernetes, pytest.mark.usefixtures("istio_crds")]

GROUPS = [EXTENSIONS, NETWORKING, SECURITY, TELEMETRY]


def _configuration(name: str, namespace: str, port: int, authority: bytes) -> dict[str, Any]:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": "validation.istio.io",
                "clientConfig": {
                    "url": f"https://127.0.0.1:{port}/validate",
                    "caBundle": base64.b64encode(authority).decode(),
                },
                "rules": [
                    {
                        "operations": ["CREATE", "UPDATE"],
                        "apiGroups": GROUPS,
                        "apiVersions": ["*"],
                        "resources": ["*"],
                    }
                ],
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            }
        ],
    }


async def _serve(context: ssl.SSLContext) -> tuple[web.AppRunner, int]:
    app = make_admission_app()
    add_validation(app, revision="default", metrics=Metrics(version="test"))
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    return runner, runner.addresses[0][1]


@pytest.fixture
async def watched(cluster: Cluster, namespace: str) -> AsyncIterator[str]:
    """A namespace whose objects are validated."""
    authority = Authority()
    runner, port = await _serve(ssl_context(authority.issue(("127.0.0.1",))))
    name = f"validation-{namespace}"
    try:
        cluster.apply(_configuration(name, namespace, port, authority.certificate))
        # The API server reads its webhooks again after a moment: a bad object tells when.
        async with asyncio.timeout(40):
            probe = _bad("probe")
            while not (await _apply(cluster, namespace, probe, dry_run=True)).returncode:
                pass
        yield namespace
    finally:
        cluster.kubectl("delete", "validatingwebhookconfiguration", name, "--ignore-not-found")
        await runner.cleanup()


async def _apply(
    cluster: Cluster, namespace: str, *objects: dict[str, Any], dry_run: bool = False
) -> Any:
    """Apply in a thread: the webhook answers on this one."""
    flags = ["--dry-run=server"] if dry_run else []
    return await asyncio.to_thread(
        cluster.kubectl, "apply", "-n", namespace, *flags, "-f", "-",
        stdin=yaml.safe_dump_all(objects), check=False,
    )  # fmt: skip


def _virtual_service(name: str, **spec: Any) -> dict[str, Any]:
    route = {"route": [{"destination": {"host": "web"}}]}
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": name},
        "spec": {"hosts": ["web"], "http": [route], **spec},
    }


def _bad(name: str) -> dict[str, Any]:
    return _virtual_service(name, hosts=["a..b"])


async def test_the_user_reads_what_is_wrong(cluster: Cluster, watched: str) -> None:
    """The sentence of `pylot validate`, through kubectl; nothing is stored."""
    done = await _apply(cluster, watched, _bad("bad"))
    assert done.returncode != 0
    assert (
        f"VirtualService {watched}/bad: spec.hosts[0]: 'a..b' is not a valid host name"
        in done.stderr
    )
    read = await asyncio.to_thread(cluster.kubectl, "get", "vs", "bad", "-n", watched, check=False)
    assert "NotFound" in read.stderr


async def test_good_objects_and_those_of_other_revisions_pass(
    cluster: Cluster, watched: str
) -> None:
    """In any version of the API, and also when somebody writes a status or deletes them."""
    old = {**_virtual_service("old"), "apiVersion": "networking.istio.io/v1alpha3"}
    other = _bad("other")
    other["metadata"]["labels"] = {"istio.io/rev": "canary"}
    done = await _apply(cluster, watched, _virtual_service("good"), old, other)
    assert done.returncode == 0, done.stderr
    status = json.dumps({"status": {"observedGeneration": 1}})
    for arguments in (
        ("patch", "vs", "other", "--subresource=status", "--type=merge", "-p", status),
        ("delete", "vs", "other", "good", "old"),
    ):
        await asyncio.to_thread(cluster.kubectl, *arguments, "-n", watched)


async def test_warnings_reach_the_user(cluster: Cluster, watched: str) -> None:
    """For fields that are deprecated or without effect."""
    rule = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "web"},
        "spec": {"host": "web", "trafficPolicy": {"loadBalancer": {"simple": "LEAST_CONN"}}},
    }
    done = await _apply(cluster, watched, rule)
    assert done.returncode == 0, done.stderr
    assert "Warning: DestinationRule" in done.stderr
    assert "LEAST_CONN is deprecated" in done.stderr


async def test_large_objects_are_answered_in_time(cluster: Cluster, watched: str) -> None:
    """10,000 hosts, 100 kB in one annotation: taken; a pattern of 100 kB: refused."""
    hosts = _virtual_service("hosts", hosts=[f"h{i}.example.com" for i in range(10_000)])
    noted = _virtual_service("noted")
    noted["metadata"]["annotations"] = {"note": "x" * 100_000}
    done = await _apply(cluster, watched, hosts, noted, dry_run=True)
    assert done.returncode == 0, done.stderr
    match = {"uri": {"regex": "(a+)+" * 20_000}}
    route = {"match": [match], "route": [{"destination": {"host": "web"}}]}
    refused = await _apply(cluster, watched, _virtual_service("re", http=[route]), dry_run=True)
    assert "longer than 1024 characters" in refused.stderr

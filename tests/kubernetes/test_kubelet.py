"""The kubelet of the tests itself: what a pod of the API server becomes, and what is said of it."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from controlplane.agent.bootstrap import SocketAddress
from controlplane.demo.namespaces import NAMES
from controlplane.demo.pods import get
from tests.envoy.harness import eventually
from tests.kubernetes.node_bed import NodeBed, node_bed
from tests.kubernetes.objects import application

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.controllers,
    pytest.mark.netns,
    pytest.mark.asyncio(loop_scope="module"),
]

SERVICE: Final = "kubernetes.io/service-name=details"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bed() -> AsyncIterator[NodeBed]:
    """A cluster without a mesh, where details run behind a Service."""
    async with node_bed(control_plane=False) as bed:
        await bed.apply(*objects())
        await ready_pod(bed)
        yield bed


def objects() -> tuple[dict[str, Any], ...]:
    """A Deployment of details with all that a kubelet has to resolve, and its Service."""
    container = {
        "name": "details",
        "image": "pylot/examples-bookinfo-details-v1:1.0",
        "args": ["--instance", "$(NAME) on $(NODE) of $(TEAM) with $(CPUS)", "--port", "$(PORT)"],
        "env": [
            {"name": "PORT", "value": "9080"},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "TEAM", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "CPUS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        ],
        "ports": [{"name": "http", "containerPort": 9080}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1},
        "resources": {"limits": {"cpu": "1500m"}},
        "securityContext": {
            "runAsUser": 1000,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "info", "mountPath": "/etc/pod"},
            {"name": "own", "mountPath": "/own"},
        ],
    }
    labels = {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}
    volumes = [
        {"name": "info", "downwardAPI": {"items": [labels]}},
        {"name": "own", "emptyDir": {}},
    ]
    spec = {"containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 5}
    return application("details", spec, port=9080)


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """What is said of the containers of a pod."""
    return list(pod["status"].get("containerStatuses") or ())


async def ready_pod(bed: NodeBed, *, after: str = "", restarts: int = 0) -> dict[str, Any]:
    """Wait for the one pod, another one than `after`, to be ready in its endpoints."""

    async def look() -> list[dict[str, Any]]:
        pods = [
            pod
            for pod in await bed.objects("pods", "-n", "default")
            if pod["metadata"]["name"] != after
            and [one["ready"] for one in containers(pod)] == [True]
            and containers(pod)[0]["restartCount"] >= restarts
        ]
        slices = await bed.objects("endpointslices", "-n", "default", "-l", SERVICE)
        ready = [
            address
            for each in slices
            for endpoint in each["endpoints"] or ()
            if endpoint["conditions"]["ready"]
            for address in endpoint["addresses"]
        ]
        return pods if ready == [pod["status"]["podIP"] for pod in pods] else []

    found = await eventually(look, lambda pods: len(pods) == 1, seconds=30, what="one ready pod")
    return found[0]


async def test_a_pod_runs_as_its_spec_says(bed: NodeBed) -> None:
    pod = await ready_pod(bed)
    address = SocketAddress(host=pod["status"]["podIP"], port=9080)
    status, text = await get(bed.node, address, "/details/0")
    assert status == 200
    assert "William Shakespeare" in text
    worker = bed.kubelet.worker(pod["metadata"]["name"])
    child = worker.lives[0].child
    assert child is not None
    check_process(child.pid, f"{pod['metadata']['name']} on node-a of details with 2")


def check_process(pid: int, argument: str) -> None:
    """Fail unless the process is what the container says."""
    process = Path(f"/proc/{pid}")
    assert argument in (process / "cmdline").read_text().split("\0")
    lines = (process / "status").read_text().splitlines()
    state = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    assert state["Uid"].split() == ["1000"] * 4
    assert state["CapBnd"].strip("0") == ""
    assert state["NoNewPrivs"] == "1"
    root = process / "root"
    assert 'app="details"' in (root / "etc/pod/labels").read_text()
    assert (root / "app/details.py").is_file()
    with pytest.raises(OSError, match="Read-only"):
        (root / "new").write_text("")
    (root / "own/new").write_text("")


async def test_a_container_that_dies_is_started_again(bed: NodeBed) -> None:
    pod = await ready_pod(bed)
    child = bed.kubelet.worker(pod["metadata"]["name"]).lives[0].child
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    again = await ready_pod(bed, restarts=1)
    assert again["metadata"]["name"] == pod["metadata"]["name"]
    last = containers(again)[0]["lastState"]["terminated"]
    assert last["exitCode"] == 137


async def test_a_deleted_pod_goes_wholly_and_another_one_comes(bed: NodeBed) -> None:
    pod = await ready_pod(bed)
    name = pod["metadata"]["name"]
    worker = bed.kubelet.worker(name)
    child = worker.lives[0].child
    assert child is not None
    await bed.kubectl("delete", "pod", name, "--timeout=20s")
    assert child.returncode == 0  # it has answered what was under way
    assert not (NAMES / worker.namespace).exists()
    await ready_pod(bed, after=name)


async def test_what_the_kubelet_cannot_do_is_said_in_the_status(bed: NodeBed) -> None:
    container = {
        "name": "odd",
        "image": "nowhere/nothing:1",
        "securityContext": {"capabilities": {"drop": ["ALL"]}},
    }
    metadata = {"name": "odd", "namespace": "default"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [container]},
    }
    await bed.apply(pod)

    async def status() -> dict[str, Any]:
        found = await bed.objects("pods", "-n", "default", "--field-selector=metadata.name=odd")
        return dict(found[0]["status"])

    seen = await eventually(status, lambda one: one["phase"] == "Failed", what="a failed pod")
    assert "there is no image nowhere/nothing:1" in seen["message"]
    await bed.kubectl("delete", "pod", "odd", "--timeout=20s")

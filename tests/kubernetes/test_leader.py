"""The leader's parts, each against a real API server: Lease, status, Secret, configurations."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import pytest
from prometheus_client import CollectorRegistry

from controlplane.ads.outstanding import Outstanding
from controlplane.crds.kinds import GROUPS as ISTIO_GROUPS
from controlplane.kubernetes.access import Access, find_access
from controlplane.kubernetes.client import Client
from controlplane.kubernetes.paths import call_of
from controlplane.leader import reports, webhook_secret
from controlplane.leader import webhooks as webhooks_of_leader
from controlplane.leader.assess import Readers
from controlplane.leader.duties import Duties
from controlplane.leader.election import Timing
from controlplane.leader.lease import Leadership, LeaseStore
from controlplane.leader.metrics import LeaderMetrics
from controlplane.leader.permissions import RULES
from controlplane.leader.status_writer import StatusWriter
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.meta import ObjectMeta, ObjectRef, Provenance
from controlplane.model.snapshot import Snapshot
from controlplane.model.virtual_service import VirtualService
from tests.kubernetes.cluster import Cluster

pytestmark = pytest.mark.kubernetes

PATIENCE: Final = 40.0
TIMING: Final = Timing(lease_duration=6.0, renew_deadline=4.0, retry_period=0.3)


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    """A client with all rights."""
    async with Client(await find_access(cluster.kubeconfig)) as client:
        yield client


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is true."""
    clock = asyncio.get_running_loop().time
    end = clock() + PATIENCE
    while not condition():
        assert clock() < end, "it did not become true in time"
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def running(work: Any) -> AsyncIterator[asyncio.Task[None]]:
    """Run something until the end of the block."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def get(cluster: Cluster, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        cluster.kubectl("get", *arguments, "--show-managed-fields", "-o", "json").stdout
    )
    return found


# --- Lease ------------------------------------------------------------------------------------


class Candidate:
    """A replica that takes part in an election."""

    def __init__(self, client: Client, namespace: str, identity: str, log: list[str]) -> None:
        store = LeaseStore(client, namespace=namespace, name="istio-leader")
        metrics = LeaderMetrics(CollectorRegistry())
        self.identity = identity
        self.leadership = Leadership(store, identity=identity, timing=TIMING, metrics=metrics)
        self._log = log

    async def run(self) -> None:
        await self.leadership.run(self._work)

    async def _work(self) -> None:
        self._log.append(f"+{self.identity}")
        try:
            await asyncio.Event().wait()
        finally:
            self._log.append(f"-{self.identity}")


async def test_a_lease_goes_from_hand_to_hand(
    cluster: Cluster, client: Client, namespace: str
) -> None:
    """One leads at a time; what an administrator writes into the Lease stays; a deleted Lease is
    made again by the one that held it."""
    log: list[str] = []
    one, two = (Candidate(client, namespace, name, log) for name in ("one", "two"))
    async with running(one.run()) as first, running(two.run()) as second:
        await until(lambda: log != [])
        leader, other = (one, two) if log == ["+one"] else (two, one)
        lease_path = ("lease", "-n", namespace, "istio-leader")
        lease = get(cluster, *lease_path)
        assert lease["spec"]["holderIdentity"] == leader.identity
        assert lease["spec"]["leaseDurationSeconds"] == 6
        assert lease["spec"]["leaseTransitions"] == 1

        cluster.kubectl("label", *lease_path, "kept=yes")
        renewed = lease["spec"]["renewTime"]

        await until(lambda: get(cluster, *lease_path)["spec"]["renewTime"] != renewed)
        assert get(cluster, *lease_path)["metadata"]["labels"] == {"kept": "yes"}

        await asyncio.to_thread(cluster.kubectl, "delete", "lease", "-n", namespace, "istio-leader")
        await until(lambda: other.leadership.holder == leader.identity)
        assert log == [f"+{leader.identity}"], "a deleted Lease makes no second leader"

        (first if leader is one else second).cancel()
        await until(lambda: len(log) == 3)
        assert log[1:] == [f"-{leader.identity}", f"+{other.identity}"]


async def test_leaders_survive_an_api_server_that_is_away(
    cluster: Cluster, client: Client, namespace: str
) -> None:
    """Nobody leads longer than allowed, and one does again when it is back."""
    log: list[str] = []
    one, two = (Candidate(client, namespace, name, log) for name in ("one", "two"))
    async with running(one.run()), running(two.run()):
        await until(lambda: log != [])
        cluster.stop_api_server(kill=True)
        clock = asyncio.get_running_loop().time
        since = clock()
        await until(lambda: len(log) == 2)
        assert clock() - since < TIMING.lease_duration, "it went on longer than others wait"
        await asyncio.to_thread(cluster.start_api_server)
        await until(lambda: len(log) == 3)
        assert [entry[0] for entry in log] == ["+", "-", "+"]


# --- status -----------------------------------------------------------------------------------


class Mesh:
    """What a control plane would know of objects, made by hand."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._namespace = namespace
        self.snapshot = Snapshot()
        self.findings: tuple[Diagnostic, ...] = ()
        self.outstanding = Outstanding()
        self.registry = CollectorRegistry()
        self.leads = True
        self.readers = Readers(
            snapshot=lambda: self.snapshot,
            outstanding=lambda: self.outstanding,
            findings=lambda: self.findings,
        )
        self.writer = StatusWriter(
            client,
            self.readers,
            leads=lambda: self.leads,
            metrics=LeaderMetrics(self.registry),
        )

    def ref(self, name: str) -> ObjectRef:
        return ObjectRef("VirtualService", self._namespace, name)

    def sees(self, cluster: Cluster, *names: str) -> None:
        """Take over objects from the API server, as the source does."""
        objects, provenance = {}, {}
        for name in names:
            meta = get(cluster, "virtualservice", "-n", self._namespace, name)["metadata"]
            objects[self.ref(name)] = VirtualService(
                metadata=ObjectMeta(name=name, namespace=self._namespace)
            )
            provenance[self.ref(name)] = Provenance(
                "kubernetes", generation=meta["generation"], uid=meta["uid"]
            )
        self.snapshot = Snapshot(objects=objects, provenance=provenance)
        self.writer.changed()

    def finds(self, *findings: Diagnostic) -> None:
        self.findings = findings
        self.writer.changed()

    def count(self, result: str) -> float:
        value = self.registry.get_sample_value("pylot_status_writes_total", {"result": result})
        return value or 0.0


def virtual_service(namespace: str, name: str, host: str = "reviews") -> dict[str, Any]:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"hosts": [host], "http": [{"route": [{"destination": {"host": host}}]}]},
    }


def finding(ref: ObjectRef, message: str = "no such host") -> Diagnostic:
    return Diagnostic(level=Level.ERROR, code="IST0101", message=message, ref=ref)


@pytest.mark.usefixtures("istio_crds")
async def test_a_status_comes_changes_and_is_never_written_twice(
    cluster: Cluster, client: Client, namespace: str
) -> None:
    """The life of a status over three leaders, counted by resourceVersions."""

    def vs() -> dict[str, Any]:
        return get(cluster, "virtualservice", "-n", namespace, "reviews")

    def conditions() -> dict[str, str]:
        found = vs().get("status", {}).get("conditions", [])
        return {entry["type"]: entry["status"] for entry in found}

    cluster.apply(virtual_service(namespace, "reviews"))
    mesh = Mesh(client, namespace)
    mesh.sees(cluster, "reviews")
    async with running(mesh.writer.run()):
        await until(lambda: mesh.count("written") == 1)
        assert conditions() == {"Accepted": "True", "Reconciled": "True"}
        assert vs()["status"]["observedGeneration"] == 1
        (manager,) = {
            entry["manager"]
            for entry in vs()["metadata"]["managedFields"]
            if entry.get("subresource") == "status"
        }
        assert manager == "pylot"

        mesh.finds(finding(mesh.ref("reviews")))
        await until(lambda: mesh.count("written") == 2)
        assert conditions()["Accepted"] == "False"
        assert vs()["status"]["validationMessages"] == [
            {"level": "ERROR", "type": {"code": "IST0101", "name": "ReferencedResourceNotFound"}}
        ]
    version = vs()["metadata"]["resourceVersion"]

    following = Mesh(client, namespace)
    following.sees(cluster, "reviews")
    following.finds(finding(following.ref("reviews")))
    async with running(following.writer.run()):
        await asyncio.to_thread(cluster.apply, virtual_service(namespace, "another"))
        following.sees(cluster, "reviews", "another")
        await until(lambda: following.count("written") == 1)
        assert vs()["metadata"]["resourceVersion"] == version, "written twice"
        following.finds()
        await until(lambda: following.count("written") == 2)
        assert "validationMessages" not in vs()["status"]
        assert conditions() == {"Accepted": "True", "Reconciled": "True"}


@pytest.mark.usefixtures("istio_crds")
async def test_an_object_that_changed_meanwhile_is_left_for_the_next_look(
    cluster: Cluster, client: Client, namespace: str
) -> None:
    """What was true of a generation is never said of another one."""
    cluster.apply(virtual_service(namespace, "reviews"))
    mesh = Mesh(client, namespace)
    mesh.sees(cluster, "reviews")
    cluster.apply(virtual_service(namespace, "reviews", "ratings"))
    async with running(mesh.writer.run()):
        await until(lambda: mesh.count("conflict") >= 1)
        assert "status" not in get(cluster, "virtualservice", "-n", namespace, "reviews")
        mesh.sees(cluster, "reviews")
        await until(lambda: mesh.count("written") == 1)
        status = get(cluster, "virtualservice", "-n", namespace, "reviews")["status"]
        assert status["observedGeneration"] == 2


@pytest.mark.usefixtures("istio_crds")
async def test_who_does_not_lead_writes_nothing(
    cluster: Cluster, client: Client, namespace: str
) -> None:
    cluster.apply(virtual_service(namespace, "reviews"))
    mesh = Mesh(client, namespace)
    mesh.leads = False
    mesh.sees(cluster, "reviews")
    async with running(mesh.writer.run()):
        await until(lambda: mesh.count("failed") >= 1)
    assert "status" not in get(cluster, "virtualservice", "-n", namespace, "reviews")


@pytest.mark.usefixtures("istio_crds")
async def test_a_missing_rule_for_a_kind_stops_nothing_else(
    cluster: Cluster, namespace: str
) -> None:
    """Reading is allowed, writing is not: one try, and the object goes without a status."""
    user = f"reader-{namespace}"
    rules = [{"apiGroups": ["networking.istio.io"], "resources": ["*"], "verbs": ["get", "list"]}]
    cluster.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": user},
            "rules": rules,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": user},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": user,
            },
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        },
        *(virtual_service(namespace, f"vs-{number}") for number in range(5)),
    )
    access = await find_access(cluster.kubeconfig_for(user))
    async with Client(access) as reader:
        mesh = Mesh(reader, namespace)
        mesh.sees(cluster, *(f"vs-{number}" for number in range(5)))
        async with running(mesh.writer.run()):
            await until(lambda: mesh.count("refused") == 1)
            mesh.writer.changed()
            await asyncio.sleep(2.5)
            assert mesh.count("refused") == 1


# --- rights -----------------------------------------------------------------------------------


class Recording(Client):
    """A client that remembers what it asked for."""

    def __init__(self, access: Access) -> None:
        super().__init__(access)
        self.calls: set[tuple[str, str, str]] = set()

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str] = {}, **options: Any
    ) -> bytes:
        call = call_of(method, path, query)
        if not call.resource.startswith("/"):
            self.calls.add((call.group, call.resource, call.verb))
        return await super().request(method, path, query=query, **options)


def webhooks(kind: str, namespace: str, name: str) -> dict[str, Any]:
    """A configuration whose webhook is never called."""
    service = {"namespace": namespace, "name": "istiod", "path": "/"}
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": f"rights-{namespace}", "labels": {"istio.io/rev": "default"}},
        "webhooks": [
            {
                "name": name,
                "clientConfig": {"service": service},
                "failurePolicy": "Ignore",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "namespaceSelector": {"matchLabels": {"nobody": "has-this"}},
            }
        ],
    }


@pytest.mark.usefixtures("istio_crds")
async def test_the_table_of_rights_is_what_is_asked_for(
    cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything in it is used, and nothing beside it: for one kind as for all of them."""
    for module in (webhook_secret, webhooks_of_leader, reports):
        monkeypatch.setattr(module, "EVERY", 0.2)
    kinds = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
    cluster.apply(
        virtual_service(namespace, "reviews"),
        *(webhooks(kind, namespace, "rights.validation.istio.io") for kind in kinds),
    )
    wanted = {
        (rule.group, rule.resource, verb)
        for rule in RULES
        for verb in rule.verbs
        if rule.group not in ISTIO_GROUPS
        or rule.resource.partition("/")[0] == "virtualservices"
        or verb == "create"
    }
    async with Recording(await find_access(cluster.kubeconfig)) as client:
        mesh = Mesh(client, namespace)
        mesh.sees(cluster, "reviews")
        mesh.findings = (finding(mesh.ref("reviews")),)
        duties = Duties(
            client,
            mesh.readers,
            namespace=namespace,
            revision="default",
            identity="one",
            timing=TIMING,
            registry=CollectorRegistry(),
        )
        async with running(duties.run()):
            duties.reporter.published(push=1, classes=0, streams=0, reason="full")
            await until(lambda: ("", "secrets", "create") in client.calls)
            spoilt = json.dumps({"data": {"tls.key": "eA=="}})
            await until(
                lambda: cluster.kubectl(
                    "patch", "secret", "-n", namespace, "pylot-webhook-tls", "-p", spoilt,
                    check=False,
                ).returncode == 0
            )  # fmt: skip
            await until(lambda: client.calls >= wanted)
    cluster.kubectl("delete", ",".join(kinds), f"rights-{namespace}")
    assert client.calls == wanted

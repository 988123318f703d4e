"""The Kubernetes source against a real API server: trouble of every kind, and nothing lost.

The tests of this module have a cluster of their own, because they break it. Long counts are the
same tests under `make soak`.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
import yaml

from controlplane.crds.definitions import definitions
from controlplane.crds.text import as_yaml
from controlplane.kubernetes.access import find_access
from controlplane.kubernetes.client import Client
from controlplane.kubernetes.errors import (
    ConflictError,
    InvalidError,
    KubernetesError,
    NotFoundError,
)
from controlplane.kubernetes.paths import Resource
from controlplane.model.diagnostics import Level
from controlplane.model.meta import ObjectRef
from controlplane.model.names import Host
from controlplane.sources.files import load_snapshot
from controlplane.sources.kubernetes import reflector
from controlplane.translate.build import Generator
from controlplane.translate.envoy import RouteConfiguration
from tests.kubernetes.api import Api, insist
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.control_plane import CLUSTER_ID, ControlPlane, control_plane, resources
from tests.kubernetes.objects import install_definitions
from tests.kubernetes.proxy import network

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(300)]

SOAK: Final = int(os.environ.get("PYLOT_SOAK", "0"))
SERVICES: Final = Resource("", "v1", "services")
SLICES: Final = Resource("discovery.k8s.io", "v1", "endpointslices")
PODS: Final = Resource("", "v1", "pods")
NAMESPACES: Final = Resource("", "v1", "namespaces")
ROUTES: Final = Resource("networking.istio.io", "v1", "virtualservices")
RULES: Final = Resource("networking.istio.io", "v1", "destinationrules")
BOOKINFO: Final = Path("examples/bookinfo")
KINDS: Final = {
    SERVICES: "Service", SLICES: "EndpointSlice", PODS: "Pod", ROUTES: "VirtualService",
    RULES: "DestinationRule",
}  # fmt: skip


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses grow as always, but nobody waits 20 s for the last of them."""
    monkeypatch.setattr(reflector, "LONGEST_PAUSE", 1.0)


@pytest_asyncio.fixture
async def admin(own_cluster: Cluster) -> AsyncIterator[Client]:
    """A client with all rights, straight to the API server."""
    async with Client(await find_access(own_cluster.kubeconfig)) as client:
        yield client


@pytest.fixture
def api(admin: Client) -> Api:
    """The same, with objects."""
    return Api(admin)


@pytest.fixture(scope="module")
def crds(own_cluster: Cluster) -> None:
    """Istio's kinds."""
    install_definitions(own_cluster)


def thing(resource: Resource, name: str, namespace: str, **fields: Any) -> dict[str, Any]:
    group = f"{resource.group}/" if resource.group else ""
    return {
        "apiVersion": f"{group}{resource.version}",
        "kind": KINDS[resource],
        "metadata": {"name": name, "namespace": namespace, **fields.pop("metadata", {})},
        **fields,
    }


def service(name: str, namespace: str, port: int = 80) -> dict[str, Any]:
    spec = {"ports": [{"name": "http", "port": port}], "selector": {"app": name}}
    return thing(SERVICES, name, namespace, spec=spec)


def endpoints(name: str, namespace: str, *addresses: str) -> dict[str, Any]:
    return thing(
        SLICES, name, namespace,
        metadata={"labels": {"kubernetes.io/service-name": name}},
        addressType="IPv4",
        ports=[{"name": "http", "port": 8080, "protocol": "TCP"}],
        endpoints=[{"addresses": [address]} for address in addresses],
    )  # fmt: skip


def route(name: str, namespace: str, timeout: int = 1) -> dict[str, Any]:
    http = [{"timeout": f"{timeout}s", "route": [{"destination": {"host": name}}]}]
    return thing(ROUTES, name, namespace, spec={"hosts": [name], "http": http})


class Place:
    """A namespace, and changes in it."""

    def __init__(self, api: Api, name: str) -> None:
        self.api = api
        self.name = name

    async def create(self, resource: Resource, body: dict[str, Any]) -> None:
        await insist(lambda: self.api.create(resource.path(namespace=self.name), body))

    async def patch(self, resource: Resource, name: str, body: dict[str, Any]) -> None:
        path = resource.path(namespace=self.name, name=name)
        await insist(lambda: self.api.patch(path, body))

    async def delete(self, resource: Resource, name: str) -> None:
        path = resource.path(namespace=self.name, name=name)
        await insist(lambda: self.api.delete(path, {"gracePeriodSeconds": 0}))


@pytest_asyncio.fixture
async def place(api: Api, request: pytest.FixtureRequest) -> Place:
    """A namespace of the test's own."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[-40:].strip("-")
    await api.create(NAMESPACES.path(), {"metadata": {"name": name}})
    return Place(api, name)


async def test_a_kind_is_followed_from_when_its_definition_comes_until_it_goes(
    own_cluster: Cluster, admin: Client, api: Api, place: Place
) -> None:
    wasm = Resource("extensions.istio.io", "v1alpha1", "wasmplugins")
    mine = [item for item in definitions() if item["spec"]["group"] == wasm.group]
    async with control_plane(await find_access(own_cluster.kubeconfig)) as plane:
        assert not {ref.kind for ref in plane.snapshot.objects} - {"Namespace", "Service"}
        own_cluster.kubectl("apply", "--server-side", "-f", "-", stdin=as_yaml(mine))
        body = {
            "apiVersion": f"{wasm.group}/{wasm.version}",
            "kind": "WasmPlugin",
            "metadata": {"name": "one", "namespace": place.name},
            "spec": {"url": "oci://nowhere"},
        }
        path = wasm.path(namespace=place.name)
        async with asyncio.timeout(60):
            while True:
                try:
                    await api.create(path, body)
                    break
                except NotFoundError:
                    await asyncio.sleep(0.2)
        ref = ObjectRef("WasmPlugin", place.name, "one")
        await plane.until(lambda: ref in plane.snapshot.objects)
        own_cluster.kubectl("delete", *(f"crd/{item['metadata']['name']}" for item in mine))
        await plane.until(lambda: ref not in plane.snapshot.objects)
        await plane.settled(admin)


async def test_an_endpoint_is_served_when_its_pod_is_known(
    own_cluster: Cluster, admin: Client, api: Api, place: Place
) -> None:
    """The EndpointSlice is there long before the pod that it names."""
    ns, early, manual = place.name, "10.244.1.7", "10.244.1.8"
    cluster = f"outbound|80||a.{ns}.svc.cluster.local"
    await place.create(SERVICES, service("a", ns))
    async with (
        control_plane(await find_access(own_cluster.kubeconfig)) as plane,
        plane.envoy(cluster) as heard,
    ):

        def served(address: str) -> bool:
            return any(address.encode() in answer.resources.get(cluster, b"") for answer in heard)

        body = endpoints("a", ns, early, manual)
        body["endpoints"][0]["targetRef"] = {"kind": "Pod", "name": "a-1", "namespace": ns}
        await place.create(SLICES, body)
        await plane.until(lambda: served(manual))
        assert plane.snapshot.waiting_for_pods == {early}
        pod = thing(
            PODS, "a-1", ns,
            metadata={"labels": {"version": "v1"}},
            spec={"containers": [{"name": "app", "image": "none"}]},
        )  # fmt: skip
        await plane.settled(admin)
        assert not served(early)
        await place.create(PODS, pod)
        await plane.until(lambda: served(early))
        found = plane.snapshot.endpoints_of(Host(f"a.{ns}.svc.cluster.local")).by_port["http"]
        labels = {endpoint.address: dict(endpoint.workload.labels) for endpoint in found}
        assert labels == {early: {"version": "v1"}, manual: {}}
        assert not plane.snapshot.waiting_for_pods
        await plane.settled(admin)


async def test_no_trouble_on_the_way_loses_or_disturbs_anything(
    own_cluster: Cluster, crds: None, admin: Client, place: Place
) -> None:
    """One control plane and one Envoy live through everything, one trouble after the other."""
    ns = place.name
    for name in ("a", "b", "c"):
        await place.create(SERVICES, service(name, ns))
        await place.create(SLICES, endpoints(name, ns, "10.244.1.1"))
        await place.create(ROUTES, route(name, ns))
    cluster = f"outbound|80||a.{ns}.svc.cluster.local"
    async with (
        network(own_cluster) as (way, access),
        control_plane(access, idle_timeout=2.0) as plane,
        plane.envoy(cluster) as heard,
    ):
        await plane.settled(admin)
        count = 0

        async def undisturbed(trouble: str) -> None:
            """Nothing more is pushed now, and a change arrives and is all that arrives."""
            nonlocal count
            await plane.settled(admin)
            before = len(heard)
            await asyncio.sleep(0.3)
            assert len(heard) == before, f"{trouble}: {heard[before:]}"
            count += 1
            address = f"10.244.2.{count}"
            await place.patch(SLICES, "a", {"endpoints": [{"addresses": [address]}]})
            await plane.until(lambda: len(heard) > before)
            assert address.encode() in heard[before].resources[cluster], trouble
            assert len(heard) == before + 1, trouble

        async def nothing_was_pushed(trouble: str, before: int) -> None:
            """Neither during the trouble nor after it, when nothing has changed."""
            await plane.settled(admin)
            assert len(heard) == before, f"{trouble}: {heard[before:]}"
            await undisturbed(trouble)

        await undisturbed("nothing at all")

        before = len(heard)
        way.cut()
        await nothing_was_pushed("all connections cut", before)

        before = len(heard)
        with way.stalled():
            await asyncio.sleep(60 if SOAK else 3)
        await nothing_was_pushed("a network that swallows everything", before)

        with way.stalled():
            await place.patch(ROUTES, "b", route("b", ns, timeout=2))
            await place.delete(SERVICES, "c")
            await place.create(SERVICES, service("d", ns))
            await asyncio.sleep(2.5)
        await plane.settled(admin)
        await undisturbed("changes while nothing got through")

        with way.slow():
            way.cut()
            await place.patch(ROUTES, "b", route("b", ns, timeout=3))
            await plane.settled(admin)
        await undisturbed("a slow way")

        dice = random.Random(7)
        for number in range(60 if SOAK else 8):
            way.cut_after(dice.randrange(1, 700))
            await place.patch(ROUTES, "b", route("b", ns, timeout=10 + number))
            await plane.until(lambda cuts=number: way.cuts > cuts)
        await plane.settled(admin)
        await undisturbed("lines cut anywhere")

        before = len(heard)
        await asyncio.to_thread(own_cluster.restart_api_server, kill=True)
        await nothing_was_pushed("the API server restarted", before)

        relists = plane.listener.said.count("relisted VirtualService")
        with way.stalled():
            await place.patch(ROUTES, "b", route("b", ns, timeout=99))
            await place.delete(ROUTES, "a")
            await asyncio.to_thread(own_cluster.compact)
            await asyncio.to_thread(own_cluster.restart_api_server, kill=True)
        await plane.settled(admin)
        await plane.until(lambda: plane.listener.said.count("relisted VirtualService") > relists)
        await undisturbed("history that is gone")
        assert not [said for said in plane.listener.said if said.startswith("healed")]


async def test_without_a_rule_for_one_kind_everything_else_is_served(
    own_cluster: Cluster, crds: None, admin: Client, place: Place
) -> None:
    reads = ["get", "list", "watch"]
    everything = [
        {"apiGroups": ["", "discovery.k8s.io"], "resources": ["*"], "verbs": reads},
        *(
            {
                "apiGroups": [item["spec"]["group"]],
                "resources": [item["spec"]["names"]["plural"]],
                "verbs": reads,
            }
            for item in definitions()
            if item["spec"]["names"]["kind"] != "VirtualService"
        ),
    ]
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "half"},
        "rules": everything,
    }
    own_cluster.apply(
        role,
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "half"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "half"
            },
            "subjects": [
                {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "half"}
            ],
        },
    )  # fmt: skip
    await place.create(SERVICES, service("a", place.name))
    await place.create(ROUTES, route("a", place.name))
    mine = ObjectRef("VirtualService", place.name, "a")
    async with control_plane(await find_access(own_cluster.kubeconfig_for("half"))) as plane:
        assert plane.registry.ready
        assert ObjectRef("Service", place.name, "a") in plane.snapshot.objects
        assert mine not in plane.snapshot.objects
        (warning,) = plane.source.warnings
        assert re.search(r"cannot (list|watch) virtualservices\.networking\.istio\.io", warning)
        assert (
            'missing rule: {apiGroups: ["networking.istio.io"], resources: ["virtualservices"], '
            'verbs: ["list", "watch"]}' in warning
        )
        rule = {"apiGroups": [ROUTES.group], "resources": [ROUTES.plural], "verbs": reads}
        own_cluster.apply(role | {"rules": [*everything, rule]})
        await plane.until(lambda: mine in plane.snapshot.objects)
        assert plane.source.warnings == ()
        own_cluster.apply(role)
        await asyncio.to_thread(own_cluster.restart_api_server, kill=True)
        await plane.until(lambda: plane.source.warnings)
        assert mine in plane.snapshot.objects, "what was there stays"


OTHERS: Final = "services,namespaces,endpointslices,pods,virtualservices,destinationrules"
HOSTILE: Final[dict[str, dict[str, Any]]] = {
    "annotations": {"metadata": {"annotations": {"a": "x" * 100_000}}},
    "hosts": {"spec": {"hosts": [f"h{number}.example.com" for number in range(10_000)]}},
    "regex": {"spec": {"http": [{"match": [{"uri": {"regex": "(((a{99}){99}){99}){99}"}}]}]}},
    "ports": {
        "spec": {"http": [{"route": [{"destination": {"host": "a", "port": {"number": -1}}}]}]}
    },
    "weights": {"spec": {"http": [{"route": [{"destination": {"host": "a"}, "weight": -5}]}]}},
    "deep": {"status": {"a": {"b": {}}}},
    "empty": {"spec": {"hosts": []}},
}  # fmt: skip


def split(found: dict[str, bytes]) -> dict[str, bytes]:
    """Resources with each virtual host of a route configuration apart."""
    parts = {}
    for key, body in found.items():
        if key.startswith("routes "):
            routes: Any = RouteConfiguration.FromString(body)
            for host in routes.virtual_hosts:
                parts[f"{key} {host.name}"] = host.SerializeToString(deterministic=True)
        else:
            parts[key] = body
    return parts


async def test_a_hostile_object_is_refused_or_bounded_and_hurts_nothing_else(
    own_cluster: Cluster, crds: None, admin: Client, place: Place
) -> None:
    await place.create(SERVICES, service("a", place.name))
    await place.create(SLICES, endpoints("a", place.name, "10.244.1.1"))
    await place.create(ROUTES, route("a", place.name))
    async with control_plane(await find_access(own_cluster.kubeconfig)) as plane:
        await plane.settled(admin)
        before = split(plane.resources())
        for name, fields in HOSTILE.items():
            body = route("victim", place.name)
            spec = body["spec"] | fields.get("spec", {})
            for entry in spec["http"]:
                entry.setdefault("route", [{"destination": {"host": "a"}}])
            body |= {"spec": spec, "status": fields.get("status", {})}
            body["metadata"] |= {"name": name, **fields.get("metadata", {})}
            try:
                await place.create(ROUTES, body)
            except InvalidError:
                continue  # the schema of the definition has refused it
            ref = ObjectRef("VirtualService", place.name, name)
            await plane.settled(admin)
            said = [entry for entry in plane.snapshot.diagnostics if entry.ref == ref]
            kept = ref in plane.snapshot.objects
            assert kept or any(entry.level is Level.ERROR for entry in said), name
            if name in ("regex", "empty"):
                assert said, name
            after = split(plane.resources())
            assert {key for key in before if after.get(key) != before[key]} == set(), name
            await place.delete(ROUTES, name)
        raw = b'{"metadata":{"name":"bytes"},"spec":{"hosts":["\xff\xfe"]}}'
        with pytest.raises(KubernetesError):
            await admin.request("POST", ROUTES.path(namespace=place.name), body=raw)
        await plane.settled(admin)
        assert split(plane.resources()) == before


async def test_bookinfo_gives_the_bytes_that_its_files_give(
    own_cluster: Cluster, crds: None, admin: Client, api: Api, tmp_path: Path
) -> None:
    """The API server wants images and no loopback addresses; otherwise the files are the same."""
    files = [*(BOOKINFO / "mesh").glob("*.yaml"), *_networking()]
    documents = []
    for path in sorted(files):
        for document in yaml.safe_load_all(path.read_text().replace("127.0.0.", "10.244.0.")):
            for container in document.get("spec", {}).get("containers", ()):
                container["image"] = "none"
            documents.append(document)
    own_cluster.kubectl("create", "namespace", "istio-system")
    own_cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(documents))
    for document in documents:
        if document["kind"] == "Pod":
            meta = document["metadata"]
            status = PODS.path(namespace=meta["namespace"], name=meta["name"], subresource="status")
            await api.patch(status, {"status": document["status"]})
    others = yaml.safe_load(own_cluster.kubectl("get", OTHERS, "-A", "-o", "yaml").stdout)
    known = {(item["kind"], item["metadata"]["name"]) for item in documents}
    for item in others["items"]:
        if (item["kind"], item["metadata"]["name"]) not in known:
            documents.append(item)
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(documents))
    async with control_plane(await find_access(own_cluster.kubeconfig)) as plane:
        await plane.settled(admin)
        snapshot = load_snapshot([tmp_path], cluster_id=CLUSTER_ID)
        for node in (
            "sidecar~10.244.0.11~details-v1.default~default.svc.cluster.local",
            "router~10.244.0.10~gateway-1.istio-system~istio-system.svc.cluster.local",
            "sidecar~10.9.9.9~stranger.shop~shop.svc.cluster.local",
        ):
            theirs = resources(Generator(), snapshot, node)
            mine = plane.resources(node)
            assert mine.keys() == theirs.keys()
            assert {key for key in mine if mine[key] != theirs[key]} == set()
            assert len(mine) > 5


def _networking() -> list[Path]:
    names = ("bookinfo-gateway", "destination-rule-all", "virtual-service-all-v1")
    return [BOOKINFO / "networking" / f"{name}.yaml" for name in names]


async def test_replicas_end_with_the_same_bytes_after_any_changes(
    own_cluster: Cluster, crds: None, admin: Client, place: Place
) -> None:
    """Two follow, one of them is replaced in the middle, and a fresh one says the same."""
    dice = random.Random(11)
    access = await find_access(own_cluster.kubeconfig)
    operations = 10_000 if SOAK else 300
    async with control_plane(access) as steady:
        async with control_plane(access) as restarted:
            await _operate(place, dice, operations // 2)
            await restarted.settled(admin)
        async with control_plane(access) as restarted:
            await _operate(place, dice, operations - operations // 2)
            await _agree(admin, steady, restarted)
            async with control_plane(access) as fresh:
                await _agree(admin, steady, fresh)


async def _operate(place: Place, dice: random.Random, operations: int) -> None:
    """Create, change and delete objects of several kinds at random, a few at a time."""
    there: dict[tuple[Resource, str], int] = {}

    def body(resource: Resource, name: str) -> dict[str, Any]:
        number = dice.randrange(1, 200)
        if resource is SERVICES:
            return service(name, place.name, port=8000 + number)
        if resource is SLICES:
            return endpoints(name, place.name, f"10.244.3.{number}", f"10.244.4.{number}")
        if resource is ROUTES:
            return route(name, place.name, timeout=number)
        if resource is RULES:
            spec = {"host": name, "subsets": [{"name": "v1", "labels": {"version": f"{number}"}}]}
            return thing(RULES, name, place.name, spec=spec)
        labels = {"app": name, "version": f"{number}"}
        spec = {"containers": [{"name": "app", "image": "none"}]}
        return thing(PODS, name, place.name, metadata={"labels": labels}, spec=spec)

    async def one() -> None:
        resource = dice.choice([SERVICES, SLICES, SLICES, ROUTES, RULES, PODS])
        name = f"s{dice.randrange(12)}"
        key = (resource, name)
        made = body(resource, name)
        try:
            if key not in there:
                there[key] = 1
                await place.create(resource, made)
            elif dice.random() < 0.3:
                del there[key]
                await place.delete(resource, name)
            elif resource is PODS:
                await place.patch(resource, name, {"metadata": made["metadata"]})
            else:
                await place.patch(resource, name, made)
        except (ConflictError, NotFoundError):
            pass  # of two at once on one object, the second may come too late or too early

    for _ in range(operations // 10):
        await asyncio.gather(*(one() for _ in range(10)))


async def _agree(admin: Client, *planes: ControlPlane) -> None:
    for plane in planes:
        await plane.settled(admin)
    first, *others = (plane.resources() for plane in planes)
    for other in others:
        assert other.keys() == first.keys()
        assert {key for key in first if first[key] != other[key]} == set()

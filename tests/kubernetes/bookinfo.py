"""Bookinfo in a cluster: what a user does with kubectl, and what is seen at the ingress gateway.

Owns how the exercises' wishes become objects of the API server. Must not know how pods are run.
The rule that is easy to break: only kubectl changes anything; the Envoys are looked at to know
when they follow.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import aiohttp
import msgspec
import yaml

from controlplane.agent.admin import AdminClient
from controlplane.agent.bootstrap import SocketAddress
from controlplane.demo.exercises import NO_REVIEWS
from controlplane.demo.layout import BASE_FILES, Application, Layout, bookinfo_directory
from controlplane.demo.mesh import virtual_hosts_of
from tests.envoy.harness import eventually, troubles_of
from tests.kubernetes.node_bed import NodeBed
from tests.kubernetes.pod_worker import PodWorker

GATEWAY: Final = "istio-ingressgateway"
_PATIENCE: Final = 50.0
_CALLERS: Final = 3
_PAUSE: Final = 0.03
_PLATFORM: Final = bookinfo_directory() / "platform"
_NETWORKING: Final = bookinfo_directory() / "networking"


class Seen(msgspec.Struct, frozen=True):
    """One Envoy, by its pod's name."""

    name: str
    admin: AdminClient


class KubernetesBookinfo:
    """The example as exercises need it (`controlplane.demo.exercises.Bookinfo`)."""

    def __init__(self, bed: NodeBed) -> None:
        self.bed = bed
        self.layout = Layout()
        self.http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=30), cookie_jar=aiohttp.DummyCookieJar()
        )
        self._applied: dict[str, str] = {}

    async def start(self) -> None:
        """Apply platform and base networking, and wait until the page comes."""
        files = [_PLATFORM, *(_NETWORKING / name for name in BASE_FILES)]
        await self.bed.kubectl("apply", *(word for path in files for word in ("-f", str(path))))
        for namespace in ("default", "istio-system"):
            await self.bed.kubectl(
                *("wait", "deployments", "--all", "-n", namespace),
                *("--for=condition=Available", f"--timeout={_PATIENCE:g}s"),
            )
        (gateway,) = self.workers("istio-system", GATEWAY)
        target = SocketAddress(host=gateway.address, port=self.layout.gateway_port)
        published = await self.bed.forward(target)
        self.layout = msgspec.structs.replace(self.layout, published=published.port)
        await self.settled()

    def workers(self, namespace: str = "default", app: str = "") -> list[PodWorker]:
        """The pods that are to stay, of one application or of all."""
        found = []
        for worker in self.bed.kubelet.workers.values():
            metadata = worker.pod["metadata"]
            wanted = metadata["namespace"] == namespace and app in ("", metadata["labels"]["app"])
            if wanted and not metadata.get("deletionTimestamp"):
                found.append(worker)
        return found

    async def envoys(self) -> list[Seen]:
        """The Envoys of all pods that are to stay."""
        workers = [*self.workers(), *self.workers("istio-system")]
        admins = await asyncio.gather(*(self.bed.admin(worker) for worker in workers))
        return [
            Seen(worker.pod["metadata"]["name"], admin)
            for worker, admin in zip(workers, admins, strict=True)
        ]

    async def apply(self, *, reviews: str | None = None, ratings: str | None = None) -> None:
        """Apply files of `networking` in the place of the last ones, and wait for the Envoys."""
        changes = {"reviews": reviews, "ratings": ratings}
        before = await self._virtual_hosts()
        changed = {name for name, chosen in changes.items() if await self._put(name, chosen or "")}

        async def late() -> list[str]:
            now = await self._virtual_hosts()
            return [
                f"{uid} {name}"
                for uid, hosts in now.items()
                for name in changed
                if uid in before and hosts.get(name) == before[uid].get(name)
            ]

        # After many outages a kind may be asked for again only half a minute later.
        await eventually(
            late, lambda found: not found, seconds=_PATIENCE, what="routes that follow kubectl"
        )
        # Envoy's workers take a new route at their next turn.
        await asyncio.sleep(0.02)

    async def start_application(self, application: Application, *extra: str) -> None:
        """Give a Deployment other arguments, and wait until every Envoy knows only the new pod."""
        container = {"name": application.app, "args": list(extra) or None}
        patch = {"spec": {"template": {"spec": {"containers": [container]}}}}
        deployment = f"deployment/{application.name}"
        await self.bed.kubectl("patch", deployment, "-p", msgspec.json.encode(patch).decode())
        await self.rolled(deployment)
        await self.follow_endpoints(application.app)

    async def annotate(self, app: str, annotations: Mapping[str, str]) -> None:
        """Give the pods of a Deployment's version 1 other annotations, which rolls it."""
        metadata = {"annotations": annotations}
        patch = msgspec.json.encode({"spec": {"template": {"metadata": metadata}}})
        await self.bed.kubectl("patch", f"deployment/{app}-v1", "-p", patch.decode())

    async def rolled(self, deployment: str) -> None:
        """Wait until a Deployment is as it should be."""
        await self.bed.kubectl("rollout", "status", deployment, f"--timeout={_PATIENCE:g}s")

    async def follow_endpoints(self, app: str) -> None:
        """Wait until every Envoy sends calls for a service to its pods, and to no others."""
        cluster = f"outbound|9080||{app}.default.svc.cluster.local"

        async def wrong() -> dict[str, Any]:
            wanted = {worker.address for worker in self.workers(app=app)}
            found = {}
            for envoy in await self.envoys():
                status = [one for one in await envoy.admin.clusters() if one["name"] == cluster]
                hosts = [host for one in status for host in one.get("host_statuses", ())]
                used = {host["address"]["socket_address"]["address"] for host in hosts}
                if used != wanted:
                    found[envoy.name] = (used, wanted)
            return found

        await eventually(wrong, lambda found: not found, what=f"endpoints of {app}")

    async def settled(self) -> None:
        """Wait until every Envoy runs what it was sent, and has rejected nothing."""

        async def troubles() -> list[str]:
            found = await asyncio.gather(*(troubles_of(one) for one in await self.envoys()))
            return [trouble for each in found for trouble in each]

        await eventually(troubles, lambda found: not found, what="settled Envoys")

    def log_of(self, application: Application) -> str:
        """All that the pods of one Deployment wrote."""
        return self.bed.kubelet.logs(f"default.{application.name}-", application.app)

    @contextlib.asynccontextmanager
    async def load(self) -> AsyncIterator[Counter[str]]:
        """Load the page all the time inside; how many came, and what else came."""
        seen: Counter[str] = Counter()
        ending = asyncio.Event()

        async def visit() -> None:
            while not ending.is_set():
                try:
                    async with self.http.get(self.layout.page) as answer:
                        text = await answer.text()
                        problem = "no reviews" if NO_REVIEWS in text else ""
                        if "currently unavailable" in text:
                            problem = problem or "an application was unavailable"
                        seen[
                            "good"
                            if answer.status == 200 and not problem
                            else f"{answer.status} {problem}"
                        ] += 1
                except (aiohttp.ClientError, TimeoutError) as error:
                    seen[repr(error)] += 1
                await asyncio.sleep(_PAUSE)

        visitors = [asyncio.create_task(visit()) for _ in range(_CALLERS)]
        try:
            yield seen
        finally:
            ending.set()
            await asyncio.gather(*visitors)

    async def close(self) -> None:
        """Close the connections."""
        await self.http.close()

    async def _put(self, name: str, chosen: str) -> bool:
        before, self._applied[name] = self._applied.get(name, ""), chosen
        if chosen == before:
            return False
        objects = _names(chosen)
        if chosen:
            # Otherwise kubectl asks for a schema that costs the API server seconds to make.
            await self.bed.kubectl("apply", "--server-side", "-f", str(_file(chosen)))
        gone = [one for one in _names(before) if one not in objects]
        if gone:
            await self.bed.kubectl("delete", "virtualservice", *gone)
        return True

    async def _virtual_hosts(self) -> Mapping[str, Mapping[str, Any]]:
        workers = self.workers()
        admins = await asyncio.gather(*(self.bed.admin(worker) for worker in workers))
        found = await asyncio.gather(*(virtual_hosts_of(admin) for admin in admins))
        return {worker.uid: hosts for worker, hosts in zip(workers, found, strict=True)}


def _file(chosen: str) -> Any:
    return _NETWORKING / f"virtual-service-{chosen}.yaml"


def _names(chosen: str) -> list[str]:
    if not chosen:
        return []
    documents = yaml.safe_load_all(_file(chosen).read_text())
    return [document["metadata"]["name"] for document in documents if document]

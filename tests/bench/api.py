"""An API server that only reads out: Services, EndpointSlices and pods as large as real ones.

Run as a program of its own, so that what it costs is not counted: `python -m tests.bench.api
SERVICES SLICES` prints its port. `POST /events?rate=N&seconds=S` makes that many EndpointSlices
change, each in a moment of its own. The rule that is easy to break: objects have all that a real
API server adds (managedFields, uids, target references), or decoding them is too cheap.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any, Final

import msgspec
from aiohttp import web

_GROUPS: Final = ("authorization.k8s.io", "discovery.k8s.io")
_SIDE: Final = {"services": "Service", "endpointslices": "EndpointSlice", "namespaces": "Namespace"}
_NAMESPACES: Final = 20
Json = dict[str, Any]


def managed(manager: str, names: int) -> list[Json]:
    """Fields as server-side apply keeps them: about half of an object's bytes."""
    fields: Json = {f"f:field-{number}": {".": {}, "f:value": {}} for number in range(names)}
    return [
        {
            "manager": manager,
            "operation": "Update",
            "apiVersion": "v1",
            "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:metadata": fields},
        }
    ]


def meta(name: str, namespace: str, version: int, **more: Any) -> Json:
    """Metadata as the API server fills them in."""
    return {
        "name": name,
        "namespace": namespace,
        "uid": f"00000000-0000-0000-0000-{version:012}",
        "resourceVersion": str(version),
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        **more,
    }


def service(number: int) -> Json:
    """A Service of one port."""
    name = f"svc-{number}"
    return {
        "metadata": meta(
            name,
            f"ns-{number % _NAMESPACES}",
            number + 1,
            labels={"app": name},
            managedFields=managed("kubectl-client-side-apply", 8),
        ),
        "spec": {
            "clusterIP": f"10.96.{number // 250}.{number % 250 + 1}",
            "clusterIPs": [f"10.96.{number // 250}.{number % 250 + 1}"],
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "http", "port": 9080, "protocol": "TCP", "targetPort": 9080}],
            "selector": {"app": name},
            "sessionAffinity": "None",
            "type": "ClusterIP",
        },
        "status": {"loadBalancer": {}},
    }


def endpoint_slice(number: int, *, services: int, version: int) -> Json:
    """An EndpointSlice of ten endpoints, one of whose addresses tells its version."""
    owner = number % services
    addresses = [f"10.{128 + number // 5000}.{number // 20 % 250}.{number % 20 * 10 + n}"
                 for n in range(9)]  # fmt: skip
    addresses.append(f"11.{version % 250}.{number // 250}.{number % 250}")
    return {
        "metadata": meta(
            f"svc-{owner}-{number}",
            f"ns-{owner % _NAMESPACES}",
            version,
            labels={
                "kubernetes.io/service-name": f"svc-{owner}",
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "app": f"svc-{owner}",
            },
            annotations={"endpoints.kubernetes.io/last-change-trigger-time": f"{version}"},
            ownerReferences=[
                {"apiVersion": "v1", "kind": "Service", "name": f"svc-{owner}", "controller": True}
            ],
            managedFields=managed("kube-controller-manager", 12),
        ),
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": f"node-{index}",
                "targetRef": {
                    "kind": "Pod",
                    "namespace": f"ns-{owner % _NAMESPACES}",
                    "name": f"svc-{owner}-5d4f8c7b9-0",
                    "uid": f"00000000-0000-0000-0001-{number:010}{index:02}",
                },
                "zone": f"zone-{index % 3}",
            }
            for index, address in enumerate(addresses)
        ],
        "ports": [{"name": "http", "port": 9080, "protocol": "TCP"}],
    }


def pod(number: int) -> Json:
    """The one pod of a Service, which all of its endpoints name: many would only be read."""
    name = f"svc-{number}"
    return {
        "metadata": meta(
            f"{name}-5d4f8c7b9-0",
            f"ns-{number % _NAMESPACES}",
            number + 1,
            labels={"app": name, "version": "v1", "pod-template-hash": "5d4f8c7b9"},
            managedFields=managed("kubelet", 24),
        ),
        "spec": {
            "containers": [{"name": "app", "image": "app:1", "ports": [{"containerPort": 9080}]}],
            "nodeName": f"node-{number % 10}",
            "serviceAccountName": "default",
        },
        "status": {
            "phase": "Running",
            "podIP": f"10.{200 + number // 60000}.{number // 250 % 250}.{number % 250 + 1}",
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


class Api:
    """The objects as bytes, and the watches that hear of changes."""

    def __init__(self, services: int, slices: int) -> None:
        self._services: Final = services
        self._slices: Final = slices
        self._version = services + slices + 100
        encode = msgspec.json.encode
        self._items: Final[dict[str, list[bytes]]] = {
            "namespaces": [
                encode({"metadata": meta(f"ns-{number}", "", number + 1)})
                for number in range(_NAMESPACES)
            ],
            "services": [encode(service(number)) for number in range(services)],
            "pods": [encode(pod(number)) for number in range(services)],
            "endpointslices": [
                encode(endpoint_slice(number, services=services, version=services + number))
                for number in range(slices)
            ],
        }
        self._watches: dict[str, set[web.StreamResponse]] = {}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer any request."""
        if request.path == "/apis":
            return web.json_response(_discovery())
        if request.path == "/events":
            sent = await self._events(float(request.query["rate"]), float(request.query["seconds"]))
            return web.Response(text=str(sent))
        plural = request.path.rpartition("/")[2]
        if request.query.get("watch") == "true":
            return await self._watch(request, plural)
        return self._page(plural, request.query)

    def _page(self, plural: str, query: Any) -> web.Response:
        items = self._items.get(plural, [])
        start, limit = int(query.get("continue", 0)), int(query.get("limit", 0)) or len(items)
        end = start + limit
        token = b',"continue":"%d"' % end if end < len(items) else b""
        body = b'{"metadata":{"resourceVersion":"%d"%s},"items":[%s]}' % (
            self._version, token, b",".join(items[start:end]),
        )  # fmt: skip
        return web.Response(body=body)

    async def _watch(self, request: web.Request, plural: str) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if request.query.get("sendInitialEvents") == "true":
            for item in self._items.get(plural, []):
                await response.write(_line("ADDED", item))
            end = b'{"kind":"X","metadata":{"resourceVersion":"%d","annotations":%s}}' % (
                self._version, b'{"k8s.io/initial-events-end":"true"}',
            )  # fmt: skip
            await response.write(_line("BOOKMARK", end))
        watches = self._watches.setdefault(plural, set())
        watches.add(response)
        try:
            await asyncio.Event().wait()
        finally:
            watches.discard(response)
        return response

    async def _events(self, rate: float, seconds: float) -> int:
        began = time.monotonic()
        sent = 0
        while (now := time.monotonic() - began) < seconds:
            if sent >= now * rate:
                await asyncio.sleep(sent / rate - now)
                continue
            self._version += 1
            item = endpoint_slice(
                sent * 7919 % self._slices, services=self._services, version=self._version
            )
            line = _line("MODIFIED", msgspec.json.encode(item))
            for response in self._watches.get("endpointslices", ()):
                await response.write(line)
            sent += 1
        return sent


def _line(kind: str, item: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (kind.encode(), item)


def _discovery() -> Json:
    resources = {"discovery.k8s.io": ["endpointslices"]}
    return {
        "kind": "APIGroupDiscoveryList",
        "items": [
            {
                "metadata": {"name": group},
                "versions": [
                    {
                        "version": "v1",
                        "resources": [{"resource": name} for name in resources.get(group, [])],
                    }
                ],
            }
            for group in _GROUPS
        ],
    }


async def serve(services: int, slices: int) -> None:
    """Serve until the parent ends the process."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", Api(services, slices).answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))

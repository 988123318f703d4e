"""What a control plane sends to a node over xDS, and what `pylot render` makes of files for it.

Both as bytes, by type and name. Must not know who runs them. The rule that is easy to break: both
are asked for the same node, so the node is one message and is read by the server's own code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf import json_format

from controlplane.ads.wire import SERVICE, SOTW_METHOD, decode_request
from controlplane.cli.rendering import all_resources
from controlplane.sources.files import load_snapshot
from controlplane.translate.build import Generator
from controlplane.translate.envoy import (
    Cluster,
    ClusterLoadAssignment,
    DiscoveryRequest,
    DiscoveryResponse,
    Listener,
    Node,
    RouteConfiguration,
)
from controlplane.translate.resources import Resource, ResourceType

_ORDER: Final = {
    "clusters": ResourceType.CLUSTER,
    "endpoints": ResourceType.ENDPOINT,
    "listeners": ResourceType.LISTENER,
    "routes": ResourceType.ROUTE,
}
_MESSAGES: Final[Mapping[ResourceType, Any]] = {
    ResourceType.CLUSTER: Cluster,
    ResourceType.ENDPOINT: ClusterLoadAssignment,
    ResourceType.LISTENER: Listener,
    ResourceType.ROUTE: RouteConfiguration,
}
_PATIENCE: Final = 10.0


def node_of(dump: Iterable[Mapping[str, Any]]) -> Any:
    """The node of an Envoy, out of its config dump."""
    bootstrap = next(entry["bootstrap"] for entry in dump if "bootstrap" in entry)
    node: Any = Node()
    json_format.ParseDict(bootstrap["node"], node, ignore_unknown_fields=True)
    return node


def rendered(directory: Path, mesh_config: Path, node: Any) -> dict[ResourceType, dict[str, bytes]]:
    """What the walk of `pylot render` makes of files for a node."""
    _, proxy = decode_request(DiscoveryRequest(node=node).SerializeToString(), first=True)
    assert proxy is not None
    snapshot = load_snapshot(
        [directory], mesh_config=mesh_config, domain="cluster.local", cluster_id="Kubernetes"
    )
    found: Mapping[str, Sequence[Resource]] = all_resources(Generator(), snapshot, proxy)
    return {kind: {one.name: one.body for one in found[name]} for name, kind in _ORDER.items()}


async def served(
    address: str, node: Any, names: Mapping[ResourceType, Sequence[str]]
) -> dict[ResourceType, dict[str, bytes]]:
    """What a control plane sends to a node; `names` of what has to be asked for by name."""
    found: dict[ResourceType, dict[str, bytes]] = {}
    async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(_PATIENCE):
        call: Any = channel.stream_stream(f"/{SERVICE}/{SOTW_METHOD}")()
        for kind in _ORDER.values():
            if kind in names and not names[kind]:
                found[kind] = {}
                continue
            request: Any = DiscoveryRequest(
                type_url=kind.url, node=node, resource_names=names.get(kind, ())
            )
            await call.write(request.SerializeToString())
            answer: Any = DiscoveryResponse.FromString(await call.read())
            while answer.type_url != kind.url:  # the control plane may repeat others
                answer = DiscoveryResponse.FromString(await call.read())
            found[kind] = dict(_resource(one) for one in answer.resources)
            # Routes wait for the acknowledgement of clusters.
            request.version_info, request.response_nonce = answer.version_info, answer.nonce
            await call.write(request.SerializeToString())
        call.cancel()
    return found


def _resource(packed: Any) -> tuple[str, bytes]:
    kind = ResourceType(packed.type_url)
    message: Any = _MESSAGES[kind].FromString(packed.value)
    name = message.cluster_name if kind is ResourceType.ENDPOINT else message.name
    return name, packed.value

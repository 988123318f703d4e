"""Discovery requests as bytes, and the few facts of a response that a sidecar acts on.

Requests are put together from parts that all sidecars share; of a response only the fields before
its resources are read. The names inside a response are found by protobuf, once for each distinct
response. The rule that is easy to break: nothing here uses code of the control plane, so that
both sides cannot share a mistake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

SOTW_METHOD: Final = (
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
)
DELTA_METHOD: Final = (
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
)
CDS, EDS, LDS, RDS = TYPES = ("CDS", "EDS", "LDS", "RDS")
URLS: Final[Mapping[str, str]] = {
    CDS: "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    EDS: "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    LDS: "type.googleapis.com/envoy.config.listener.v3.Listener",
    RDS: "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
}
SHORT: Final[Mapping[bytes, str]] = {url.encode(): short for short, url in URLS.items()}

# Fields of DiscoveryRequest and DeltaDiscoveryRequest.
_SOTW_VERSION, _SOTW_NODE, _SOTW_NAMES, _SOTW_TYPE, _SOTW_NONCE, _SOTW_ERROR = 1, 2, 3, 4, 5, 6
_DELTA_NODE, _DELTA_TYPE, _DELTA_SUBSCRIBE, _DELTA_UNSUBSCRIBE, _DELTA_NONCE, _DELTA_ERROR = (
    1, 2, 3, 4, 6, 7,
)  # fmt: skip
# Fields of both responses before the resources.
_VERSION, _RESOURCES, _TYPE_URL, _NONCE = 1, 2, 4, 5


class Head(NamedTuple):
    """What a response says before its resources."""

    version: str
    type: str  # one of TYPES, "" when it is none of them
    nonce: str


class Found(NamedTuple):
    """What the resources of a response lead to; `removed` is empty in state of the world."""

    names: frozenset[str]  # the resources' own names
    leads_to: Mapping[str, frozenset[str]]  # resource name -> names to ask the next type for
    removed: frozenset[str]


def field(number: int, payload: bytes) -> bytes:
    """Return one length-delimited field."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def fields(number: int, values: Iterable[str]) -> bytes:
    """Return a repeated string field, in an order that depends on the values alone."""
    return b"".join(field(number, value.encode()) for value in sorted(values))


class Sotw:
    """State-of-the-world requests. `names` is the encoded list that `name_list` returns."""

    method: Final = SOTW_METHOD

    @staticmethod
    def node(node: bytes) -> bytes:
        """The node field of the first request."""
        return field(_SOTW_NODE, node)

    @staticmethod
    def name_list(names: Iterable[str]) -> bytes:
        """The subscribed names."""
        return fields(_SOTW_NAMES, names)

    @staticmethod
    def request(kind: str, *, names: bytes, head: Head | None, error: str = "") -> bytes:
        """An answer to the response with that head, or a first request without one."""
        # In the order of the field numbers, as every protobuf library writes them.
        made = b""
        if head is not None and not error:
            made = field(_SOTW_VERSION, head.version.encode())
        made += names + field(_SOTW_TYPE, URLS[kind].encode())
        if head is not None:
            made += field(_SOTW_NONCE, head.nonce.encode())
        return made + (_failure(_SOTW_ERROR, error) if error else b"")


class Delta:
    """Delta requests."""

    method: Final = DELTA_METHOD

    @staticmethod
    def node(node: bytes) -> bytes:
        """The node field of the first request."""
        return field(_DELTA_NODE, node)

    @staticmethod
    def name_list(names: Iterable[str], unsubscribe: Iterable[str] = ()) -> bytes:
        """Names to subscribe to and to unsubscribe from."""
        return fields(_DELTA_SUBSCRIBE, names) + fields(_DELTA_UNSUBSCRIBE, unsubscribe)

    @staticmethod
    def request(kind: str, *, names: bytes, head: Head | None, error: str = "") -> bytes:
        """An answer to the response with that head, or a spontaneous request without one."""
        made = field(_DELTA_TYPE, URLS[kind].encode()) + names
        if head is not None:
            made += field(_DELTA_NONCE, head.nonce.encode())
        return made + (_failure(_DELTA_ERROR, error) if error else b"")


def _failure(number: int, message: str) -> bytes:
    return field(number, field(2, message.encode()))


def node(number: int, *, namespace: str, labels: Mapping[str, str], extensions: bytes) -> bytes:
    """Return a Node: the sidecar with that number, with an Envoy's long list of extensions."""
    from google.protobuf.struct_pb2 import Struct

    metadata = Struct()
    metadata.update({"NAMESPACE": namespace, "LABELS": dict(labels), "ISTIO_VERSION": "1.28.0"})
    address = f"172.{16 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}"
    name = f"sidecar~{address}~pod-{number}.{namespace}~{namespace}.svc.cluster.local"
    return (
        field(1, name.encode())
        + field(2, f"pod.{namespace}".encode())
        + field(3, metadata.SerializeToString(deterministic=True))
        + extensions
    )


def extensions(count: int) -> bytes:
    """Return the encoded extensions of a node; an Envoy 1.40 sends 516 of them, 61 kB in all."""
    made = (
        field(1, f"envoy.filters.http.extension_number_{index}".encode())
        + field(2, b"envoy.filters.http")
        + field(5, f"envoy.extensions.filters.http.number_{index}.v3.Number".encode())
        for index in range(count)
    )
    return b"".join(field(9, one) for one in made)


def read_head(data: bytes) -> Head | None:
    """Return version, type and nonce, None when one of them is not before the resources."""
    found: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        key = data[position]
        number = key >> 3
        if key & 7 != 2 or number == _RESOURCES:
            break
        size, shift = 0, 0
        while True:
            position += 1
            if position >= len(data):
                break
            size |= (data[position] & 0x7F) << shift
            shift += 7
            if not data[position] & 0x80:
                break
        position += 1
        if position + size > len(data):
            break
        found[number] = data[position : position + size]
        position += size
    if _VERSION not in found or _TYPE_URL not in found or _NONCE not in found:
        return None
    return Head(found[_VERSION].decode(), SHORT.get(found[_TYPE_URL], ""), found[_NONCE].decode())


def read_whole(data: bytes, *, delta: bool) -> tuple[Head, Found]:
    """Return everything that matters of a response."""
    from envoy.service.discovery.v3 import discovery_pb2

    response: Any
    if delta:
        response = discovery_pb2.DeltaDiscoveryResponse.FromString(data)
        head_version = response.system_version_info
        resources = [(item.name, item.resource) for item in response.resources]
        removed = frozenset(response.removed_resources)
    else:
        response = discovery_pb2.DiscoveryResponse.FromString(data)
        head_version = response.version_info
        resources = [("", item) for item in response.resources]
        removed = frozenset()
    kind = SHORT.get(response.type_url.encode(), "")
    names: set[str] = set()
    leads_to: dict[str, frozenset[str]] = {}
    for name, packed in resources:
        own, next_names = _resource(kind, packed.value)
        names.add(name or own)
        if next_names:
            leads_to[name or own] = next_names
    head = Head(head_version, kind, response.nonce)
    return head, Found(frozenset(names), leads_to, removed)


def _resource(kind: str, data: bytes) -> tuple[str, frozenset[str]]:
    """Return a resource's name and the names that its sidecar asks the next type for."""
    match kind:
        case "CDS":
            from envoy.config.cluster.v3.cluster_pb2 import Cluster

            cluster = Cluster.FromString(data)
            if cluster.type != Cluster.EDS:
                return cluster.name, frozenset()
            service_name = cluster.eds_cluster_config.service_name
            return cluster.name, frozenset({service_name or cluster.name})
        case "LDS":
            from envoy.config.listener.v3.listener_pb2 import Listener

            listener = Listener.FromString(data)
            return listener.name, frozenset(_route_names(listener))
        case "EDS":
            from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

            return ClusterLoadAssignment.FromString(data).cluster_name, frozenset()
        case "RDS":
            from envoy.config.route.v3.route_pb2 import RouteConfiguration

            return RouteConfiguration.FromString(data).name, frozenset()
        case _:
            return "", frozenset()


def _route_names(listener: Any) -> Iterable[str]:
    from envoy.extensions.filters.network.http_connection_manager.v3 import (
        http_connection_manager_pb2 as manager_pb2,
    )

    chains = [*listener.filter_chains, listener.default_filter_chain]
    for chain in chains:
        for item in chain.filters:
            manager = manager_pb2.HttpConnectionManager()
            if item.typed_config.Is(manager.DESCRIPTOR):
                item.typed_config.Unpack(manager)
                if manager.HasField("rds"):
                    yield manager.rds.route_config_name

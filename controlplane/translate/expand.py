"""Resources as people read them: proto3 JSON with proto field names, `Any` expanded.

Used by `render`, the debug endpoints and the golden tests. The rule that is easy to break: what
is shown is decoded from the very bytes that are sent, never from what made them.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import json_format

from controlplane.translate import envoy
from controlplane.translate.resources import Resource, ResourceType

_MESSAGES: Final = {
    ResourceType.CLUSTER: envoy.Cluster,
    ResourceType.ENDPOINT: envoy.ClusterLoadAssignment,
    ResourceType.LISTENER: envoy.Listener,
    ResourceType.ROUTE: envoy.RouteConfiguration,
    ResourceType.NAME_TABLE: envoy.NameTable,
}


def parse(resource: Resource) -> Any:
    """Return the protobuf message of a resource."""
    return _MESSAGES[resource.type].FromString(resource.body)


def expand(resource: Resource) -> dict[str, Any]:
    """Return a resource as JSON data."""
    return to_data(parse(resource))


def to_data(message: Any) -> dict[str, Any]:
    """Return any protobuf message as JSON data."""
    data: dict[str, Any] = _plain(
        json_format.MessageToDict(message, preserving_proto_field_name=True)
    )
    return data


# Fields that are maps, or hold a Struct: protobuf gives their keys in another order in each
# process. Fields of a message stay in the order of the API.
_MAPS: Final = frozenset(
    {
        "filter_metadata",
        "json_format",
        "table",
        "typed_extension_protocol_options",
        "typed_filter_metadata",
        "typed_per_filter_config",
    }
)


def _plain(value: Any, *, sort: bool = False) -> Any:
    """Return JSON data with ordinary dicts (protobuf makes an OrderedDict of an Any), the same
    in every process."""
    if isinstance(value, dict):
        keys = sorted(value) if sort else value
        return {key: _plain(value[key], sort=sort or key in _MAPS) for key in keys}
    if isinstance(value, list):
        return [_plain(item, sort=sort) for item in value]
    return value

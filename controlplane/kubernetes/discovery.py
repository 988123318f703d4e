"""Which kinds an API server serves, in which versions.

One request when the server knows aggregated discovery (since 1.27), else two for each group.
The rules that are easy to break: a group that cannot be asked now is not a group that is gone,
and a server that starts does not know its CustomResourceDefinitions yet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

import msgspec

from controlplane.kubernetes.client import Client
from controlplane.kubernetes.errors import (
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnauthorizedError,
    UnavailableError,
)

Served = Mapping[str, Mapping[str, frozenset[str]]]
"""By group the versions that are served, by version the plurals of its kinds."""

T = TypeVar("T")

_AGGREGATED: Final = ",".join(
    f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
    for version in ("v2", "v2beta1")
)


class _Resource(msgspec.Struct):
    resource: str = ""
    name: str = ""


class _Version(msgspec.Struct, rename="camel"):
    version: str = ""
    resources: list[_Resource] = []
    freshness: str = "Current"


class _Name(msgspec.Struct, frozen=True):
    name: str = ""


class _Group(msgspec.Struct):
    metadata: _Name = _Name()
    versions: list[_Version] = []


class _Aggregated(msgspec.Struct):
    kind: str = ""
    items: list[_Group] = []


class _Plain(msgspec.Struct):
    versions: list[_Version] = []
    resources: list[_Resource] = []


async def discover(client: Client, groups: Iterable[str]) -> Served:
    """Return what is served of these groups; the core group is always there and is not asked.

    Raises KubernetesError when it cannot be found out completely.
    """
    await _ready(client)
    wanted = frozenset(groups)
    try:
        found = _decode(await client.request("GET", "/apis", accept=_AGGREGATED), _Aggregated)
    except InvalidError:  # 406: an older server
        found = _Aggregated()
    if found.kind == "APIGroupDiscoveryList":
        return {
            group.metadata.name: _versions(group)
            for group in found.items
            if group.metadata.name in wanted
        }
    served: dict[str, Mapping[str, frozenset[str]]] = {}
    for group in sorted(wanted):
        versions = await _plain(client, group)
        if versions:
            served[group] = versions
    return served


async def _ready(client: Client) -> None:
    """Raise UnavailableError while the server starts: it answers, and leaves groups out.

    By default everybody may ask (ClusterRole system:public-info-viewer); without an answer the
    server counts as ready.
    """
    try:
        await client.request("GET", "/readyz")
    except (ForbiddenError, InvalidError, NotFoundError, UnauthorizedError):
        return
    except UnavailableError as error:
        if not error.status:
            raise
        # It answers with a page; the lines of what is not ready begin so.
        failed = ", ".join(re.findall(r"\[-\](\S+)", str(error)))
        raise UnavailableError(
            f"the API server at {client.server} is not ready: {failed or f'HTTP {error.status}'}",
            status=error.status,
        ) from None


def _versions(group: _Group) -> Mapping[str, frozenset[str]]:
    for version in group.versions:
        if version.freshness != "Current":
            raise UnavailableError(
                f"discovery of {group.metadata.name}/{version.version} is not current"
            )
    return {
        version.version: frozenset(entry.resource for entry in version.resources)
        for version in group.versions
    }


async def _plain(client: Client, group: str) -> Mapping[str, frozenset[str]]:
    try:
        found = _decode(await client.request("GET", f"/apis/{group}"), _Plain)
    except NotFoundError:
        return {}
    served: dict[str, frozenset[str]] = {}
    for version in found.versions:
        path = f"/apis/{group}/{version.version}"
        listed = _decode(await client.request("GET", path), _Plain)
        served[version.version] = frozenset(
            entry.name for entry in listed.resources if "/" not in entry.name
        )
    return served


def _decode(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnavailableError(f"the answer of the API server cannot be read: {error}") from None

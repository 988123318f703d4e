"""Virtual hosts as things that can be rejected one by one.

A route configuration is one resource, and many services share it: what an Envoy refuses is one
virtual host of it. Owns the cut into virtual hosts and the exchange of some of them. Must not
know streams or who rejected what. The rule that is easy to break: a virtual host belongs to its
route configuration, so equal ones of two configurations have different versions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakValueDictionary

from controlplane.ads.cache import Collection
from controlplane.ads.types import Names
from controlplane.translate.resources import (
    Joined,
    Origin,
    Part,
    Resource,
    ResourceType,
    content_hash,
    digest,
    length_delimited,
    serialise,
)

_REMEMBERED: Final = 64  # route configurations, cut or exchanged


class VirtualHost:
    """One virtual host of a route configuration; `name` is a path that says both."""

    __slots__ = ("__weakref__", "host", "name", "part", "route", "version")

    type: Final = ResourceType.ROUTE

    def __init__(self, route: str, host: str, part: Part) -> None:
        self.route: Final = route
        self.host: Final = host
        self.part: Final = part
        self.name: Final = f"{route} virtual_hosts[{host}]"
        self.version: Final = content_hash(route.encode() + b"\0" + part.digest)

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Where it comes from."""
        return self.part.origins

    @property
    def body(self) -> bytes:
        """Its bytes in the route configuration."""
        return self.part.beginning + self.part.tail

    @property
    def clusters(self) -> Names:
        """The clusters that it names."""
        return frozenset(self.part.clusters)


Item = Resource | VirtualHost
"""What can be rejected, suspected and kept back."""


def resource_name(item: Item) -> str:
    """Return the name of the resource that something is, or is a part of."""
    return item.route if isinstance(item, VirtualHost) else item.name


class VirtualHosts:
    """Cuts route configurations, and remembers the last ones."""

    def __init__(self) -> None:
        self._cut: OrderedDict[bytes, Mapping[str, VirtualHost]] = OrderedDict()
        # One object for what many versions of a route configuration have alike.
        self._known: WeakValueDictionary[tuple[str, bytes], VirtualHost] = WeakValueDictionary()
        self._versions: WeakKeyDictionary[Collection, Names] = WeakKeyDictionary()
        self._exchanged: OrderedDict[tuple[str, ...], Resource] = OrderedDict()

    def of(self, resource: Resource | None) -> Mapping[str, VirtualHost]:
        """Return the virtual hosts of a route configuration by name; none of anything else."""
        if resource is None or resource.type is not ResourceType.ROUTE:
            return {}
        found = self._cut.get(resource.digest)
        if found is None:
            cut = [self._of_part(resource.name, part) for part in joined(resource).parts]
            found = self._cut[resource.digest] = {item.host: item for item in cut}
            if len(self._cut) > _REMEMBERED:
                self._cut.popitem(last=False)
        return found

    def _of_part(self, route: str, part: Part) -> VirtualHost:
        key = (route, part.digest)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = VirtualHost(route, read(part).name, part)
        return found

    def versions(self, collection: Collection) -> Names:
        """Return the hashes of all resources and virtual hosts that a collection shows."""
        found = self._versions.get(collection)
        if found is None:
            hosts = [self.of(resource) for resource in collection.by_name.values()]
            found = self._versions[collection] = frozenset(collection.by_version).union(
                *([item.version for item in cut.values()] for cut in hosts)
            )
        return found

    def holds(self, collection: Collection | None, item: Item) -> bool:
        """Whether a collection shows exactly this resource or virtual host."""
        if collection is None:
            return False
        if isinstance(item, VirtualHost):
            held = self.of(collection.get(item.route)).get(item.host)
            return held is not None and held.version == item.version
        resource = collection.get(item.name)
        return resource is not None and resource.digest == item.digest

    def exchange(self, resource: Resource, instead: Mapping[str, VirtualHost | None]) -> Resource:
        """Return a route configuration with some virtual hosts replaced, or left out."""
        key = (
            resource.version,
            *(f"{host}={new.version if new else ''}" for host, new in sorted(instead.items())),
        )
        found = self._exchanged.get(key)
        if found is None:
            whole = joined(resource)
            items = [instead.get(host, item) for host, item in self.of(resource).items()]
            parts = [item.part for item in items if item is not None]
            made = Joined(whole.head, parts, whole.tail)
            found = self._exchanged[key] = Resource.of(resource.type, resource.name, made)
            if len(self._exchanged) > _REMEMBERED:
                self._exchanged.popitem(last=False)
        return found


def joined(resource: Resource) -> Joined:
    """Return a route configuration as it is joined from virtual hosts."""
    from controlplane.translate.envoy import RouteConfiguration

    if isinstance(resource.kept, Joined):
        return resource.kept
    message: Any = RouteConfiguration.FromString(resource.body)
    parts = [_Piece(resource, host) for host in message.virtual_hosts]
    del message.virtual_hosts[:]
    return Joined(serialise(message), parts, b"")


def read(part: Part) -> Any:
    """Return the message of a virtual host."""
    from controlplane.translate.envoy import RouteConfiguration

    (host,) = RouteConfiguration.FromString(part.beginning + part.tail).virtual_hosts
    return host


class _Piece:
    """A virtual host that was cut out of a route configuration."""

    __slots__ = ("beginning", "clusters", "digest", "origins")

    tail: Final = b""

    def __init__(self, resource: Resource, host: Any) -> None:
        from controlplane.translate.envoy import RouteConfiguration

        body = serialise(host)
        field: int = RouteConfiguration.VIRTUAL_HOSTS_FIELD_NUMBER
        self.beginning: Final = length_delimited(field, body)
        self.digest: Final = digest(self.beginning)
        self.clusters: Final = tuple(name for name in resource.clusters if name.encode() in body)
        self.origins: Final = _origins(resource, host.name)


def _origins(resource: Resource, host: str) -> tuple[Origin, ...]:
    """Return the origins of one virtual host; of the whole where none says more."""
    part = f"virtual_hosts[{host}]"
    own = tuple(
        origin
        for origin in resource.origins
        if origin.part == part or origin.part.startswith(f"{part}.")
    )
    return own or tuple(origin for origin in resource.origins if not origin.part)

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

from controlplane.ads.cache import Collection
from controlplane.translate.resources import (
    Common,
    Origin,
    Resource,
    ResourceType,
    content_hash,
    serialise,
)

_REMEMBERED: Final = 64  # route configurations, cut or exchanged


class VirtualHost:
    """One virtual host of a route configuration; `name` is a path that says both."""

    __slots__ = ("_named", "body", "host", "name", "origins", "route", "version")

    type: Final = ResourceType.ROUTE

    def __init__(
        self,
        route: str,
        host: str,
        body: bytes,
        *,
        origins: tuple[Origin, ...],
        named: frozenset[str],
    ) -> None:
        """`named` are the clusters of the whole route configuration."""
        self.route: Final = route
        self._named: Final = named
        self.host: Final = host
        self.body: Final = body
        self.origins: Final = origins
        self.name: Final = f"{route} virtual_hosts[{host}]"
        self.version: Final = content_hash(route.encode() + b"\0" + body)

    @property
    def clusters(self) -> frozenset[str]:
        """The clusters that it names, perhaps some more."""
        return frozenset(name for name in self._named if name.encode() in self.body)


Item = Resource | VirtualHost
"""What can be rejected, suspected and kept back."""


class VirtualHosts:
    """Cuts route configurations, and remembers the last ones."""

    def __init__(self) -> None:
        self._cut: OrderedDict[str, Mapping[str, VirtualHost]] = OrderedDict()
        self._exchanged: OrderedDict[tuple[str, ...], Resource] = OrderedDict()

    def of(self, resource: Resource | None) -> Mapping[str, VirtualHost]:
        """Return the virtual hosts of a route configuration by name; none of anything else."""
        if resource is None or resource.type is not ResourceType.ROUTE:
            return {}
        found = self._cut.get(resource.version)
        if found is None:
            found = {
                host.name: VirtualHost(
                    resource.name,
                    host.name,
                    serialise(host),
                    origins=_origins(resource, host.name),
                    named=resource.clusters,
                )
                for host in _message(resource).virtual_hosts
            }
            self._cut[resource.version] = found
            if len(self._cut) > _REMEMBERED:
                self._cut.popitem(last=False)
        return found

    def holds(self, collection: Collection | None, item: Item) -> bool:
        """Whether a collection shows exactly this resource or virtual host."""
        if collection is None:
            return False
        if isinstance(item, VirtualHost):
            held = self.of(collection.get(item.route)).get(item.host)
            return held is not None and held.version == item.version
        resource = collection.get(item.name)
        return resource is not None and resource.version == item.version

    def exchange(self, resource: Resource, instead: Mapping[str, VirtualHost | None]) -> Resource:
        """Return a route configuration with some virtual hosts replaced, or left out."""
        key = (
            resource.version,
            *(f"{host}={new.version if new else ''}" for host, new in sorted(instead.items())),
        )
        found = self._exchanged.get(key)
        if found is None:
            found = self._exchanged[key] = self._exchange(resource, instead)
            if len(self._exchanged) > _REMEMBERED:
                self._exchanged.popitem(last=False)
        return found

    def _exchange(self, resource: Resource, instead: Mapping[str, VirtualHost | None]) -> Resource:
        from controlplane.translate.envoy import VirtualHost as Message

        parts = [instead.get(host, part) for host, part in self.of(resource).items()]
        shown = [part for part in parts if part is not None]
        message = _message(resource)
        del message.virtual_hosts[:]
        message.virtual_hosts.extend(Message.FromString(part.body) for part in shown)
        return Resource.of(
            ResourceType.ROUTE,
            resource.name,
            serialise(message),
            # Those of what was left out are among them: waiting for one more does no harm.
            common=Common(
                clusters=resource.clusters.union(*(new.clusters for new in instead.values() if new))
            ),
            made_of=tuple(origin for part in shown for origin in part.origins),
        )


def _message(resource: Resource) -> Any:
    from controlplane.translate.envoy import RouteConfiguration

    return RouteConfiguration.FromString(resource.body)


def _origins(resource: Resource, host: str) -> tuple[Origin, ...]:
    """Return the origins of one virtual host; of the whole where none says more."""
    part = f"virtual_hosts[{host}]"
    own = tuple(
        origin
        for origin in resource.origins
        if origin.part == part or origin.part.startswith(f"{part}.")
    )
    return own or tuple(origin for origin in resource.origins if not origin.part)

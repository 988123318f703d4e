"""What Envoys rejected: an overlay over what is wanted, never an input of translation.

Keyed by Envoy build and the hash of a resource, or of a virtual host of a route configuration. A
node that rejected a hash does not get it again; other nodes of the build are spared after two
distinct ones rejected it, unless one of them is known to have accepted it (a proxy that rejects
everything must change nothing for others). Mending the object gives a new hash, which nobody
rejected. The rule that is easy to break: memory is bounded, so the least recently rejected hash
is forgotten first.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from controlplane.ads.types import Names
from controlplane.ads.virtual_hosts import Item, VirtualHost, VirtualHosts, resource_name
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.translate.resources import Resource, ResourceType

SPARE_AFTER: Final = 2  # distinct nodes
_MAX_HASHES: Final = 4_096
_MAX_NODES: Final = 1_024
_MAX_PAIRS: Final = 100_000  # of a hash and a node, 200 bytes each
_MAX_MESSAGE: Final = 2_000  # characters
_LOOKED_AT: Final = 10_000  # accepted resources


class Rejection:
    """One resource, or virtual host of one, that Envoys of one build rejected.

    `among` is how many are suspected with it when the client does not say which it rejects.
    """

    __slots__ = ("accepted", "among", "build", "item", "message", "nodes", "predecessor")

    def __init__(
        self, item: Item, build: str, message: str, predecessor: Item | None, *, among: int = 1
    ) -> None:
        self.item: Final = item
        self.among: Final = among
        self.build: Final = build
        self.message: Final = message
        self.predecessor = predecessor  # what some node had accepted in its place
        self.nodes: dict[str, None] = {}
        self.accepted = False  # by some node of the same build

    @property
    def version(self) -> str:
        """The hash that was rejected."""
        return self.item.version

    @property
    def resource(self) -> str:
        """The name of the resource that it is, or is a part of."""
        return resource_name(self.item)

    @property
    def spared(self) -> bool:
        """Whether nodes that have not rejected it do not get it either."""
        return len(self.nodes) >= SPARE_AFTER and not self.accepted

    def concerns(self, node: str, build: str) -> bool:
        """Whether that node is not to get the resource."""
        return build == self.build and (node in self.nodes or self.spared)

    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Return one finding for each object that made what was rejected."""
        item = self.item
        count = len(self.nodes)
        who = f"{count} prox{'y' if count == 1 else 'ies'} ({self.build or 'unknown build'})"
        if self.among > 1:
            level = Level.WARNING
            what = (
                f"does not reach {who}: one or several of {self.among} are rejected, nobody can "
                f"tell which, and all stay as they were"
            )
        else:
            level, what = Level.ERROR, f"was rejected by {who}"
        text = f"{item.type.name.lower()} {item.name!r} {what}: {self.message}"
        whole = {origin.ref: origin for origin in reversed(item.origins)}
        if not whole:
            return (Diagnostic(level=level, code="RejectedByEnvoy", message=text),)
        return tuple(
            Diagnostic(
                level=level,
                code="RejectedByEnvoy",
                message=text,
                ref=ref,
                field=origin.field,
            )
            for ref, origin in whole.items()
        )


class Rejections:
    """All rejections, by type, hash and build."""

    def __init__(self) -> None:
        self.virtual_hosts: Final = VirtualHosts()
        self._by_type: dict[ResourceType, OrderedDict[tuple[str, str], Rejection]] = {
            kind: OrderedDict() for kind in ResourceType
        }
        # Who asks is a stream, and most streams are healthy: they must not look at what others
        # rejected. `_spared` may hold entries that are spared no more.
        self._by_node: dict[tuple[ResourceType, str], dict[tuple[str, str], Rejection]] = {}
        self._spared: dict[ResourceType, dict[tuple[str, str], Rejection]] = {
            kind: {} for kind in ResourceType
        }
        # Of virtual hosts, by their route configuration.
        self._by_route: dict[str, dict[tuple[str, str], Rejection]] = {}
        # What healthy streams acknowledge is looked at once, until something is rejected again.
        self._looked_at: set[tuple[bytes, str]] = set()
        self._pairs = 0  # of a hash and a node that rejected it

    def of(self, kind: ResourceType) -> Iterable[Rejection]:
        """Return the rejections of a type."""
        return self._by_type[kind].values()

    def concerning(
        self, kind: ResourceType, node: str, build: str, *, shown: Names | None = None
    ) -> list[Rejection]:
        """Return the rejections of a type whose resources that node is not to get.

        With `shown` only those of these hashes: what a node ever rejected may be much more.
        """
        own = self._by_node.get((kind, node), {})
        spared = self._spared[kind]
        for key, rejection in tuple(spared.items()):
            if not rejection.spared:
                del spared[key]
        found: dict[tuple[str, str], Rejection] = {}
        for known in (own, spared):
            if shown is None or len(known) < len(shown):
                found.update(item for item in known.items() if shown is None or item[0][0] in shown)
            else:
                keys = ((version, build) for version in shown)
                found.update((key, known[key]) for key in keys if key in known)
        return [rejection for rejection in found.values() if rejection.concerns(node, build)]

    def may_concern(self, kind: ResourceType, node: str) -> bool:
        """Whether `concerning` has to be asked, for some build."""
        return bool(self._spared[kind]) or (kind, node) in self._by_node

    def refuses(self, item: Item, node: str, build: str) -> bool:
        """Whether that node is not to get the resource or virtual host."""
        found = self._by_type[item.type].get((item.version, build))
        return found is not None and found.concerns(node, build)

    def standing(
        self, wanted: Resource | None, held: Resource | None, *, node: str, build: str
    ) -> list[Rejection]:
        """Return why a node holds something else than is wanted; none if it just does not yet."""
        if wanted is None:
            return []
        if self.refuses(wanted, node, build):
            return [self._by_type[wanted.type][wanted.version, build]]
        if wanted.name not in self._by_route:
            return []
        has = self.virtual_hosts.of(held)
        found: list[Rejection] = []
        for host, part in self.virtual_hosts.of(wanted).items():
            if host in has and has[host].version == part.version:
                continue
            if not self.refuses(part, node, build):
                return []
            found.append(self._by_type[part.type][part.version, build])
        return found

    def any(self, kind: ResourceType) -> bool:
        """Whether something of that type was rejected."""
        return bool(self._by_type[kind])

    def record(
        self,
        item: Item,
        *,
        node: str,
        build: str,
        message: str,
        predecessor: Item | None,
    ) -> Rejection:
        """Take note that a node rejected a resource or virtual host."""
        known = self._by_type[item.type]
        key = (item.version, build)
        found = known.get(key)
        if found is None:
            found = known[key] = Rejection(item, build, message[:_MAX_MESSAGE].strip(), predecessor)
            if isinstance(item, VirtualHost):
                self._by_route.setdefault(item.route, {})[key] = found
        if found.predecessor is None:
            found.predecessor = predecessor  # the first may have come back with what nobody knows
        known.move_to_end(key)
        self._looked_at.clear()
        if len(found.nodes) >= _MAX_NODES:
            self._forget_node(key, found, next(iter(found.nodes)))
        if node not in found.nodes:
            self._pairs += 1
        found.nodes[node] = None
        self._by_node.setdefault((item.type, node), {})[key] = found
        if found.spared:
            self._spared[item.type][key] = found
        while len(known) > _MAX_HASHES or (self._pairs > _MAX_PAIRS and len(known) > 1):
            self._forget(*known.popitem(last=False))
        return found

    def _forget(self, key: tuple[str, str], rejection: Rejection) -> None:
        for node in tuple(rejection.nodes):
            self._forget_node(key, rejection, node)
        item = rejection.item
        self._spared[item.type].pop(key, None)
        if isinstance(item, VirtualHost):
            del self._by_route[item.route][key]
            if not self._by_route[item.route]:
                del self._by_route[item.route]

    def _forget_node(self, key: tuple[str, str], rejection: Rejection, node: str) -> None:
        del rejection.nodes[node]
        self._pairs -= 1
        where = (rejection.item.type, node)
        known = self._by_node[where]
        del known[key]
        if not known:
            del self._by_node[where]

    def accepted(self, resources: Iterable[Resource], *, build: str) -> bool:
        """Take note that a node of that build accepted these; return whether it frees one."""
        freed = False
        for resource in resources:
            known = self._by_type[resource.type]
            if not known:
                return freed
            looked_at = (resource.digest, build)
            if looked_at in self._looked_at:
                continue
            if len(self._looked_at) >= _LOOKED_AT:
                self._looked_at.clear()
            self._looked_at.add(looked_at)
            versions = [resource.version]
            if resource.name in self._by_route:
                versions += [item.version for item in self.virtual_hosts.of(resource).values()]
            for version in versions:
                rejection = known.get((version, build))
                if rejection is not None and not rejection.accepted:
                    freed = freed or rejection.spared
                    rejection.accepted = True
        return freed

    def diagnostics(self, wanted: Callable[[Item], bool]) -> tuple[Diagnostic, ...]:
        """Return the findings about what is still wanted."""
        return tuple(
            diagnostic
            for known in self._by_type.values()
            for rejection in known.values()
            if wanted(rejection.item)
            for diagnostic in rejection.diagnostics()
        )


# What a name goes on with; a full stop or colon after it may also end the sentence.
_BEFORE: Final = r"[\w.\-|~/*]"
_AFTER: Final = r"[\w\-|~/*]|\.\w"


def named_in(message: str, resources: Iterable[Resource]) -> tuple[Resource, ...]:
    """Return the resources whose names the message says as whole words."""
    return tuple(
        resource
        for resource in resources
        if resource.name in message
        and re.search(
            rf"(?<!{_BEFORE}){re.escape(resource.name)}(?!{_AFTER})",
            message,
        )
    )

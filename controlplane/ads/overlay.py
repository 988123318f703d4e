"""What a node is shown instead of what it rejected, or is suspected of rejecting (rule 11).

Functions over a watch and the rejections; nothing is sent and nothing recorded here. The unit is
the smallest thing that can be left as it was: a virtual host of a route configuration, else a
resource. The rule that is easy to break: what the node has accepted is never withheld from it.
"""

from __future__ import annotations

from collections.abc import Iterable

from controlplane.ads.cache import Collection
from controlplane.ads.rejections import Rejection, Rejections
from controlplane.ads.virtual_hosts import Item, VirtualHost
from controlplane.ads.watch import Watch
from controlplane.translate.resources import Resource


def changes(
    watch: Watch, resources: Iterable[Resource], rejections: Rejections
) -> tuple[Item, ...]:
    """Return the smallest parts of these resources that the client has not accepted."""
    hosts = rejections.virtual_hosts
    found: list[Item] = []
    for resource in resources:
        held = hosts.of(watch.predecessor(resource.name))
        parts = [
            part
            for host, part in hosts.of(resource).items()
            if host not in held or held[host].version != part.version
        ]
        found += parts or [resource]  # if only its frame changed, the whole is to blame
    return tuple(found)


def without_answer_to_come(
    watch: Watch, suspects: Iterable[Item], rejections: Rejections
) -> tuple[Item, ...]:
    """Return those that no newer response holds, whose answer will tell about the others."""
    hosts = rejections.virtual_hosts
    newer = [Collection.of(watch.info.kind, sent.content.resources) for sent in watch.unanswered]
    return tuple(
        item for item in suspects if not any(hosts.holds(content, item) for content in newer)
    )


def predecessor(watch: Watch, item: Item, rejections: Rejections) -> Item | None:
    """Return what the client accepted in the place of a resource or virtual host."""
    return None if watch.accepted is None else _of(watch.accepted, item, rejections)


def _of(collection: Collection, item: Item, rejections: Rejections) -> Item | None:
    """Return what a collection shows in the place of a resource or virtual host."""
    if isinstance(item, VirtualHost):
        return rejections.virtual_hosts.of(collection.get(item.route)).get(item.host)
    return collection.get(item.name)


def withheld(
    watch: Watch, base: Collection, rejections: Rejections, *, node: str, build: str
) -> Collection:
    """Return `base` as it is shown to that node."""
    kind = watch.info.kind
    refused: list[Rejection] = []
    if rejections.may_concern(kind, node):
        shown = rejections.virtual_hosts.versions(base)
        refused = rejections.concerning(kind, node, build, shown=shown)
    if not refused and watch.bisection is None:
        return base
    instead: dict[Item, Item | None] = {
        rejection.item: _older(watch, rejection, rejections, node=node, build=build)
        for rejection in refused
    }
    if watch.bisection is not None:
        # What is shown in the place of something refused can be refused as well.
        stand_ins = {older.version for older in instead.values() if older is not None}
        watch.bisection.keep_only(
            lambda item: (
                (item.version in stand_ins or rejections.virtual_hosts.holds(base, item))
                and not rejections.refuses(item, node, build)
            )
        )
        kept_back = {item.version: item for item in watch.bisection.kept_back}
        for item, older in instead.items():
            if older is not None and older.version in kept_back:
                instead[item] = None
        for item in kept_back.values():
            instead.setdefault(item, predecessor(watch, item, rejections))
    parted = base.overlay(_parted(watch, base, rejections, instead))
    return parted.overlay(
        {
            item.name: older
            for item, older in instead.items()
            if isinstance(item, Resource)
            and (older is None or isinstance(older, Resource))
            and _to_withhold(watch, parted, rejections, item)
        }
    )


def is_withheld(watch: Watch, item: Item, rejections: Rejections, *, node: str, build: str) -> bool:
    """Whether something is not to be sent to that node, or a part of it is not."""
    suspects = watch.bisection.kept_back if watch.bisection is not None else ()
    kept_back = {suspect.version for suspect in suspects}
    parts = rejections.virtual_hosts.of(item) if isinstance(item, Resource) else {}
    return any(
        one.version in kept_back or rejections.refuses(one, node, build)
        for one in (item, *parts.values())
    )


def _older(
    watch: Watch, rejection: Rejection, rejections: Rejections, *, node: str, build: str
) -> Item | None:
    item = rejection.item
    older = predecessor(watch, item, rejections) or rejection.predecessor
    if older is None and watch.sent is not None:
        older = _of(watch.sent, item, rejections)  # it may be on its way to the client
    if older is not None and rejections.refuses(older, node, build):
        return None
    return older


def _parted(
    watch: Watch,
    base: Collection,
    rejections: Rejections,
    instead: dict[Item, Item | None],
) -> dict[str, Resource | None]:
    """Return the route configurations in which virtual hosts are left as they were."""
    bisection = watch.bisection
    untouched: set[str] = set()  # a suspect would be gone from under the client
    if bisection is not None:
        untouched = {
            item.route
            for item in bisection.held_whole
            if isinstance(item, VirtualHost) and watch.only_brought(item.route)
        }
    exchanged: dict[str, dict[str, VirtualHost | None]] = {}
    for item, older in instead.items():
        if isinstance(item, VirtualHost) and _to_withhold(watch, base, rejections, item):
            known = older if isinstance(older, VirtualHost) else None
            exchanged.setdefault(item.route, {})[item.host] = known
    found: dict[str, Resource | None] = {}
    for route, parts in exchanged.items():
        resource = base.by_name[route]
        if route in untouched:
            found[route] = None
        elif any(parts.values()) or len(parts) < len(rejections.virtual_hosts.of(resource)):
            found[route] = rejections.virtual_hosts.exchange(resource, parts)
        else:
            found[route] = watch.predecessor(route)  # nothing of it is left
    return found


def _to_withhold(watch: Watch, base: Collection, rejections: Rejections, item: Item) -> bool:
    hosts = rejections.virtual_hosts
    return hosts.holds(base, item) and not hosts.holds(watch.accepted, item)

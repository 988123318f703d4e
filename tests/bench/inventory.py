"""What the bytes of one service consist of: every object that is held, by who holds it first.

Run as `python -m tests.bench.inventory [SERVICES]`. A source, a registry and a pusher with one
delta stream hold the mesh in this process, and everything that can be reached from them is
weighed once, in the order of the rows. The rule that is easy to break: what the walk does not
follow is not weighed, so a type that keeps its parts in a new way needs its line in `_parts`.
"""

from __future__ import annotations

import enum
import gc
import sys
import time
import types
from collections import Counter, deque
from collections.abc import Iterator
from itertools import chain
from typing import Any, Final
from weakref import WeakKeyDictionary

import msgspec

from controlplane.ads.pusher import Pusher
from controlplane.ads.wire import DeltaRequest
from controlplane.model.diff import diff
from controlplane.model.snapshot import EMPTY
from controlplane.registry import Registry
from controlplane.sources.filetree import FileTree
from controlplane.translate.build import Generator
from controlplane.translate.resources import ResourceType
from tests.bench.bed import Size, mesh_directory
from tests.bench.translation import proxies

_ALLOCATED: Final = 16  # bytes: what the allocator rounds up to
_SHOWN: Final = 8.0  # bytes per service; smaller rows are left out
_CODE: Final = (type, types.ModuleType, types.FunctionType, enum.Enum)


def _slots(item: object) -> Iterator[str]:
    for cls in type(item).__mro__:
        found = cls.__dict__.get("__slots__", ())
        yield from (found,) if isinstance(found, str) else found


def _parts(item: Any) -> Iterator[Any]:
    match item:
        case dict():
            yield from chain.from_iterable(item.items())
        case list() | tuple() | set() | frozenset() | deque():
            yield from item
        case msgspec.Struct():
            yield from (getattr(item, name) for name in item.__struct_fields__)
        case types.MethodType():
            yield item.__self__
        case WeakKeyDictionary():
            yield from item.values()
        case _:
            pass
    yield getattr(item, "__dict__", None)
    yield from (getattr(item, name, None) for name in _slots(item) if name != "__weakref__")


def _weigh(root: object, seen: dict[int, object]) -> Counter[str]:
    """Return the bytes of everything below an object that was not seen before, by type."""
    found: Counter[str] = Counter()
    waiting = deque([root])
    while waiting:
        item = waiting.popleft()
        if item is None or isinstance(item, _CODE) or id(item) in seen:
            continue
        seen[id(item)] = item
        found[type(item).__name__] += -(-sys.getsizeof(item) // _ALLOCATED) * _ALLOCATED
        waiting.extend(_parts(item))
    return found


def _connect(pusher: Pusher, size: Size) -> None:
    """Let one sidecar ask for everything and acknowledge it."""
    (proxy,) = proxies(1, classes=1, namespaces=size.namespaces, version="1.28.0")
    stream = pusher.connect(proxy, delta=True, wake=lambda: None)
    view = stream.session.view
    asked = {
        ResourceType.CLUSTER: frozenset[str](),
        ResourceType.ENDPOINT: view.eds_names - {""},
        ResourceType.LISTENER: frozenset[str](),
        ResourceType.ROUTE: view.route_names,
    }
    for kind, names in asked.items():
        request = DeltaRequest(type_url=kind.url, subscribe=tuple(sorted(names)))
        pusher.on_request(stream, request)
    while (send := pusher.take(stream)) is not None:
        pusher.on_request(stream, DeltaRequest(type_url=send.type_url, nonce=send.nonce))
    for collection in stream.session.view.collections():
        length = sum(item.size for item in collection.by_name.values())
        print(f"{length / size.services:8.0f}  bytes on the wire: {collection.kind.name}")


def main(services: int) -> None:
    """Print the bytes per service."""
    size = Size(services=services)
    seen: dict[int, object] = {}
    with mesh_directory(size) as directory:
        tree = FileTree((directory.objects,), mesh_config=directory.mesh)
        registry = Registry(lambda *_: None, sources=("file",))
        registry.deliver("file", tree.scan().delta)
        registry.tick()
        generator = Generator()
        pusher = Pusher(generator, generator.classify, clock=time.monotonic, epoch=time.time)
        pusher.publish(EMPTY, registry.snapshot, diff(EMPTY, registry.snapshot))
        _connect(pusher, size)
        gc.collect()
        rows = {"source": tree, "registry": registry, "generator": generator, "pusher": pusher}
        for name, root in rows.items():
            found = _weigh(root, seen)
            print(f"{found.total() / services:8.0f}  {name}")
            for kind, weight in found.most_common():
                if weight / services >= _SHOWN:
                    print(f"{weight / services:8.0f}      {kind}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else Size().services)

"""What every Kubernetes-style object has: metadata, a reference, an origin in the world."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Final, TypeVar

import msgspec

from controlplane.model.base import NO_LABELS, Labels, Model

Item = TypeVar("Item")
ObjectT = TypeVar("ObjectT", bound="Object")

DEFAULT_NAMESPACE: Final = "default"


class ObjectMeta(Model):
    """The metadata that the model uses.

    resourceVersion, generation and uid are absent on purpose: they change without the object
    changing, and a value is a cache key. They live in `Provenance`.
    """

    name: str = ""
    namespace: str = ""
    labels: Labels = NO_LABELS
    annotations: Labels = NO_LABELS
    creation_timestamp: str | None = None  # RFC 3339 in UTC, so that text order is time order


METADATA_IGNORED: Final = frozenset(
    {
        "resourceVersion",
        "generation",
        "uid",
        "selfLink",
        "generateName",
        "managedFields",
        "ownerReferences",
        "finalizers",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "clusterName",
    }
)
"""Fields of Kubernetes' ObjectMeta that are legal and that the model does not read."""


class ObjectRef(msgspec.Struct, frozen=True, order=True, gc=False):
    """Names one object: kind, namespace (empty for cluster scoped kinds) and name.

    Too numerous to keep a hash; the strings keep theirs.
    """

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        """`Kind namespace/name`, as diagnostics and istioctl print it."""
        return (
            f"{self.kind} {self.namespace}/{self.name}"
            if self.namespace
            else (f"{self.kind} {self.name}")
        )


class Provenance(msgspec.Struct, frozen=True, gc=False):
    """Where an object came from: a side table entry, never part of equality or of bytes."""

    source: str  # "file", "kubernetes", "memory"
    file: str = ""
    line: int = 0
    resource_version: str = ""
    generation: int = 0
    uid: str = ""

    def __str__(self) -> str:
        if self.file:
            return f"{self.file}:{self.line}"
        return f"{self.source} resourceVersion {self.resource_version or '-'}"


NOWHERE: Final = Provenance("")
"""The origin of what no source delivered."""


class Object(Model, cache_hash=False):
    """The base of every kind: each subclass names its kind and adds `spec` or its own fields."""

    KIND: ClassVar[str] = ""
    # Fields of the Kubernetes type that are legal and that the model does not read, by path
    # of the struct they belong to; a check of spelling needs them.
    IGNORED: ClassVar[frozenset[str]] = frozenset()

    metadata: ObjectMeta = ObjectMeta()

    @property
    def ref(self) -> ObjectRef:
        """The reference that names this object."""
        meta = self.metadata
        return ObjectRef(type(self).KIND, meta.namespace, meta.name)


class Record(msgspec.Struct, frozen=True, gc=False):
    """An object, where it came from, and its reference: one value for all who keep them."""

    item: Object
    origin: Provenance
    ref: ObjectRef

    @classmethod
    def of(cls, item: Object, origin: Provenance = NOWHERE) -> Record:
        """Return the record of an object."""
        return cls(item, origin, item.ref)


def objects_of(records: Iterable[Record]) -> Iterator[Object]:
    """Yield the objects of records."""
    return (record.item for record in records)


def by_age(item: Object) -> tuple[str, str, str]:
    """Sort key of Istio's conflict rule: creation time, then name, then namespace.

    A missing creationTimestamp sorts as the epoch, never as the time of a file.
    """
    meta = item.metadata
    return (meta.creation_timestamp or "1970-01-01T00:00:00Z", meta.name, meta.namespace)


def in_order(
    items: Sequence[Item],
    gone: Collection[Item],
    came: Collection[Item],
    *,
    key: Callable[[Item], Any],
) -> tuple[Item, ...]:
    """Return sorted items without some of them and with others; no two have one key."""
    if len(gone) + len(came) > len(items) // 8:
        left = {key(item) for item in gone}
        return tuple(sorted([*(item for item in items if key(item) not in left), *came], key=key))
    made = list(items)
    for item in gone:
        del made[bisect_left(made, key(item), key=key)]
    for item in came:
        insort(made, item, key=key)
    return tuple(made)


def moved(
    before: Sequence[ObjectT], after: Sequence[ObjectT]
) -> tuple[list[ObjectT], list[ObjectT]]:
    """Return the objects that are only in the first, and those only in the second, by identity."""
    if before is after:
        return [], []
    old, new = set(map(id, before)), set(map(id, after))
    return [item for item in before if id(item) not in new], [
        item for item in after if id(item) not in old
    ]

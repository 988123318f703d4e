"""What readers of a snapshot see of its records: the objects, and where each came from.

Both look into one table, so that an object has one entry in it. The rule that is easy to break:
what no source delivered has no origin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from controlplane.model.meta import NOWHERE, Object, ObjectRef, Provenance, Record


class ObjectsOf(Mapping[ObjectRef, Object]):
    """The objects of records. Read only."""

    __slots__ = ("_records",)

    def __init__(self, records: Mapping[ObjectRef, Record]) -> None:
        self._records: Final = records

    def __getitem__(self, ref: ObjectRef) -> Object:
        return self._records[ref].item

    def __contains__(self, ref: object) -> bool:
        return ref in self._records

    def __iter__(self) -> Iterator[ObjectRef]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)


class OriginsOf(Mapping[ObjectRef, Provenance]):
    """The origins of records that have one. Read only."""

    __slots__ = ("_records",)

    def __init__(self, records: Mapping[ObjectRef, Record]) -> None:
        self._records: Final = records

    def __getitem__(self, ref: ObjectRef) -> Provenance:
        found = self._records[ref].origin
        if found is NOWHERE:
            raise KeyError(ref)
        return found

    def __iter__(self) -> Iterator[ObjectRef]:
        return (ref for ref, record in self._records.items() if record.origin is not NOWHERE)

    def __len__(self) -> int:
        return sum(1 for _ in self)

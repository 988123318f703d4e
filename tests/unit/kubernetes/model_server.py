"""What an API server does with one kind, without a network: versions, history, pages, events.

It forgets history when it is compacted, and says so as the real one does. Bodies are bytes, so
that whoever reads them cannot share objects with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from controlplane.kubernetes.errors import KubernetesError, error_of
from controlplane.kubernetes.paths import Call, Resource

Json = dict[str, Any]
Key = tuple[str, str]
SERVICES: Final = Resource("", "v1", "services")
_LIST: Final = Call("list", "services")


class Change(NamedTuple):
    """One step of the history; `item` of a deletion is the last state, with a new version."""

    version: int
    type: str
    item: Json


def failure(code: int, reason: str = "", message: str = "no") -> bytes:
    """The body of a failure, or the object of an ERROR event."""
    status = {"kind": "Status", "code": code, "reason": reason, "message": message}
    return msgspec.json.encode(status)


class ModelServer:
    """The objects of one kind and how they came to be."""

    def __init__(self) -> None:
        self.version = 10
        self.compacted = 0  # history up to here is forgotten
        self.items: dict[Key, Json] = {}
        self.history: list[Change] = []
        self._uid = 0

    def put(self, name: str, namespace: str = "default", **fields: Any) -> int:
        """Create an object, or replace what it says; returns the version."""
        self.version += 1
        known = self.items.get((namespace, name))
        if known is None:
            self._uid += 1
        meta = {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{self._uid}" if known is None else known["metadata"]["uid"],
            "creationTimestamp": "2026-01-01T00:00:00Z",
        }
        meta |= fields.pop("metadata", {})
        meta["resourceVersion"] = str(self.version)
        item = {"metadata": meta, **fields}
        self.items[namespace, name] = item
        self.history.append(Change(self.version, "MODIFIED" if known else "ADDED", item))
        return self.version

    def delete(self, name: str, namespace: str = "default") -> None:
        """Remove an object, if it is there."""
        item = self.items.pop((namespace, name), None)
        if item is None:
            return
        self.version += 1
        meta = item["metadata"] | {"resourceVersion": str(self.version)}
        self.history.append(Change(self.version, "DELETED", {**item, "metadata": meta}))

    def compact(self) -> None:
        """Forget all history up to now."""
        self.compacted = self.version

    def at(self, version: int) -> dict[Key, Json]:
        """Return the objects as they were at a version, forgotten or not."""
        state: dict[Key, Json] = {}
        for change in self.history:
            if change.version > version:
                break
            meta = change.item["metadata"]
            key = (meta["namespace"], meta["name"])
            if change.type == "DELETED":
                state.pop(key, None)
            else:
                state[key] = change.item
        return state

    def page(self, query: dict[str, str]) -> bytes:
        """Answer a list; raises what a client would raise for the refusal."""
        limit = int(query.get("limit", "0")) or 1_000_000
        if "continue" in query:
            version, start = (int(part) for part in query["continue"].split(":"))
        else:
            exact = query.get("resourceVersionMatch") == "Exact"
            version, start = int(query["resourceVersion"]) if exact else self.version, 0
        if version < self.compacted:
            raise self.refusal(410, "Expired")
        state = sorted(self.at(version).items())
        meta = {"resourceVersion": str(version)}
        if start + limit < len(state):
            meta["continue"] = f"{version}:{start + limit}"
        items = [item for _, item in state[start : start + limit]]
        return msgspec.json.encode({"kind": "ServiceList", "metadata": meta, "items": items})

    def refusal(self, code: int, reason: str = "") -> KubernetesError:
        """Return the exception that a client makes of a failure."""
        return error_of(_LIST, failure(code, reason), status=code)

    def first(self) -> Iterator[bytes]:
        """The events of a watch that asked for the first state."""
        for item in self.items.values():
            yield event("ADDED", item)
        yield bookmark(self.version, initial_end=True)

    def since(self, version: int) -> list[bytes]:
        """The events after a version, in order; one ERROR when they are forgotten."""
        if version < self.compacted:
            return [event("ERROR", msgspec.json.decode(failure(410, "Expired")))]
        return [
            event(change.type, change.item) for change in self.history if change.version > version
        ]


def event(kind: str, item: Json) -> bytes:
    """One line of a watch."""
    return msgspec.json.encode({"type": kind, "object": item})


def bookmark(version: int, *, initial_end: bool = False) -> bytes:
    """A line that only says how far the watch is."""
    meta: Json = {"resourceVersion": str(version)}
    if initial_end:
        meta["annotations"] = {"k8s.io/initial-events-end": "true"}
    return event("BOOKMARK", {"kind": "Service", "apiVersion": "v1", "metadata": meta})

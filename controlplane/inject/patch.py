"""The difference between two JSON documents, as a JSON patch (RFC 6902).

Owns the operations. Must not know pods. The rule that is easy to break: the operations are
applied one after the other, so an index counts in the list as the operations before have left it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Operation = dict[str, Any]
"""`op` (add, remove or replace), `path`, and `value` unless it removes."""


def difference(old: Any, new: Any) -> list[Operation]:
    """Return the operations that make `new` out of `old`.

    Objects are compared key by key. In lists the equal beginning and end are kept, so that a
    container that was put in front costs one operation.
    """
    operations: list[Operation] = []
    _compare(old, new, "", operations)
    return operations


def _compare(old: Any, new: Any, path: str, operations: list[Operation]) -> None:
    if isinstance(old, dict) and isinstance(new, dict):
        _compare_objects(old, new, path, operations)
    elif isinstance(old, list) and isinstance(new, list):
        _compare_lists(old, new, path, operations)
    elif not _same(old, new):
        operations.append({"op": "replace", "path": path, "value": new})


def _compare_objects(
    old: Mapping[str, Any], new: Mapping[str, Any], path: str, operations: list[Operation]
) -> None:
    operations.extend(
        {"op": "remove", "path": f"{path}/{_escaped(key)}"} for key in old if key not in new
    )
    for key, value in new.items():
        if key in old:
            _compare(old[key], value, f"{path}/{_escaped(key)}", operations)
        else:
            operations.append({"op": "add", "path": f"{path}/{_escaped(key)}", "value": value})


def _compare_lists(old: list[Any], new: list[Any], path: str, operations: list[Operation]) -> None:
    start = 0
    while start < min(len(old), len(new)) and _same(old[start], new[start]):
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and _same(old[-1 - end], new[-1 - end]):
        end += 1
    changed = min(len(old), len(new)) - end
    for index in range(start, changed):
        _compare(old[index], new[index], f"{path}/{index}", operations)
    # From the last to the first, so that what is removed does not move what is still to go.
    operations.extend(
        {"op": "remove", "path": f"{path}/{index}"}
        for index in range(len(old) - end - 1, changed - 1, -1)
    )
    operations.extend(
        {"op": "add", "path": f"{path}/{index}", "value": new[index]}
        for index in range(changed, len(new) - end)
    )


def _same(old: Any, new: Any) -> bool:
    """Equality of JSON: 1 is not true, and 1 is 1.0."""
    if isinstance(old, bool) or isinstance(new, bool):
        return old is new
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_same(old[key], new[key]) for key in old)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_same, old, new))
    return bool(old == new)


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")

"""Templates of a sidecar: YAML data with `${...}` in it, and a few directives.

Owns how a template becomes a part of a pod. Must not know what sidecars look like. The rule that
is easy to break: a template is read as YAML first and filled in afterwards, so no value of a pod
can ever change the structure around it; a value may hold any text.

    "${expression}" alone    the value, of whatever type
    "text ${expression}"     text; numbers and truth values are written as YAML writes them
    "$${"                    the characters ${
    $if: expression          in a mapping: the mapping is there only when the expression holds
    $value: ...              beside $if: what is there instead of the mapping
    $values: [...]           in an item of a list: these items, beside or without $if
    $merge: "${expression}"  in a mapping: the keys of this mapping too
    "${*expression}"         as an item of a list: the items of this list

A list that ends up empty is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from controlplane.inject.errors import InjectConfigError
from controlplane.inject.expressions import ExpressionError, check, evaluate, truth
from controlplane.model.schema import Path, format_path

_PART: Final = re.compile(r"\$\$\{|\$\{([^{}]*)\}")
_ALONE: Final = re.compile(r"\$\{(\*?)([^{}]*)\}")
_DIRECTIVES: Final = frozenset({"$if", "$value", "$values", "$merge"})
MAX_DEPTH: Final = 60


class _Absent:
    """What a mapping becomes whose `$if` does not hold."""


_ABSENT: Final = _Absent()


class _Items(list[Any]):
    """Several items in the place of one."""


def render(name: str, template: Mapping[str, Any], scope: Mapping[str, Any]) -> dict[str, Any]:
    """Return the template filled in; raises InjectConfigError naming the place in it."""
    made = _render(template, scope, name, ())
    return made if isinstance(made, dict) else {}


def check_template(name: str, template: Any) -> None:
    """Raise InjectConfigError when the template could not be filled in for any pod."""
    if not isinstance(template, dict):
        raise InjectConfigError(f"template {name}: it must be a mapping with the parts of a pod")
    unknown = sorted(set(template) - {"metadata", "spec", *_DIRECTIVES})
    if unknown:
        raise InjectConfigError(
            f"template {name}: unknown field {unknown[0]!r}; a template has metadata and spec"
        )
    _check(template, name, ())


def _render(node: Any, scope: Mapping[str, Any], name: str, path: Path) -> Any:
    match node:
        case str():
            return _text(node, scope, name, path)
        case list():
            return _list(node, scope, name, path)
        case dict():
            return _mapping(node, scope, name, path)
        case _:
            return node


def _mapping(node: dict[str, Any], scope: Mapping[str, Any], name: str, path: Path) -> Any:
    if "$if" in node:
        try:
            if not truth(node["$if"], scope):
                return _ABSENT
        except ExpressionError as error:
            raise _wrong(name, (*path, "$if"), error) from None
    if "$value" in node:
        return _render(node["$value"], scope, name, (*path, "$value"))
    if "$values" in node:
        return _Items(_list(node["$values"], scope, name, (*path, "$values")))
    made: dict[str, Any] = {}
    for key, entry in node.items():
        if key == "$if":
            continue
        value = _render(entry, scope, name, (*path, key))
        if key == "$merge":
            if not isinstance(value, Mapping):
                raise InjectConfigError(f"{_place(name, (*path, key))}: this is no mapping")
            made.update(value)
        elif isinstance(value, _Items):
            raise InjectConfigError(
                f"{_place(name, (*path, key))}: several items can only stand in a list"
            )
        elif value is not _ABSENT and value != []:
            made[key] = value
    return made


def _list(node: list[Any], scope: Mapping[str, Any], name: str, path: Path) -> list[Any]:
    made: list[Any] = []
    for index, entry in enumerate(node):
        value = _render(entry, scope, name, (*path, index))
        if isinstance(value, _Items):
            made.extend(value)
        elif value is not _ABSENT:
            made.append(value)
    return made


def _text(node: str, scope: Mapping[str, Any], name: str, path: Path) -> Any:
    if "${" not in node:
        return node
    try:
        alone = _ALONE.fullmatch(node)
        if alone is None:
            return _PART.sub(lambda part: _filled(part, scope), node)
        value = evaluate(alone[2], scope)
    except ExpressionError as error:
        raise _wrong(name, path, error) from None
    if alone[1]:
        if not isinstance(value, list | tuple):
            raise InjectConfigError(f"{_place(name, path)}: {node} is no list")
        return _Items(value)
    return value


def _filled(part: re.Match[str], scope: Mapping[str, Any]) -> str:
    if part[1] is None:
        return "${"
    match evaluate(part[1], scope):
        case bool() as value:
            return "true" if value else "false"
        case str() | int() | float() as value:
            return str(value)
        case None:
            return ""
        case _:
            raise ExpressionError(f"{part[0]} is no text; it can only stand alone")


def _check(node: Any, name: str, path: Path) -> None:
    if len(path) > MAX_DEPTH:
        raise InjectConfigError(f"template {name}: it nests too deep")
    match node:
        case str():
            _check_text(node, name, path)
        case list():
            for index, entry in enumerate(node):
                _check(entry, name, (*path, index))
        case dict():
            _check_directives(node, name, path)
            for key, entry in node.items():
                if key != "$if":
                    _check(entry, name, (*path, key))
        case _:
            pass


def _check_directives(node: dict[str, Any], name: str, path: Path) -> None:
    directives = {key for key in node if isinstance(key, str) and key.startswith("$")}
    unknown = sorted(directives - _DIRECTIVES)
    if unknown:
        raise InjectConfigError(
            f"{_place(name, (*path, unknown[0]))}: unknown directive; "
            f"there are {', '.join(sorted(_DIRECTIVES))}"
        )
    for key in ("$value", "$values"):
        if key in node and set(node) - {"$if", key}:
            raise InjectConfigError(f"{_place(name, (*path, key))}: only $if can stand beside it")
    if "$values" in node and not isinstance(node["$values"], list):
        raise InjectConfigError(f"{_place(name, (*path, '$values'))}: must be a list")
    if "$if" in node:
        condition = node["$if"]
        if not isinstance(condition, str):
            raise InjectConfigError(f"{_place(name, (*path, '$if'))}: must be an expression")
        try:
            check(condition)
        except ExpressionError as error:
            raise _wrong(name, (*path, "$if"), error) from None


def _check_text(node: str, name: str, path: Path) -> None:
    if "{{" in node:
        raise InjectConfigError(
            f"{_place(name, path)}: {{{{...}}}} is the language of Istio's templates; "
            "write ${...} here"
        )
    rest = node
    try:
        alone = _ALONE.fullmatch(node)
        if alone is not None:
            check(alone[2])
            return
        for part in _PART.finditer(node):
            if part[1] is not None:
                check(part[1])
        rest = _PART.sub("", node)
    except ExpressionError as error:
        raise _wrong(name, path, error) from None
    if "${" in rest:
        raise InjectConfigError(f"{_place(name, path)}: a ${{ without its }}; write $${{ for ${{")


def _wrong(name: str, path: Path, error: ExpressionError) -> InjectConfigError:
    return InjectConfigError(f"{_place(name, path)}: {error}")


def _place(name: str, path: Path) -> str:
    return f"template {name}: {format_path(path)}" if path else f"template {name}"

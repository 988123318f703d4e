"""Paths of the API, both ways: made of group, version and names, and read back as a call.

The rule that is easy to break: the core group lives under `/api`, every other one under `/apis`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import quote


class Resource(NamedTuple):
    """A kind as paths spell it. `group` is empty for the core group."""

    group: str
    version: str
    plural: str

    def path(self, *, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the path of a collection (of all namespaces without one) or of one object."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        parts += [quote(part, safe="") for part in (name, subresource) if part]
        return "/".join(parts)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


class Call(NamedTuple):
    """A request in the words of RBAC."""

    verb: str
    resource: str  # plural with its subresource, `pods/status`; or a path outside the API
    group: str = ""
    namespace: str = ""
    name: str = ""

    @property
    def rule(self) -> str:
        """The rule that a Role or ClusterRole needs to allow this call."""
        if self.resource.startswith("/"):
            return f'{{nonResourceURLs: ["{self.resource}"], verbs: ["{self.verb}"]}}'
        # Who lists watches as well, and is refused the one first or the other by chance.
        verbs = '"list", "watch"' if self.verb in ("list", "watch") else f'"{self.verb}"'
        return f'{{apiGroups: ["{self.group}"], resources: ["{self.resource}"], verbs: [{verbs}]}}'

    def __str__(self) -> str:
        plural, slash, subresource = self.resource.partition("/")
        if not plural:
            return f"{self.verb} {self.resource}"
        kind = f"{plural}.{self.group}" if self.group else plural
        place = "/".join(part for part in (self.namespace, self.name) if part)
        return f"{self.verb} {kind}{slash}{subresource}" + (f" {place}" if place else "")


_VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch"}


def call_of(method: str, path: str, query: Mapping[str, str]) -> Call:
    """Return what a request asks for, as the API server's authorizer will see it."""
    parts = path.strip("/").split("/")
    match parts:
        case ["api", _, *rest]:
            group = ""
        case ["apis", group, _, *rest]:
            pass
        case _:
            return Call(method.lower(), path)
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    if not rest:
        return Call(method.lower(), path)
    name = rest[1] if len(rest) > 1 else ""
    resource = "/".join((rest[0], *rest[2:]))
    verb = _VERBS.get(method, "")
    if method == "GET":
        verb = "get" if name else "watch" if query.get("watch") == "true" else "list"
    elif method == "DELETE":
        verb = "delete" if name else "deletecollection"
    return Call(verb or method.lower(), resource, group, namespace, name)

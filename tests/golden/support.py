"""Golden pairs: `<feature>.in.yaml` is a mesh and a proxy, `<feature>.out.yaml` what it becomes.

Owns reading a pair, expanding resources and comparing. Must not know any feature. The rule that
is easy to break: a golden file blesses whatever the code does, so each pair also has assertions
written by hand in the test beside it; rewriting (`PYLOT_REWRITE_GOLDEN=1`) needs its reason.

The input holds mesh objects and, before them, two optional header documents:

    kind: Proxy                # the client; a bare sidecar of namespace `default` without one
    node: sidecar~10.0.0.1~client.default~default.svc.cluster.local
    metadata: {LABELS: {app: client}}
    locality: region/zone
    extensions: [istio.stats]
    ---
    kind: MeshConfig           # its fields follow at the top level
    connectTimeout: 3s
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import yaml

from controlplane.model.assemble import make_snapshot
from controlplane.model.base import dec_hook
from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import DEFAULT_NAMESPACE, Object
from controlplane.model.packed import PackedSlice
from controlplane.model.proxy import Proxy, make_proxy
from controlplane.model.snapshot import Snapshot
from controlplane.translate import expand as expansion
from controlplane.translate.resources import Resource, ResourceType
from controlplane.translate.scope import Classifier, ProxyClass

GOLDEN: Final = Path(__file__).parent
REWRITE: Final = "PYLOT_REWRITE_GOLDEN"
DEFAULT_NODE: Final = "sidecar~10.0.0.1~client.default~default.svc.cluster.local"
_CLUSTER_SCOPED: Final = frozenset({"Namespace", "Node"})
_GROUPS: Final = {
    ResourceType.CLUSTER: "clusters",
    ResourceType.ENDPOINT: "endpoints",
    ResourceType.LISTENER: "listeners",
    ResourceType.ROUTE: "routes",
}


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One input: the snapshot of its objects, its proxy, and where the expected output is."""

    path: Path
    snapshot: Snapshot
    proxy: Proxy
    mesh: MeshConfig

    @property
    def cls(self) -> ProxyClass:
        """The class of the proxy in this snapshot."""
        return Classifier(self.snapshot).classify(self.proxy)

    @property
    def expected(self) -> Path:
        """The file of the expected resources."""
        return self.path.with_name(self.path.name.removesuffix(".in.yaml") + ".out.yaml")


def load_case(path: str | Path) -> Case:
    """Return the case of an input file; a relative name such as `clusters/subsets` also does."""
    file = GOLDEN / path
    if not file.name.endswith(".in.yaml"):
        file = file.with_name(file.name + ".in.yaml")
    proxy, mesh, objects = parse_documents(file.read_text())
    snapshot = make_snapshot(objects, mesh=mesh)
    return Case(path=file, snapshot=snapshot, proxy=proxy, mesh=mesh)


def parse_documents(text: str) -> tuple[Proxy, MeshConfig, tuple[Object, ...]]:
    """Return the proxy, the mesh settings and the objects of an input; unknown kinds fail."""
    proxy = make_proxy(DEFAULT_NODE)
    mesh = MeshConfig()
    objects = []
    for document in yaml.safe_load_all(text):
        match document:
            case None:
                continue
            case {"kind": "Proxy"}:
                proxy = make_proxy(
                    document.get("node", DEFAULT_NODE),
                    document.get("metadata"),
                    locality=document.get("locality", ""),
                    extensions=frozenset(document.get("extensions", ())),
                )
            case {"kind": "MeshConfig", **fields}:
                fields.pop("apiVersion", None)
                mesh = msgspec.convert(fields, MeshConfig, dec_hook=dec_hook)
            case _:
                objects.append(make_object(document))
    return proxy, mesh, tuple(objects)


def make_object(document: dict[str, Any]) -> Object:
    """Return the object of a decoded document, in the namespace `default` without another."""
    kind = document["kind"]
    metadata = dict(document.get("metadata", {}))
    if kind not in _CLUSTER_SCOPED:
        metadata.setdefault("namespace", DEFAULT_NAMESPACE)
    stamp = metadata.get("creationTimestamp")
    if stamp is not None and not isinstance(stamp, str):
        # YAML reads an unquoted timestamp as a date.
        metadata["creationTimestamp"] = stamp.strftime("%Y-%m-%dT%H:%M:%SZ")
    known = {cls.KIND: cls for cls in _kinds(Object) if cls.KIND and cls is not PackedSlice}
    content = {**document, "metadata": metadata}
    found: Object = msgspec.convert(content, known[kind], dec_hook=dec_hook)
    return found


def expand(resource: Resource) -> dict[str, Any]:
    """Return a resource as proto3 JSON with proto field names and every Any expanded."""
    return expansion.expand(resource)


def by_name(resources: Iterable[Resource]) -> dict[str, dict[str, Any]]:
    """Return the expanded resources by their names."""
    return {resource.name: expand(resource) for resource in resources}


def check_golden(case: Case, resources: Iterable[Resource]) -> dict[str, dict[str, Any]]:
    """Fail with a difference unless the resources are those of the golden file.

    Order counts within a type. Returns the resources expanded, by name, for assertions.
    """
    made: dict[str, list[dict[str, Any]]] = {}
    found: dict[str, dict[str, Any]] = {}
    for resource in resources:
        found[resource.name] = expand(resource)
        made.setdefault(_GROUPS[resource.type], []).append(found[resource.name])
    text = yaml.safe_dump(made, sort_keys=True, default_flow_style=False, width=100)
    if os.environ.get(REWRITE) == "1":
        case.expected.write_text(text)
        return found
    if not case.expected.exists():
        pytest.fail(f"{case.expected.name} is missing; {REWRITE}=1 writes it")
    expected = case.expected.read_text()
    if yaml.safe_load(expected) != made:
        difference = difflib.unified_diff(
            expected.splitlines(), text.splitlines(), "expected", "made", lineterm="", n=5
        )
        pytest.fail(f"{case.expected.name} differs:\n" + "\n".join(difference))
    return found


def _kinds(base: type[Object]) -> Iterator[type[Object]]:
    for cls in base.__subclasses__():
        yield cls
        yield from _kinds(cls)

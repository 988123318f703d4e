"""The chart's objects for tests: rendered once for each choice of settings."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from controlplane.inject.config import load_config
from controlplane.inject.sidecar import Injected, inject
from controlplane.model.mesh import MeshConfig
from tests.deploy.helm import render

Json = dict[str, Any]


@cache
def _text(settings: tuple[str, ...], namespace: str, values: Path | None) -> str:
    return render(*settings, namespace=namespace, values=values)


def objects(
    *settings: str, namespace: str = "istio-system", values: Path | None = None
) -> list[Json]:
    """Return the objects of the chart with these settings."""
    text = _text(settings, namespace, values)
    return [item for item in yaml.load_all(text, Loader=yaml.CSafeLoader) if item]


def find(items: list[Json], kind: str, name: str = "") -> Json:
    """Return the one object of a kind (and a name)."""
    found = [
        item
        for item in items
        if item["kind"] == kind and (not name or item["metadata"]["name"] == name)
    ]
    assert len(found) == 1, [item["metadata"]["name"] for item in found]
    return found[0]


def pods(items: list[Json], namespace: str) -> list[Json]:
    """Return the pods that the Deployments would make, after injection."""
    return [injected(items, item, namespace) for item in items if item["kind"] == "Deployment"]


def injected(items: list[Json], deployment: Json, namespace: str) -> Json:
    """Return the pod of a Deployment as it is stored: the injector knows the chart's values."""
    template = deployment["spec"]["template"]
    name = deployment["metadata"]["name"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**template["metadata"], "name": f"{name}-0", "namespace": namespace},
        "spec": template["spec"],
    }
    values = find(items, "ConfigMap", "istio-sidecar-injector")["data"]["values"]
    outcome = inject(
        pod,
        namespace=namespace,
        config=load_config(values=values),
        mesh=MeshConfig(),
        namespace_labels={},
    )
    return outcome.pod if isinstance(outcome, Injected) else pod


def rights(items: list[Json]) -> set[tuple[str, str, str, bool]]:
    """Return what the roles allow: group, resource, verb, and whether in one namespace alone."""
    found = set()
    for item in items:
        if item["kind"] in ("Role", "ClusterRole"):
            for rule in item["rules"]:
                assert set(rule) <= {"apiGroups", "resources", "resourceNames", "verbs"}
                found |= {
                    (*words, item["kind"] == "Role")
                    for words in itertools.product(
                        rule["apiGroups"], rule["resources"], rule["verbs"]
                    )
                }
    return found

"""Pods with something wrong anywhere in them: a sentence for the author, never an error of ours."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.inject.config import load_config
from controlplane.inject.files import FileInjector
from controlplane.inject.sidecar import inject
from controlplane.inject.yaml_text import dump
from controlplane.model.mesh import MeshConfig
from tests.unit.inject.pods import pods

CONFIG = load_config()
JUNK = st.sampled_from([None, True, 7, -1.5, "", "x", [], {}, [1], ["x"], [None], {"a": None}])


@st.composite
def broken_pods(draw: st.DrawFn) -> dict[str, Any]:
    """Return a pod in which some values were replaced by something else."""
    made: dict[str, Any] = json.loads(json.dumps(draw(pods())))
    made.setdefault("metadata", {})["ownerReferences"] = [
        {"kind": "Job", "apiVersion": "batch/v1", "name": "a-12345678", "controller": True}
    ]
    made["spec"]["containers"][0]["lifecycle"] = {"preStop": {"httpGet": {"port": 1}}}
    for _ in range(draw(st.integers(1, 3))):
        holder: Any = made
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            below = holder[key]
            if isinstance(below, dict | list) and below and draw(st.integers(0, 4)):
                holder = below
                continue
            holder[key] = copy.deepcopy(draw(JUNK))
            break
    return made


@given(broken_pods())
@settings(deadline=None, max_examples=400)
def test_a_broken_pod_is_judged_and_never_breaks_us(made: dict[str, Any]) -> None:
    inject(made, namespace="default", config=CONFIG, mesh=MeshConfig())


@given(broken_pods())
@settings(deadline=None, max_examples=100)
def test_a_broken_manifest_is_judged_and_never_breaks_us(made: dict[str, Any]) -> None:
    text = dump({"apiVersion": "v1", "kind": "Pod", **made})
    FileInjector(CONFIG, MeshConfig()).inject("f.yaml", text)

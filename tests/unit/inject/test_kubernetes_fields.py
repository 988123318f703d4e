"""What injection adds is spelt as Kubernetes spells it: checked against a client's own models."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from kubernetes_asyncio.client import models

from controlplane.inject.config import load_config
from controlplane.inject.sidecar import Injected, inject
from controlplane.model.mesh import MeshConfig
from tests.unit.inject.pods import pod

_PLAIN: dict[str, Any] = {"str": str, "int": int, "bool": bool, "float": (int, float)}


def misfits(value: Any, kind: str, path: str = "") -> list[str]:
    """Return where a value does not fit a type of the client."""
    if kind.startswith("List[") or kind.startswith("list["):
        if not isinstance(value, list):
            return [f"{path}: no list"]
        return [
            wrong
            for index, entry in enumerate(value)
            for wrong in misfits(entry, kind[5:-1], f"{path}[{index}]")
        ]
    found = re.fullmatch(r"[dD]ict[\[(]str, (\w+)[\])]", kind)
    if found is not None:
        return [wrong for key in value for wrong in misfits(value[key], found[1], f"{path}.{key}")]
    if kind in _PLAIN:
        right = isinstance(value, _PLAIN[kind]) and (kind == "bool") is isinstance(value, bool)
        return [] if right else [f"{path}: {value!r} is no {kind}"]
    model = getattr(models, kind, None)
    if model is None:
        return []  # object, datetime, IntOrString
    fields = {model.attribute_map[name]: kind for name, kind in model.openapi_types.items()}
    wrong = [f"{path}.{key}: no such field" for key in value if key not in fields]
    for key, entry in value.items():
        if key in fields:
            wrong += misfits(entry, fields[key], f"{path}.{key}")
    return wrong


@pytest.mark.parametrize(
    "annotations",
    [
        {},
        {"sidecar.istio.io/nativeSidecar": "false"},
        {"sidecar.istio.io/interceptionMode": "TPROXY"},
        {
            "sidecar.istio.io/bootstrapOverride": "b",
            "sidecar.istio.io/userVolume": '{"k":{"secret":{"secretName":"k"}}}',
            "sidecar.istio.io/userVolumeMount": '{"k":{"mountPath":"/k","readOnly":true}}',
            "sidecar.istio.io/nativeSidecar": "false",
            "proxy.istio.io/config": "holdApplicationUntilProxyStarts: true",
        },
    ],
)
@pytest.mark.parametrize("certificates", ["none", "istiod"])
def test_every_field_is_one_of_kubernetes(annotations: dict[str, str], certificates: str) -> None:
    values = {"global": {"workloadCertificates": certificates, "imagePullSecrets": [{"name": "s"}]}}
    made = pod()
    made["metadata"]["annotations"] = annotations
    made["spec"]["containers"][0]["livenessProbe"] = {"grpc": {"port": 1}}
    outcome = inject(
        made,
        namespace="default",
        config=load_config(values=json.dumps(values)),
        mesh=MeshConfig(),
    )
    assert isinstance(outcome, Injected)
    assert misfits(outcome.pod, "V1Pod") == []


def test_the_check_finds_a_misspelt_field() -> None:
    assert misfits({"spec": {"containers": [{"nam": "a"}], "hostNetwork": 1}}, "V1Pod") == [
        ".spec.containers[0].nam: no such field",
        ".spec.hostNetwork: 1 is no bool",
    ]

"""One object of the API server: what is read, what is left off, what is said about it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controlplane.kubernetes.paths import Resource
from controlplane.model.core import Node, Pod
from controlplane.model.diagnostics import Level
from controlplane.model.kinds import KINDS, NETWORKING, SECURITY, Kind, Untranslated
from controlplane.model.meta import ObjectRef
from controlplane.model.virtual_service import VirtualService
from controlplane.sources.kubernetes import decode
from controlplane.sources.kubernetes.decode import Entry, ObjectDecoder, identify
from controlplane.sources.kubernetes.depth import CUT, DEEPEST, cut_depth
from controlplane.sources.kubernetes.reflector import Reflector
from controlplane.sources.kubernetes.source import watched_kinds
from controlplane.sources.kubernetes.store import Store

META = {
    "name": "x",
    "namespace": "a",
    "resourceVersion": "7",
    "generation": 2,
    "uid": "u",
    "creationTimestamp": "2026-01-01T00:00:00Z",
    "managedFields": [{"manager": "kubectl"}],
}
ROUTES = KINDS[NETWORKING, "VirtualService"]
PORTS = [{"port": 80}]
HTTP = {"hosts": ["x"], "http": [{"route": [{"destination": {"host": "x"}}]}]}


def read(kind: Kind, data: dict[str, Any] | bytes, *, revision: str = "") -> Entry:
    raw = data if isinstance(data, bytes) else msgspec.json.encode({"metadata": META} | data)
    return ObjectDecoder(kind, revision=revision)(raw, identify(raw))


def route(**fields: Any) -> dict[str, Any]:
    return {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService"} | fields


def test_an_object_knows_its_version_generation_and_uid() -> None:
    entry = read(ROUTES, route(spec=HTTP))
    assert isinstance(entry.item, VirtualService)
    assert entry.item.ref == ObjectRef("VirtualService", "a", "x")
    origin = entry.origin
    assert (origin.source, origin.resource_version, origin.generation, origin.uid) == (
        "kubernetes", "7", 2, "u",
    )  # fmt: skip
    assert entry.diagnostics == ()


def test_status_and_unread_annotations_are_no_part_of_an_object() -> None:
    applied = {"kubectl.kubernetes.io/last-applied-configuration": "{}"}
    plain = read(ROUTES, route(spec=HTTP))
    noisy = read(
        ROUTES,
        route(spec=HTTP, status={"conditions": []}, metadata=META | {"annotations": applied}),
    )
    assert noisy.item == plain.item
    kept = read(ROUTES, route(spec=HTTP, metadata=META | {"annotations": applied | {"b": "c"}}))
    assert kept.item is not None
    assert kept.item.metadata.annotations == {"b": "c"}
    sidecar = KINDS[SECURITY, "PeerAuthentication"]
    body = {"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "spec": {}}
    assert read(sidecar, body | {"status": {"a": 1}}).item == read(sidecar, body).item


def test_a_heartbeat_of_a_node_and_noise_of_a_pod_are_no_change() -> None:
    node = KINDS["", "Node"]
    before = read(node, {"status": {"conditions": [{"lastHeartbeatTime": "1"}]}})
    after = read(node, {"status": {"conditions": [{"lastHeartbeatTime": "2"}]}})
    assert isinstance(before.item, Node)
    assert before.item == after.item
    pod = KINDS["", "Pod"]
    status = {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [{"restartCount": 1}]}
    one, two = (
        read(
            pod, {"status": status | {"startTime": time}, "metadata": META | {"annotations": note}}
        )
        for time, note in (("1", {"a": "b"}), ("2", {}))
    )
    assert isinstance(one.item, Pod)
    assert one.item == two.item


def test_an_unknown_field_is_a_warning_in_a_kind_of_istio_and_nothing_elsewhere() -> None:
    entry = read(ROUTES, route(spec=HTTP | {"fromTheFuture": 1}))
    assert entry.item == read(ROUTES, route(spec=HTTP)).item
    (said,) = entry.diagnostics
    assert (said.level, said.code, said.field) == (
        Level.WARNING, "IST0133", "spec.fromTheFuture",
    )  # fmt: skip
    assert "unknown field" in said.message
    service = read(KINDS["", "Service"], {"spec": {"ports": PORTS, "fromTheFuture": 1}})
    assert service.item is not None
    assert service.diagnostics == ()


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"hosts": "x"}, "spec.hosts"),
        ({"hosts": ["x"], "http": [{"route": [{"destination": {}}]}]}, "spec.http[0].route[0]"),
        ({"hosts": ["x"], "http": [{"timeout": "soon"}]}, "spec.http[0].timeout"),
    ],
)
def test_a_broken_object_is_left_out_with_its_reason(spec: dict[str, Any], field: str) -> None:
    entry = read(ROUTES, route(spec=spec))
    assert entry.item is None
    assert all(said.ref == ObjectRef("VirtualService", "a", "x") for said in entry.diagnostics)
    assert any(
        said.level is Level.ERROR and said.field.startswith(field) for said in entry.diagnostics
    ), entry.diagnostics


def test_bytes_that_are_no_text_are_left_out() -> None:
    text = msgspec.json.encode({"metadata": META} | route(spec=HTTP))
    entry = read(ROUTES, text.replace(b'"x"]', b'"\xff"]'))
    assert entry.item is None
    assert entry.diagnostics[0].level is Level.ERROR


@pytest.mark.parametrize("depth", [201, 900, 5000])
@pytest.mark.parametrize("kind", [ROUTES, KINDS[NETWORKING, "WorkloadGroup"]])
def test_an_object_nested_without_end_hurts_only_itself(kind: Kind, depth: int) -> None:
    deep = b"[" * depth + b"1" + b"]" * depth
    hostile = b'{"metadata":{"name":"x","namespace":"a"},"spec":{"hosts":%s}}' % deep
    good = b'{"metadata":{"name":"y","namespace":"a"},"spec":{}}'
    store = Store(ObjectDecoder(kind))
    reflector = Reflector(Resource(kind.group, "v1", kind.plural), store)
    reflector.next()
    reflector.on_page(b'{"metadata":{"resourceVersion":"1"},"items":[%s,%s]}' % (hostile, good))
    assert set(store.entries) == {("a", "x"), ("a", "y")}
    if kind is ROUTES or depth > 900:
        entry = store.entries["a", "x"]
        assert entry.item is None
        assert entry.diagnostics[0].level is Level.ERROR


def test_only_what_is_too_deep_is_cut() -> None:
    text = b'{"a":"[{\\"]","b":%s,"c":[1,{"d":2}]}'
    deep = b"[1," + b"[" * DEEPEST + b"[9]" + b"]" * DEEPEST + b",2]"
    assert cut_depth(text % b"[]") == text % b"[]"
    cut = msgspec.json.decode(cut_depth(text % deep))
    assert (cut["a"], cut["c"]) == ('[{"]', [1, {"d": 2}])
    inner = cut["b"]
    assert (inner[0], inner[2]) == (1, 2)
    inner = inner[1]
    for _ in range(DEEPEST - 3):
        (inner,) = inner
    assert inner == [msgspec.json.decode(CUT)]


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), TypeError("x")])
def test_an_object_that_nobody_thought_of_hurts_only_itself(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(decode, "decode_flawless", fail)
    entry = read(ROUTES, route(spec=HTTP))
    assert entry.item is None
    (said,) = entry.diagnostics
    assert (said.level, said.code, str(said.ref)) == (
        Level.ERROR, "Unreadable", "VirtualService a/x",
    )  # fmt: skip


def test_null_is_absent() -> None:
    slices = KINDS["discovery.k8s.io", "EndpointSlice"]
    entry = read(slices, {"addressType": "IPv4", "endpoints": None, "ports": None})
    assert entry.item is not None
    spec = {"ports": [{"port": 1, "appProtocol": None}], "selector": None}
    assert read(KINDS["", "Service"], {"spec": spec}).item is not None


def test_objects_of_another_revision_are_left_out_without_a_word() -> None:
    def labelled(revision: str) -> dict[str, Any]:
        labels = {"istio.io/rev": revision} if revision else {}
        return route(spec=HTTP, metadata=META | {"labels": labels})

    for label, mine, there in (
        ("", "canary", True), ("canary", "canary", True), ("stable", "canary", False),
        ("default", "default", True), ("canary", "default", False),
    ):  # fmt: skip
        entry = read(ROUTES, labelled(label), revision=mine)
        assert (entry.item is not None) is there, (label, mine)
        assert entry.diagnostics == ()
    service = {"metadata": META | {"labels": {"istio.io/rev": "other"}}, "spec": {"ports": PORTS}}
    assert read(KINDS["", "Service"], service, revision="mine").item is not None


def test_kinds_without_translation_say_so() -> None:
    kind = KINDS[NETWORKING, "WorkloadGroup"]
    entry = read(kind, {"spec": {"template": {}}})
    assert isinstance(entry.item, Untranslated)
    assert [said.code for said in entry.diagnostics] == ["NotSupported"]


def test_kinds_that_hold_secrets_are_not_followed() -> None:
    followed = {(kind.group, kind.kind) for kind in watched_kinds()}
    assert ("", "Secret") not in followed
    assert ("", "ConfigMap") not in followed
    assert {("", "Pod"), ("", "Node"), ("discovery.k8s.io", "EndpointSlice")} <= followed
    assert {kind for kind in KINDS if kind[0].endswith(".istio.io")} <= followed

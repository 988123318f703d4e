"""A file's bytes become checked objects; every mistake has its place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controlplane.model.base import Duration
from controlplane.model.core import KubernetesService
from controlplane.model.diagnostics import Level
from controlplane.model.kinds import Untranslated
from controlplane.model.meta import ObjectRef, Provenance, objects_of
from controlplane.model.packed import PackedSlice
from controlplane.model.virtual_service import VirtualService
from controlplane.sources.mesh_config import parse_mesh_config
from controlplane.sources.parse import ParsedFile, parse_file

ROUTES = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
spec:
  hosts: [reviews]
  http:
  - route:
    - destination:
        host: reviews
        subset: v1
    timeout: 1.5s
"""


def parse(text: str, file: str = "mesh.yaml") -> ParsedFile:
    return parse_file(file, text.encode())


def lines(parsed: ParsedFile, least: Level = Level.WARNING) -> list[str]:
    shown = (Level.ERROR, Level.WARNING) if least is Level.WARNING else tuple(Level)
    return [str(found) for found in parsed.diagnostics if found.level in shown]


def test_an_object_is_read_with_its_origin() -> None:
    parsed = parse(f"# a comment\n---\n{ROUTES}")
    (record,) = parsed.objects
    item, origin = record.item, record.origin
    assert isinstance(item, VirtualService)
    assert item.ref == ObjectRef("VirtualService", "default", "reviews")
    assert item.spec.http[0].timeout == Duration.parse("1500ms")
    assert origin == Provenance("file", "mesh.yaml", 3)
    assert not parsed.diagnostics


@pytest.mark.parametrize("version", ["v1", "v1beta1", "v1alpha3"])
def test_all_versions_of_the_networking_api_are_one(version: str) -> None:
    parsed = parse(ROUTES.replace("istio.io/v1", f"istio.io/{version}"))
    assert parsed.objects[0].item == parse(ROUTES).objects[0].item


def test_every_mistake_is_found_with_line_object_and_path() -> None:
    parsed = parse(
        ROUTES.replace("host: reviews", "hots: reviews")
        .replace("timeout: 1.5s", "timeout: 1.5\n    retries: {attempts: '3', retryOn: [5xx]}")
        .replace("hosts: [reviews]", "hosts: reviews")
    )
    assert lines(parsed) == [
        "mesh.yaml:6 VirtualService default/reviews spec.hosts:"
        " must be a list, not the string 'reviews'",
        "mesh.yaml:10 VirtualService default/reviews spec.http[0].route[0].destination.hots:"
        " unknown field 'hots'; did you mean 'host'?",
        "mesh.yaml:12 VirtualService default/reviews spec.http[0].timeout:"
        " must be a duration such as 1.5s, not the number 1.5",
        "mesh.yaml:13 VirtualService default/reviews spec.http[0].retries.attempts:"
        " must be a whole number, not the string '3'",
        "mesh.yaml:13 VirtualService default/reviews spec.http[0].retries.retryOn:"
        " must be a string, not a list",
    ]
    assert not parsed.objects
    assert parsed.rejected == {ObjectRef("VirtualService", "default", "reviews")}


def test_a_bad_object_leaves_the_others_of_its_file_alone() -> None:
    bad = ROUTES.replace("name: reviews", "name: bad").replace("hosts:", "hostz:")
    parsed = parse(f"{bad}---\n{ROUTES}---\n{bad}")
    assert [item.metadata.name for item in objects_of(parsed.objects)] == ["reviews"]
    assert not parsed.broken


def test_text_that_is_not_yaml_breaks_the_file() -> None:
    parsed = parse(f"{ROUTES}---\nkind: [\n")
    assert parsed.broken
    assert [(found.code, found.line) for found in parsed.diagnostics] == [("Unreadable", 15)]


def test_bytes_that_are_not_text_break_the_file() -> None:
    parsed = parse_file("x.yaml", b"a: 1\nb: \xff\xfe\n")
    assert parsed.broken
    assert lines(parsed) == ["x.yaml:2: byte 8 is not UTF-8"]


@pytest.mark.parametrize("text", ["just words\n", "- a\n- b\n", "5\n"])
def test_a_document_that_is_no_object_breaks_the_file(text: str) -> None:
    assert parse(text).broken


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n---\n"])
def test_an_empty_file_is_good(text: str) -> None:
    parsed = parse(text)
    assert not parsed.broken
    assert not parsed.objects
    assert not parsed.diagnostics


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("kind: VirtualService", "kind: VirtualServise"),
         "mesh.yaml:2 VirtualServise default/reviews kind: unknown kind 'VirtualServise' in"
         " networking.istio.io/v1; did you mean 'VirtualService'?"),
        (("networking.istio.io/v1", "networking.istio.io/v2"),
         "mesh.yaml:1 VirtualService default/reviews apiVersion: VirtualService has no apiVersion"
         " 'networking.istio.io/v2'; known are networking.istio.io/v1,"
         " networking.istio.io/v1beta1, networking.istio.io/v1alpha3"),
        (("networking.istio.io/v1", "networking.istoi.io/v1"),
         "mesh.yaml:1 VirtualService default/reviews apiVersion: VirtualService has no group"
         " 'networking.istoi.io'; did you mean 'networking.istio.io'?"),
        (("kind: VirtualService\n", "knid: VirtualService\n"),
         "mesh.yaml:2 knid: unknown field 'knid'; did you mean 'kind'?"),
        (("kind: VirtualService\n", ""), "mesh.yaml:1 kind: is required"),
        (("  name: reviews", "  nam: reviews"),
         "mesh.yaml:4 metadata.nam: unknown field 'nam'; did you mean 'name'?"),
        (("  name: reviews", "  name: Re_views"),
         "mesh.yaml:4 VirtualService default/Re_views metadata.name: 'Re_views' is not a DNS name"
         " of lower-case letters and digits"),
        (("  name: reviews", "  name: reviews\n  creationTimestamp: yesterday"),
         "mesh.yaml:5 VirtualService default/reviews metadata.creationTimestamp: 'yesterday' is"
         " not a time of RFC 3339"),
        (("  name: reviews", "  name: reviews\n  labels: {app: 1}"),
         "mesh.yaml:5 VirtualService default/reviews metadata.labels[app]: must be a string, not"
         " the number 1 (put it in quotes)"),
        (("hosts: [reviews]", "hosts: [reviews]\n  hosts: [b]"),
         "mesh.yaml:7 VirtualService default/reviews spec.hosts: 'hosts' is there twice"),
    ],
)  # fmt: skip
def test_a_mistake_gives_one_clear_line(change: tuple[str, str], expected: str) -> None:
    parsed = parse(ROUTES.replace(*change, 1))
    found = [line.replace("metadata.labels.app", "metadata.labels[app]") for line in lines(parsed)]
    assert found == [expected]
    assert not parsed.objects


def test_legal_fields_that_are_not_read_are_no_mistakes() -> None:
    meta = "name: reviews\n  uid: abc\n  managedFields: [{a: 1}]\n  creationTimestamp: null"
    parsed = parse(ROUTES.replace("name: reviews", meta))
    assert not parsed.diagnostics
    assert len(parsed.objects) == 1


def test_null_counts_as_absent() -> None:
    parsed = parse(ROUTES.replace("timeout: 1.5s", "timeout: null\n    retries:"))
    assert not parsed.diagnostics
    assert isinstance(parsed.objects[0].item, VirtualService)


def test_creation_times_are_brought_to_utc() -> None:
    text = ROUTES.replace(
        "name: reviews", "name: reviews\n  creationTimestamp: 2024-05-01T02:00:00+03:00"
    )
    assert parse(text).objects[0].item.metadata.creation_timestamp == "2024-04-30T23:00:00Z"


def test_an_object_that_is_there_twice_counts_once() -> None:
    parsed = parse(f"{ROUTES}---\n{ROUTES}")
    assert len(parsed.objects) == 1
    assert lines(parsed) == [
        "mesh.yaml:14 VirtualService default/reviews: is in this file twice;"
        " the one at line 1 is used"
    ]


def test_foreign_kinds_are_ignored_with_a_word() -> None:
    parsed = parse("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {x: 1}\n")
    assert [found.level for found in parsed.diagnostics] == [Level.INFO]
    assert not parsed.objects


def test_a_kind_without_translation_is_kept_with_a_warning() -> None:
    parsed = parse(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: a}\n"
        "spec: {egress: [{hosts: ['./*']}]}\n"
    )
    (item,) = objects_of(parsed.objects)
    assert isinstance(item, Untranslated)
    assert item.ref == ObjectRef("Sidecar", "default", "a")
    assert item.body == {"spec": {"egress": ({"hosts": ("./*",)},)}}
    assert lines(parsed) == [
        "mesh.yaml:1 Sidecar default/a: Sidecar is not supported yet and has no effect"
    ]


def test_the_gateway_of_the_gateway_api_is_another_kind() -> None:
    parsed = parse(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: a}\nspec: {}\n"
    )
    assert parsed.objects[0].ref.kind == "Gateway.gateway.networking.k8s.io"


def test_the_content_of_secrets_is_not_kept() -> None:
    parsed = parse(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {key: hunter2}\n"
    )
    (item,) = objects_of(parsed.objects)
    assert "hunter2" not in repr(item)
    assert not lines(parsed)


def slices(count: int) -> list[dict[str, Any]]:
    return [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"s{number}", "labels": {"kubernetes.io/service-name": "s"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [f"10.0.0.{number}"], "hints": {"forZones": []}}],
            "ports": None,
        }
        for number in range(1, count + 1)
    ]


def test_json_and_yaml_of_the_same_objects_are_the_same() -> None:
    items = {"apiVersion": "v1", "kind": "List", "items": slices(3)}
    from_json = parse_file("a.json", json.dumps(items, indent=1).encode())
    from_yaml = parse_file("a.yaml", b"# yaml\n" + json.dumps(items).encode())
    assert list(objects_of(from_json.objects)) == list(objects_of(from_yaml.objects))
    assert all(isinstance(item, PackedSlice) for item in objects_of(from_json.objects))
    assert not from_json.diagnostics


def test_objects_of_a_json_list_have_their_own_lines() -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": slices(3)}, indent=1)
    rows = text.splitlines()
    starts = [number for number, row in enumerate(rows, 1) if row == "  {"]
    parsed = parse_file("a.json", text.encode())
    assert [record.origin.line for record in parsed.objects] == starts


def test_mistakes_in_json_have_lines() -> None:
    items = slices(2)
    items[1]["endpoints"][0]["adresses"] = items[1]["endpoints"][0].pop("addresses")
    text = "\n".join(json.dumps(item, indent=1) for item in items)
    parsed = parse_file("a.json", text.encode())
    expected = next(n for n, row in enumerate(text.splitlines(), 1) if "adresses" in row)
    assert lines(parsed) == [
        f"a.json:{expected} EndpointSlice default/s2 endpoints[0].adresses:"
        " unknown field 'adresses'; did you mean 'addresses'?"
    ]
    assert [item.metadata.name for item in objects_of(parsed.objects)] == ["s1"]


def test_a_json_file_that_is_cut_off_is_broken() -> None:
    text = json.dumps(slices(1)[0])
    assert parse_file("a.json", text[:-5].encode()).broken


def test_lists_of_one_kind_are_opened() -> None:
    service = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 80}]}}"
    parsed = parse(f"apiVersion: v1\nkind: ServiceList\nitems:\n- {service}\n")
    (record,) = parsed.objects
    item, origin = record.item, record.origin
    assert isinstance(item, KubernetesService)
    assert origin.line == 4


def test_mesh_config_is_read_strictly() -> None:
    mesh, found = parse_mesh_config("m.yaml", b"accessLogFile: /dev/stdout\nrootNamespace: x\n")
    assert mesh is not None
    assert (mesh.access_log_file, mesh.root_namespace) == ("/dev/stdout", "x")
    assert not found

    mesh, found = parse_mesh_config("m.yaml", b"acessLogFile: a\nproxyListenPort: 70000\n")
    assert mesh is None
    assert [str(entry) for entry in found] == [
        "m.yaml:1 acessLogFile: unknown field 'acessLogFile'; did you mean 'accessLogFile'?",
        "m.yaml:2 proxyListenPort: 70000 is out of range, it must be <= 65535",
    ]


def test_settings_of_the_mesh_without_effect_are_named() -> None:
    mesh, found = parse_mesh_config("m.yaml", b"extensionProviders: [{name: x}]\n")
    assert mesh is not None
    assert [(entry.level, entry.field) for entry in found] == [
        (Level.WARNING, "extensionProviders")
    ]

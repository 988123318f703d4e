"""The definitions of `pylot crds` in a real API server: taken, explained, and losing nothing."""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.crds.kinds import defined
from controlplane.model.kinds import Kind, Untranslated, find_kind
from controlplane.sources.objects import read_value
from tests.envoy.random_routes import DURATIONS, NUMBERS, PERCENTS, TEXTS
from tests.full_objects import VARIANTS, full_object
from tests.kubernetes.cluster import Cluster

pytestmark = [pytest.mark.kubernetes, pytest.mark.usefixtures("istio_crds")]

BOOKINFO = Path(__file__).parents[2] / "examples" / "bookinfo"
GOLDEN = Path(__file__).parents[1] / "golden"
TYPED = [kind for kind in defined() if kind.model is not Untranslated]


def _names(kind: Kind) -> str:
    return f"{kind.plural}.{kind.group}"


def test_every_definition_is_established_and_structural(cluster: Cluster) -> None:
    """The API server serves each, and finds nothing in a schema that hinders pruning."""
    found = json.loads(cluster.kubectl("get", "crd", *map(_names, defined()), "-o", "json").stdout)[
        "items"
    ]
    assert len(found) == len(defined())
    for item in found:
        conditions = {entry["type"]: entry["status"] for entry in item["status"]["conditions"]}
        assert conditions["Established"] == "True", item["metadata"]["name"]
        assert conditions.get("NonStructuralSchema", "False") == "False", conditions


@pytest.mark.parametrize("kind", TYPED, ids=lambda kind: kind.kind)
def test_no_field_of_a_full_object_is_lost(cluster: Cluster, namespace: str, kind: Kind) -> None:
    """What was applied in one version is read back whole in every version."""
    full = [
        full_object(kind, version, variant, name=f"{version}-{variant}")
        for version, variant in itertools.product(kind.versions, range(VARIANTS))
    ]
    cluster.kubectl(
        "apply", "--server-side", "--validate=strict", "-n", namespace, "-f", "-",
        stdin=yaml.safe_dump_all(full),
    )  # fmt: skip
    wanted = {item["metadata"]["name"]: item["spec"] for item in full}
    for version in kind.versions:
        resource = f"{kind.plural}.{version}.{kind.group}"
        answer = cluster.kubectl("get", "-n", namespace, resource, "-o", "json").stdout
        found = {item["metadata"]["name"]: item["spec"] for item in json.loads(answer)["items"]}
        assert found == wanted, version


def test_an_old_spelling_is_kept(cluster: Cluster, namespace: str) -> None:
    """Objects that older releases have taken stay as they are."""
    route = {"mirror": {"host": "web"}, "mirror_percent": 7, **_TO}
    cluster.kubectl(
        "apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(_virtual_service(route))
    )
    answer = cluster.kubectl("get", "vs", "web", "-n", namespace, "-o", "json").stdout
    assert json.loads(answer)["spec"]["http"] == [route]


@pytest.mark.parametrize(
    "kind", [kind for kind in defined() if kind.model is Untranslated], ids=lambda kind: kind.kind
)
def test_a_kind_without_a_struct_keeps_everything(
    cluster: Cluster, namespace: str, kind: Kind
) -> None:
    """Its spec is kept as it is, however deep."""
    spec = {"any": {"thing": [1, {"deep": ["er", True]}]}}
    cluster.kubectl(
        "apply", "-n", namespace, "-f", "-",
        stdin=yaml.safe_dump(
            {
                "apiVersion": kind.api_versions[0],
                "kind": kind.kind,
                "metadata": {"name": "any"},
                "spec": spec,
            }
        ),
    )  # fmt: skip
    answer = cluster.kubectl("get", "-n", namespace, _names(kind), "any", "-o", "json").stdout
    assert json.loads(answer)["spec"] == spec


def test_kubectl_explains_fields(cluster: Cluster) -> None:
    """Kinds, structs and fields have a sentence."""
    http = cluster.kubectl("explain", "virtualservices.spec.http").stdout
    assert "the first rule that matches a request is taken" in " ".join(http.split())
    assert "<no description>" not in http
    attempts = cluster.kubectl("explain", "vs.spec.http.retries.attempts").stdout
    assert "0 switches retries off" in " ".join(attempts.split())
    kind = cluster.kubectl("explain", "dr", "--api-version=networking.istio.io/v1alpha3").stdout
    assert "Policy for traffic to a host" in kind


def test_bookinfo_applies(cluster: Cluster, namespace: str) -> None:
    """Every manifest of the example is taken, without an unknown field."""
    files = sorted([*BOOKINFO.glob("networking/*.yaml"), BOOKINFO / "platform" / "bookinfo.yaml"])
    assert len(files) > 10
    arguments = itertools.chain.from_iterable(("-f", str(file)) for file in files)
    cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-n", namespace, *arguments)


def _objects_of_other_tests() -> Iterator[dict[str, Any]]:
    """Objects of Istio's kinds: inputs of golden tests and examples."""
    for path in sorted([*GOLDEN.rglob("*.yaml"), *BOOKINFO.rglob("*.yaml")]):
        for item in yaml.load_all(path.read_text("utf-8"), Loader=yaml.CSafeLoader):
            if isinstance(item, dict) and ".istio.io/" in str(item.get("apiVersion")):
                yield item


def _changed(item: Any, dice: random.Random) -> Any:
    """A copy in which some values at the ends of paths are others."""
    match item:
        case dict():
            return {key: _changed(value, dice) for key, value in item.items()}
        case list():
            return [_changed(value, dice) for value in item]
        case _ if dice.random() < 0.1:
            return dice.choice((*TEXTS, *NUMBERS, *DURATIONS, *PERCENTS, True, False))
        case _:
            return item


def _is_accepted(item: dict[str, Any]) -> bool:
    kind = find_kind(item["apiVersion"], item["kind"])
    return isinstance(kind, Kind) and read_value(item, kind).item is not None


def test_what_validation_accepts_the_schemas_accept(cluster: Cluster, namespace: str) -> None:
    """A definition is never stricter than `pylot validate`, also for objects that are odd."""
    dice = random.Random(3)
    tries = range(20 * int(os.environ.get("PYLOT_SOAK") or 1))
    accepted = []
    for item in _objects_of_other_tests():
        for _ in tries:
            accepted.append({**item, "spec": _changed(item["spec"], dice)})
    accepted = [item for item in accepted if _is_accepted(item)]
    assert len(accepted) > 300, len(accepted)
    for number, item in enumerate(accepted):
        item["metadata"] = {"name": f"n{number}", "namespace": namespace}
    for some in batched(accepted, 200):
        cluster.kubectl(
            "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-",
            stdin=yaml.safe_dump_all(some),
        )  # fmt: skip


def batched(items: list[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    """Cut a list into pieces."""
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


def _virtual_service(route: dict[str, Any]) -> dict[str, Any]:
    spec = {"hosts": ["web"], "http": [route]}
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "web"},
        "spec": spec,
    }


_TO = {"route": [{"destination": {"host": "web"}}]}


@pytest.mark.parametrize(
    ("route", "field"),
    [
        ({**_TO, "corsPolicy": {"unmatchedPreflights": "MAYBE"}}, "unmatchedPreflights"),
        ({"route": [{"destination": {"host": "web"}, "weight": -1}]}, "weight"),
        ({"route": [{"destination": {"host": "web", "port": {"number": 65536}}}]}, "port.number"),
        ({"route": [{"destination": {"subset": "v1"}}]}, "destination.host"),
        ({**_TO, "timeout": "soon"}, "timeout"),
        ({**_TO, "match": [{"uri": {"exact": "/a", "prefix": "/b"}}]}, "uri"),
    ],
)
def test_impossible_values_are_refused(
    cluster: Cluster, namespace: str, route: dict[str, Any], field: str
) -> None:
    """Enums, ranges, required fields, forms of strings and unions hold without any webhook."""
    done = cluster.kubectl(
        "apply", "--dry-run=server", "-n", namespace, "-f", "-",
        stdin=yaml.safe_dump(_virtual_service(route)), check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert field in done.stderr


def test_kubectl_get_shows_columns(cluster: Cluster, namespace: str) -> None:
    """Short names and columns are those of Istio."""
    cluster.kubectl(
        "apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(_virtual_service(_TO))
    )
    lines = cluster.kubectl("get", "vs", "-n", namespace).stdout.splitlines()
    assert lines[0].split() == ["NAME", "GATEWAYS", "HOSTS", "AGE"]
    assert '["web"]' in lines[1]
    status = {"conditions": [{"type": "Accepted", "status": "False"}]}
    cluster.kubectl(
        "patch", "vs", "web", "-n", namespace, "--subresource=status", "--type=merge",
        "-p", json.dumps({"status": status}),
    )  # fmt: skip
    wide = cluster.kubectl("get", "vs", "-n", namespace, "-o", "wide").stdout.splitlines()
    assert wide[0].split()[-2:] == ["ACCEPTED", "RECONCILED"]
    assert wide[1].split()[-1] == "False"
    assert "web" in cluster.kubectl("get", "istio-io", "-n", namespace, "-o", "name").stdout


def test_status_is_a_subresource(cluster: Cluster, namespace: str) -> None:
    """Users cannot write it with the object, and it takes conditions, findings and more."""
    item = _virtual_service(_TO)
    item["status"] = {"conditions": [{"type": "Made", "status": "Up"}]}
    cluster.kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(item))
    read = ("get", "vs", "web", "-n", namespace, "-o", "json")
    assert "status" not in json.loads(cluster.kubectl(*read).stdout)
    status = {
        "observedGeneration": 1,
        "conditions": [{"type": "Reconciled", "status": "True", "observedGeneration": "1"}],
        "validationMessages": [{"level": "ERROR", "type": {"code": "IST0101", "name": "n"}}],
        "else": {"kept": True},
    }
    cluster.kubectl(
        "patch", "vs", "web", "-n", namespace, "--subresource=status", "--type=merge",
        "-p", json.dumps({"status": status}),
    )  # fmt: skip
    assert json.loads(cluster.kubectl(*read).stdout)["status"] == status

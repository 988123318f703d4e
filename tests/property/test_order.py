"""Order never depends on arrival, and a broken object hurts only itself."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.model.assemble import make_snapshot
from controlplane.model.diagnostics import Level
from controlplane.model.meta import Object, objects_of
from controlplane.model.proxy import Proxy, make_proxy
from controlplane.model.snapshot import Snapshot
from controlplane.sources.filetree import FileTree
from controlplane.sources.parse import parse_file
from controlplane.translate.build import Generator
from tests.property.example_mesh import DOCUMENTS, OBJECTS, resources_of

PROXIES: tuple[Proxy, ...] = (
    make_proxy("sidecar~10.0.0.1~productpage.default~default.svc.cluster.local"),
    make_proxy(
        "router~10.0.0.2~gate.default~default.svc.cluster.local",
        {"LABELS": {"istio": "ingressgateway"}},
    ),
)


def plain(snapshot: Snapshot) -> dict[str, Any]:
    """Return a snapshot as values: the two indexes by the rules that they hold."""
    found = {field: getattr(snapshot, field) for field in snapshot.__struct_fields__}
    return {**found, "rules": snapshot.rules.rules, "routing": snapshot.routing.rules}


def resources(snapshot: Snapshot) -> dict[str, bytes]:
    """Return the bytes of everything that the proxies get, by proxy, type and name."""
    generator = Generator()
    return {
        f"{proxy.type} {name}": body
        for proxy in PROXIES
        for name, body in resources_of(proxy, snapshot, generator).items()
    }


REFERENCE = make_snapshot(OBJECTS)
EXPECTED = resources(REFERENCE)


def test_the_reference_is_worth_comparing_with() -> None:
    assert len(OBJECTS) == len(DOCUMENTS) > 20
    assert len(EXPECTED) > 20
    assert {found.code for found in REFERENCE.diagnostics} >= {"DuplicateHost", "IST0109"}


@settings(deadline=None, max_examples=25)
@given(st.permutations(OBJECTS))
def test_the_same_objects_in_any_order_give_the_same_bytes(objects: list[Object]) -> None:
    snapshot = make_snapshot(objects)
    assert plain(snapshot) == plain(REFERENCE)
    assert resources(snapshot) == EXPECTED


@pytest.mark.parametrize("seed", range(10))
def test_the_same_objects_in_any_split_into_files_give_the_same_bytes(
    seed: int, tmp_path: Path
) -> None:
    dice = random.Random(seed)
    shuffled = dice.sample(DOCUMENTS, len(DOCUMENTS))
    while shuffled:
        size = dice.randint(1, len(shuffled))
        part, shuffled = shuffled[:size], shuffled[size:]
        folder = tmp_path / dice.choice("abc")
        folder.mkdir(exist_ok=True)
        path = folder / f"{dice.randrange(10**9)}.yaml"
        path.write_text(yaml.safe_dump_all(part, sort_keys=dice.random() < 0.5))
    delta = FileTree((tmp_path,)).scan().delta
    snapshot = make_snapshot(item for item in objects_of(delta.upserts))
    assert plain(snapshot) == plain(REFERENCE)
    assert resources(snapshot) == EXPECTED


BROKEN = st.sampled_from(
    [
        "kind: [",
        "just words",
        "\x00\x01",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: 5\n",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: bad}\n"
        "spec: {hosts: [reviews], http: [{}]}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {ports: [{port: 0}]}\n",
        "apiVersion: v1\nkind: Srevice\nmetadata: {name: bad}\n",
        "metadata: {name: bad}\n",
    ]
)


@settings(deadline=None, max_examples=20)
@given(BROKEN, st.booleans())
def test_adding_a_broken_object_changes_no_other(text: str, own_file: bool) -> None:
    good = yaml.safe_dump_all(DOCUMENTS)
    if own_file:
        parsed = parse_file("bad.yaml", text.encode())
        assert not parsed.objects
        objects = list(OBJECTS)
    else:
        parsed = parse_file("all.yaml", f"{good}\n---\n{text}".encode())
        if parsed.broken:
            return  # the file source then keeps what the file said before
        objects = list(objects_of(parsed.objects))
    assert any(found.level is Level.ERROR for found in parsed.diagnostics)
    assert resources(make_snapshot(objects)) == EXPECTED

"""What a class holds of names that clients ask for, known or not."""

from __future__ import annotations

import pytest

from controlplane.ads.cache import Collections
from controlplane.ads.name_sets import NameSets
from controlplane.ads.types import EDS, RDS, TypeInfo
from controlplane.ads.views import MAX_UNKNOWN, ClassView
from controlplane.model.proxy import make_proxy
from tests.feature.world import FakeGenerator, World, cluster_name

KNOWN = {EDS: cluster_name("reviews"), RDS: "80"}


def view() -> ClassView:
    generator = FakeGenerator()
    snapshot = generator.know(
        World(
            clusters={"reviews": 1},
            endpoints={"reviews": ("10.0.0.1",)},
            routes={"80": ("reviews",)},
            listeners={"80": 1},
        )
    )
    proxy = make_proxy("sidecar~1.1.1.1~a.b~x", {})
    cls = generator.classify(proxy, snapshot)
    return ClassView.first(generator, cls, snapshot, Collections())


@pytest.mark.parametrize("info", [EDS, RDS], ids=lambda info: info.short)
def test_names_that_nobody_knows_are_answered_up_to_a_limit(info: TypeInfo) -> None:
    unknown = [f"{number:06}" for number in range(MAX_UNKNOWN + 10)]
    names = NameSets().intern((*unknown, KNOWN[info]))
    held = view().collection(info.kind, names)
    assert list(held.by_name) == sorted((*unknown[:MAX_UNKNOWN], KNOWN[info]))


@pytest.mark.parametrize("info", [EDS, RDS], ids=lambda info: info.short)
def test_a_few_unknown_names_are_answered_like_known_ones(info: TypeInfo) -> None:
    names = NameSets().intern(("nobody", KNOWN[info]))
    made = view()
    held = made.collection(info.kind, names)
    assert list(held.by_name) == sorted(("nobody", KNOWN[info]))
    assert made.collection(info.kind, names) is held

"""An index that follows changes is the one that would be made of what there is now."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.model.assemble import Assembler, make_snapshot
from controlplane.model.base import FrozenDict
from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import ObjectMeta, ObjectRef, Record
from controlplane.model.names import Host, is_wildcard
from controlplane.model.virtual_service import (
    Destination,
    HTTPMatchRequest,
    HTTPRoute,
    HTTPRouteDestination,
    VirtualService,
    VirtualServiceSpec,
)
from controlplane.model.virtual_services import VirtualServices, mesh_hosts

MESH, DOMAIN = MeshConfig(), "cluster.local"
NAMESPACES = ("one", "two", "three")
HOSTS = ("a.com", "b.com", "*.com", "*")
GATEWAYS = ("mesh", "one/gate")


def rule(
    number: int,
    hosts: Iterable[str],
    *,
    gateways: Iterable[str] = (),
    export_to: Iterable[str] = (),
    label: str = "",
    created: str | None = None,
) -> VirtualService:
    match = (HTTPMatchRequest(source_labels=FrozenDict({"app": label})),) if label else ()
    to = HTTPRouteDestination(destination=Destination(host="a.com"))
    return VirtualService(
        metadata=ObjectMeta(
            name=f"rule-{number}", namespace=NAMESPACES[number % 2], creation_timestamp=created
        ),
        spec=VirtualServiceSpec(
            hosts=tuple(hosts),
            gateways=tuple(gateways),
            export_to=tuple(export_to),
            http=(HTTPRoute(match=match, route=(to,)),),
        ),
    )


# Many that nothing happens to, or everything would be made again.
QUIET = tuple(rule(number, (f"quiet-{number}.com",)) for number in range(100, 140))
moving = st.builds(
    rule,
    st.integers(0, 5),
    st.lists(st.sampled_from(HOSTS), min_size=1, max_size=2, unique=True),
    gateways=st.lists(st.sampled_from(GATEWAYS), max_size=2, unique=True),
    export_to=st.sampled_from(((), ("*",), (".",), ("two",), ("~",))),
    label=st.sampled_from(("", "", "x", "y")),
    created=st.sampled_from((None, "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z")),
)
worlds = st.lists(moving, max_size=4, unique_by=lambda item: item.ref)


def said(index: VirtualServices) -> object:
    """Everything that can be asked of an index."""
    hosts = [Host(host) for host in (*HOSTS, "c.com", "quiet-101.com", "x.org")]
    return (
        index.rules,
        index.source_labels,
        {
            namespace: (
                index.for_mesh(namespace).rules,
                [index.for_mesh(namespace).candidates(host) for host in hosts],
                [index.for_gateway(gateway, namespace) for gateway in GATEWAYS],
            )
            for namespace in NAMESPACES
        },
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(worlds, min_size=2, max_size=5), st.lists(st.booleans(), min_size=5, max_size=5))
def test_what_follows_changes_is_what_would_be_built(
    steps: list[list[VirtualService]], asked: list[bool]
) -> None:
    held = {item.ref: item for item in QUIET}
    index = VirtualServices.build(held.values(), MESH, DOMAIN)
    for step, ask in zip(steps, asked, strict=False):
        wanted = {item.ref: item for item in (*QUIET, *step)}
        gone = [item for ref, item in held.items() if wanted.get(ref) != item]
        came = [item for ref, item in wanted.items() if held.get(ref) != item]
        before, index = index, index.replaced(gone, came, MESH, DOMAIN)
        held = wanted
        if ask:  # what nobody asked of one index cannot be taken over by the next
            assert said(index) == said(VirtualServices.build(held.values(), MESH, DOMAIN))
            for namespace in NAMESPACES:
                rules, old = index.for_mesh(namespace), before.for_mesh(namespace)
                others = {*rules.rules}.symmetric_difference(old.rules)
                hosts = frozenset(host for rule in others for host in mesh_hosts(rule))
                found = rules.changed_hosts(old)
                assert found == (None if any(map(is_wildcard, hosts)) else hosts)


@settings(max_examples=100, deadline=None)
@given(st.lists(worlds, min_size=1, max_size=4), st.booleans())
def test_a_snapshot_after_changes_is_the_one_of_its_objects(
    steps: list[list[VirtualService]], other_mesh: bool
) -> None:
    assembler = Assembler()
    assembler.apply([Record.of(item) for item in QUIET])
    assembler.snapshot()
    held: set[ObjectRef] = set()
    for step in steps:
        refs = {item.ref for item in step}
        assembler.apply([Record.of(item) for item in step], held - refs)
        held = refs
        mesh = MESH
        if other_mesh:
            mesh = MeshConfig(default_virtual_service_export_to=(".",))
            assembler.set_mesh(mesh)
        followed, made = assembler.snapshot(), make_snapshot((*QUIET, *step), mesh=mesh)
        assert followed.virtual_services == made.virtual_services
        assert said(followed.routing) == said(made.routing)
        assert followed.diagnostics == made.diagnostics


def test_what_did_not_change_is_the_same_object() -> None:
    before = VirtualServices.build(QUIET, MESH, DOMAIN)
    came = rule(0, ("a.com",))
    after = before.replaced(QUIET[:1], (came,), MESH, DOMAIN)
    kept = {found.ref: found for found in before.rules}
    assert [kept.get(found.ref) is found for found in after.rules].count(False) == 1
    mesh = after.for_mesh("one")
    assert before.for_mesh("one") is before.for_mesh("two")
    changed = mesh.changed_hosts(before.for_mesh("one"))
    assert changed == frozenset(map(Host, ("a.com", "quiet-100.com")))
    assert after.replaced((came,), QUIET[:1], MESH, DOMAIN).for_mesh("two").rules == before.rules

"""Which VirtualServices speak for a host, to whom, and with which names."""

from __future__ import annotations

from itertools import permutations

from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import ObjectMeta
from controlplane.model.names import Host
from controlplane.model.virtual_service import (
    Destination,
    HTTPMatchRequest,
    HTTPMirrorPolicy,
    HTTPRoute,
    HTTPRouteDestination,
    VirtualService,
    VirtualServiceSpec,
)
from controlplane.model.virtual_services import VirtualServices

MESH = MeshConfig()
OLD = "2024-01-01T00:00:00Z"
NEW = "2025-01-01T00:00:00Z"


def rule(
    name: str,
    *hosts: str,
    namespace: str = "default",
    created: str | None = None,
    gateways: tuple[str, ...] = (),
    export_to: tuple[str, ...] = (),
    http: tuple[HTTPRoute, ...] = (),
) -> VirtualService:
    return VirtualService(
        metadata=ObjectMeta(name=name, namespace=namespace, creation_timestamp=created),
        spec=VirtualServiceSpec(hosts=hosts, gateways=gateways, export_to=export_to, http=http),
    )


def build(*rules: VirtualService, mesh: MeshConfig = MESH) -> VirtualServices:
    return VirtualServices.build(rules, mesh, "cluster.local")


def speakers(index: VirtualServices, host: str, namespace: str = "default") -> list[str]:
    return [found.ref.name for found in index.for_mesh(namespace).candidates(Host(host))]


def test_the_oldest_virtual_service_wins_a_host_in_any_order() -> None:
    rules = [
        rule("b-new", "a.com", created=NEW),
        rule("a-new", "a.com", created=NEW),
        rule("old", "a.com", created=OLD),
    ]
    for order in permutations(rules):
        assert speakers(build(*order), "a.com") == ["old", "a-new", "b-new"]


def test_a_rule_without_a_time_is_the_oldest() -> None:
    assert speakers(build(rule("z", "a.com"), rule("a", "a.com", created=OLD)), "a.com")[0] == "z"


def test_an_exact_host_beats_wildcards_and_the_longest_wildcard_the_others() -> None:
    index = build(
        rule("everything", "*", created=OLD),
        rule("short", "*.com", created=OLD),
        rule("long", "*.a.com", created=NEW),
        rule("exact", "x.a.com", created=NEW),
    )
    assert speakers(index, "x.a.com") == ["exact"]
    assert speakers(index, "y.a.com") == ["long"]
    assert speakers(index, "b.com") == ["short"]
    # `*` is for gateways: in the mesh it would take every service.
    assert speakers(index, "b.org") == []


def test_names_are_resolved_in_the_namespace_of_the_virtual_service() -> None:
    destination = Destination(host="ratings")
    index = build(
        rule(
            "r",
            "Reviews",
            namespace="books",
            gateways=("mesh", "web", "other/web", "./own"),
            http=(
                HTTPRoute(
                    match=(HTTPMatchRequest(gateways=("web", "mesh")),),
                    route=(HTTPRouteDestination(destination=destination),),
                    mirror=destination,
                    mirrors=(HTTPMirrorPolicy(destination=Destination(host="a.com")),),
                ),
            ),
        )
    )
    (found,) = index.rules
    assert found.hosts == ("reviews.books.svc.cluster.local",)
    assert found.gateways == ("mesh", "books/web", "other/web", "books/own")
    route = found.http[0]
    assert route.match[0].gateways == ("books/web", "mesh")
    assert route.route[0].destination.host == "ratings.books.svc.cluster.local"
    assert route.mirror is not None
    assert route.mirror.host == "ratings.books.svc.cluster.local"
    assert route.mirrors[0].destination.host == "a.com"


def test_a_rule_for_a_gateway_alone_says_nothing_to_sidecars() -> None:
    index = build(rule("r", "a.com", gateways=("web",)))
    assert speakers(index, "a.com") == []
    assert [found.ref.name for found in index.for_gateway("default/web", "istio-system")] == ["r"]


def test_a_rule_is_seen_where_it_is_exported_to() -> None:
    index = build(
        rule("private", "a.com", export_to=(".",)),
        rule("shared", "b.com", export_to=("shop",)),
        rule("hidden", "c.com", export_to=("~",)),
    )
    assert speakers(index, "a.com") == ["private"]
    assert speakers(index, "a.com", "shop") == []
    assert speakers(index, "b.com", "shop") == ["shared"]
    assert speakers(index, "c.com") == []
    mesh = MeshConfig(default_virtual_service_export_to=(".",))
    assert speakers(build(rule("r", "d.com"), mesh=mesh), "d.com", "shop") == []


def test_what_did_not_change_is_taken_over() -> None:
    kept, changed = rule("kept", "a.com"), rule("changed", "b.com")
    before = build(kept, changed)
    after = before.replaced((changed,), (rule("changed", "c.com"),), MESH, "cluster.local")
    by_name = {found.ref.name: found for found in after.rules}
    assert by_name["kept"] is {found.ref.name: found for found in before.rules}["kept"]
    assert by_name["changed"].hosts == ("c.com",)


def test_a_delegate_without_hosts_speaks_for_nobody() -> None:
    assert speakers(build(rule("delegate")), "a.com") == []

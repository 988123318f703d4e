"""Whatever changes, and in whatever order, all is as if it had been made of what there is now.

Snapshots, classes and resources follow changes step by step, each by a short way of its own. Here
they are compared with those that are made from nothing.
"""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.model.assemble import Assembler, make_snapshot
from controlplane.model.diff import diff
from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import Object, ObjectRef, Record
from controlplane.model.proxy import Proxy, make_proxy
from controlplane.model.snapshot import Snapshot
from controlplane.translate import outbound
from controlplane.translate.build import Generator
from controlplane.translate.scope import Classifier
from controlplane.translate.service_hosts import ServiceHosts
from controlplane.translate.sidecar_routes import SidecarRoutes
from tests.golden.support import make_object

SOAK = int(os.environ.get("PYLOT_SOAK", "1"))
NAMESPACES = ("one", "two", "istio-system")
DOMAIN = "svc.cluster.local"


def kubernetes(kind: str, name: str, namespace: str, spec: Any, **meta: Any) -> Object:
    metadata = {"name": name, "namespace": namespace, **meta}
    return make_object({"kind": kind, "metadata": metadata, "spec": spec})


def service(
    name: str, namespace: str, *, port: int = 80, named: str = "http", address: str = "10.0.0.1",
    export: str = "", label: str = "", target: int = 8080, outside: str = "", selects: str = "",
) -> Object:  # fmt: skip
    spec: dict[str, Any] = {
        "clusterIP": address,
        "selector": {"app": selects or name},
        "ports": [{"name": named, "port": port, "targetPort": target}],
    }
    if outside:
        spec = {"type": "ExternalName", "externalName": outside, "ports": spec["ports"]}
    annotations = {"networking.istio.io/exportTo": export} if export else {}
    labels = {"label": label} if label else {}
    return kubernetes("Service", name, namespace, spec, annotations=annotations, labels=labels)


def endpoints(name: str, namespace: str, addresses: tuple[str, ...]) -> Object:
    return make_object(
        {
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{name}-1",
                "namespace": namespace,
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [
                {"addresses": [address], "conditions": {"ready": True}, "zone": f"zone-{number}"}
                for number, address in enumerate(addresses)
            ],
        }
    )


HOSTS = (
    f"a.one.{DOMAIN}",
    f"a.two.{DOMAIN}",
    f"quiet-1.two.{DOMAIN}",
    f"quiet-7.two.{DOMAIN}",
    "out.example.com",
)
MORE_HOSTS = (*HOSTS, *HOSTS[:1] * 6, "a", "quiet-2", f"*.one.{DOMAIN}", "*.example.com", "*")
POLICIES = (
    None,
    {"connectionPool": {"tcp": {"maxConnections": 7}}},
    {"loadBalancer": {"consistentHash": {"httpHeaderName": "user"}}},
    {"loadBalancer": {"simple": "PASSTHROUGH"}},
    {"tls": {"mode": "ISTIO_MUTUAL"}, "outlierDetection": {"consecutive5xxErrors": 3}},
    {"loadBalancer": {"localityLbSetting": {"enabled": True}}, "outlierDetection": {}},
    {"portLevelSettings": [{"port": {"number": 80}, "tls": {"mode": "DISABLE"}}]},
    {"tls": {"mode": "SIMPLE", "credentialName": "secret"}},
)
MESHES = (MeshConfig(), MeshConfig(default_destination_rule_export_to=(".",)))


def rule(number: int, host: str, policy: Any, *, subset: Any, export: str, created: str) -> Object:
    spec: dict[str, Any] = {"host": host, "exportTo": [export]}
    if policy is not None:
        spec["trafficPolicy"] = policy
    if subset is not None:
        spec["subsets"] = [{"name": "v1", "labels": {"version": "v1"}, "trafficPolicy": subset}]
    meta = {"creationTimestamp": created} if created else {}
    return kubernetes("DestinationRule", f"rule-{number}", NAMESPACES[number % 3], spec, **meta)


def route(number: int, host: str, to: str, subset: str) -> Object:
    destination = {"host": to, **({"subset": subset} if subset else {})}
    spec = {"hosts": [host], "http": [{"route": [{"destination": destination}]}]}
    return kubernetes("VirtualService", f"route-{number}", NAMESPACES[number % 3], spec)


def entry(name: str, host: str, resolution: str, port: int, address: str) -> Object:
    spec = {
        "hosts": [host],
        "resolution": resolution,
        "ports": [{"number": port, "name": "http", "protocol": "HTTP"}],
        **({} if resolution == "NONE" else {"endpoints": [{"address": address}]}),
    }
    return kubernetes("ServiceEntry", name, "one", spec)


def quiet_rule(number: int, policy: Any, *, subset: bool = True) -> Object:
    """The rule of a quiet service, in its namespace."""
    return rule(
        90 + 3 * number + number % 2,
        f"quiet-{number}",
        policy,
        subset={} if subset else None,
        export="*",
        created="",
    )


# Many that nothing happens to, or everything would be made again; of some clusters is noticed that
# their credentials are not served.
QUIET = tuple(
    item
    for number in range(40)
    for item in (
        service(f"quiet-{number}", NAMESPACES[number % 2], address=f"10.1.0.{number}",
                named="tcp" if number == 7 else "http"),
        endpoints(f"quiet-{number}", NAMESPACES[number % 2], (f"10.2.0.{number}",)),
        quiet_rule(number, POLICIES[-1 if number % 20 == 2 else 1]),
    )
)  # fmt: skip


rules = st.builds(
    rule,
    st.integers(0, 3),
    st.sampled_from(MORE_HOSTS),
    st.sampled_from(POLICIES),
    subset=st.sampled_from((None, {}, *POLICIES[1:3])),
    export=st.sampled_from(("*", "*", ".", "two", "~")),
    created=st.sampled_from(("", "2024-01-01T00:00:00Z")),
)
routes = st.builds(
    route,
    st.integers(0, 3),
    st.sampled_from(MORE_HOSTS),
    st.sampled_from((*HOSTS, *HOSTS[:1] * 3)),
    st.sampled_from(("", "v1", "v1")),
)
services = st.builds(
    service,
    st.sampled_from(("a", "a", "quiet-7")),
    st.sampled_from(NAMESPACES[:2]),
    port=st.sampled_from((80, 81)),
    named=st.sampled_from(("http", "http", "http", "grpc", "tcp", "other")),
    address=st.sampled_from(("10.0.0.1", "10.0.0.2", "10.1.0.5", "None")),
    export=st.sampled_from(("", "", ".", "two")),
    label=st.sampled_from(("", "x")),
    target=st.sampled_from((8080, 8081)),
    outside=st.sampled_from(("", "", "", f"quiet-1.two.{DOMAIN}")),
    selects=st.sampled_from(("", "client")),
)
slices = st.builds(
    endpoints,
    st.sampled_from(("a", "a", "quiet-6", "quiet-7")),
    st.sampled_from(NAMESPACES[:2]),
    st.sampled_from(((), ("172.16.0.1",), ("10.3.0.1", "172.16.0.1"), ("172.16.0.9",))),
)
entries = st.builds(
    entry,
    st.sampled_from(("first", "first", "second")),
    st.sampled_from(("out.example.com", "*.example.com")),
    st.sampled_from(("DNS", "STATIC", "NONE")),
    st.sampled_from((80, 443)),
    st.sampled_from(("192.0.2.1", "192.0.2.2")),
)
objects = st.sampled_from((rules, rules, services, services, routes, slices, entries)).flatmap(
    lambda kind: kind
)


def proxy(name: str, address: str, namespace: str, **metadata: Any) -> Proxy:
    kind = "router" if name == "gate" else "sidecar"
    return make_proxy(
        f"{kind}~{address}~{name}.{namespace}~{namespace}.{DOMAIN}",
        {"NAMESPACE": namespace, "LABELS": {"app": name}, **metadata},
        locality="" if name == "client" else "zone-0//",
    )


PROXIES = (
    proxy("client", "172.16.0.1", "one"),
    proxy("client", "172.16.0.2", "two", ISTIO_VERSION="1.27.0"),
    proxy("quiet-2", "10.2.0.2", "one", HTTP_PROXY_PORT="3128"),
    proxy("root", "172.16.0.4", "istio-system"),
    proxy("captured-by-nobody", "172.16.0.5", "elsewhere", INTERCEPTION_MODE="NONE"),
    proxy("gate", "172.16.0.9", "one"),
)


def everything(generator: Generator, snapshot: Snapshot, who: Proxy) -> dict[str, Any]:
    """Return what a proxy gets: its class, its resources in their order, and what was noticed."""
    cls = generator.classify(who, snapshot)
    clusters = generator.clusters(snapshot, cls)
    listeners = generator.listeners(snapshot, cls)
    names = sorted({name for listener in listeners for name in listener.routes})
    asked = (*(item.eds_name for item in clusters if item.eds_name), "outbound|80|v9|a.one")
    assignments = generator.load_assignments(snapshot, cls, asked)
    routes = [generator.route(snapshot, cls, name) for name in names]
    made = (*clusters, *listeners, *assignments, *routes, generator.name_table(snapshot, cls))
    return {
        "class": cls,
        "resources": [(item.type.name, item.name, item.body) for item in made],
        "origins": [item.origins for item in made],
        "diagnostics": generator.diagnostics(snapshot, cls),
    }


def said(snapshot: Snapshot) -> dict[str, Any]:
    """Return a snapshot as values."""
    found = {field: getattr(snapshot, field) for field in snapshot.__struct_fields__}
    followed = {
        (host, client, owner): snapshot.rules.lookup(
            host, client_namespace=client, service_namespace=owner
        )
        for host in (*HOSTS, "x.example.com", "elsewhere.org")
        for client in (*NAMESPACES, "elsewhere")
        for owner in (*NAMESPACES, "")
    }
    return {
        **found,
        "rules": (snapshot.rules.rules, followed),
        "routing": snapshot.routing.rules,
    }


steps = st.tuples(
    st.lists(objects, max_size=2, unique_by=lambda item: item.ref),
    st.lists(st.integers(0, 5), max_size=2),  # which of the others go
    st.sampled_from((0,) * 15 + (1,)),  # the mesh
    st.sets(st.sampled_from(range(len(PROXIES))), max_size=2),  # who asks
)


@settings(max_examples=60 * SOAK, deadline=None)
@given(
    st.lists(objects, max_size=6, unique_by=lambda item: item.ref),
    st.lists(steps, min_size=2, max_size=6),
)
def test_what_follows_changes_is_what_would_be_made_from_nothing(
    first: list[Object], changes: list[tuple[list[Object], list[int], int, set[int]]]
) -> None:
    held: dict[ObjectRef, Object] = {item.ref: item for item in first}
    assembler, generator = Assembler(), Generator()
    assembler.apply([Record.of(item) for item in (*QUIET, *first)])
    snapshot = assembler.snapshot()
    for who in PROXIES:
        everything(generator, snapshot, who)
    for number, (came, positions, mesh, asking) in enumerate(changes):
        removals = [list(held)[at] for at in positions if at < len(held)]
        gone = set(removals) - {item.ref for item in came}
        held = {ref: item for ref, item in held.items() if ref not in gone}
        held |= {item.ref: item for item in came}
        assembler.apply([Record.of(item) for item in came], gone)
        restored = [item for item in QUIET if item.ref in gone]
        assembler.apply([Record.of(item) for item in restored])
        assembler.set_mesh(MESHES[mesh])
        before, snapshot = snapshot, assembler.snapshot()
        wanted = {**{item.ref: item for item in QUIET}, **held}
        alone = make_snapshot(wanted.values(), mesh=MESHES[mesh])
        assert said(snapshot) == said(alone)
        if not diff(before, snapshot):
            assert snapshot.rules is before.rules
        last = number == len(changes) - 1
        for at, who in enumerate(PROXIES):
            # What nobody asked of one snapshot cannot be taken over by the next.
            if last or at in asking:
                assert everything(generator, snapshot, who) == everything(Generator(), alone, who)


def follow(assembler: Assembler, *came: Object) -> Snapshot:
    assembler.apply([Record.of(item) for item in came])
    return assembler.snapshot()


def capped(number: int, connections: int, *, subset: bool = True) -> Object:
    return quiet_rule(
        number, {"connectionPool": {"tcp": {"maxConnections": connections}}}, subset=subset
    )


def test_changes_that_nobody_asked_about_are_made_up_for_when_somebody_does() -> None:
    assembler, generator = Assembler(), Generator()
    snapshot = follow(assembler, *QUIET)
    everything(generator, snapshot, PROXIES[0])
    for item in (capped(4, 1), endpoints("quiet-5", "two", ("10.3.0.1",)), capped(8, 2)):
        snapshot = follow(assembler, item)
        generator.classify(PROXIES[0], snapshot)
    found = everything(generator, snapshot, PROXIES[0])
    assert found == everything(Generator(), snapshot, PROXIES[0])


def test_a_virtual_service_is_looked_at_again_when_its_subset_comes_or_goes() -> None:
    assembler = Assembler()
    host = f"quiet-4.one.{DOMAIN}"
    follow(assembler, *QUIET, route(0, host, host, "v1"))
    wanted = ObjectRef("VirtualService", NAMESPACES[0], "route-0")
    for item, missing in ((capped(4, 1, subset=False), True), (capped(4, 1), False)):
        found = follow(assembler, item).diagnostics
        assert (wanted in {entry.ref for entry in found}) == missing


@pytest.mark.parametrize(
    "changed",
    [capped(4, 1), service("quiet-4", "one", address="10.1.0.4", label="new", target=9)],
    ids=["DestinationRule", "Service"],
)
def test_what_others_have_is_not_looked_at_when_one_object_changes(changed: Object) -> None:
    assembler, generator = Assembler(), Generator()
    snapshot = follow(assembler, *QUIET)
    for who in PROXIES:
        everything(generator, snapshot, who)
    snapshot = follow(assembler, changed)
    with (
        mock.patch.object(outbound, "outbound_cluster_inputs", side_effect=AssertionError),
        mock.patch.object(outbound, "outbound_listener_inputs", side_effect=AssertionError),
        mock.patch.object(SidecarRoutes, "_ruled", side_effect=AssertionError),
        mock.patch.object(ServiceHosts, "_make_defaults", side_effect=AssertionError),
        mock.patch.object(Classifier, "_classify", side_effect=AssertionError),
    ):
        cls = [generator.classify(who, snapshot) for who in PROXIES]
        for one in cls:
            clusters = generator.clusters(snapshot, one)
            listeners = generator.listeners(snapshot, one)
            names = {name for item in listeners for name in item.routes} - {"http_proxy"}
            assert clusters
            for name in names:
                assert generator.route(snapshot, one, name)


@pytest.mark.parametrize(
    "changed",
    [
        service("new", "one", address="10.4.0.1"),
        service("quiet-4", "one", address="10.1.0.4", port=81),
        service("quiet-4", "one", address="10.4.0.2", named="grpc"),
    ],
    ids=["came", "left the port", "has another address"],
)
def test_the_virtual_hosts_of_other_services_stay_when_one_changes(changed: Object) -> None:
    assembler, generator = Assembler(), Generator()
    snapshot = follow(assembler, *QUIET, route(0, HOSTS[2], f"quiet-4.one.{DOMAIN}", "v1"))
    for who in PROXIES:
        everything(generator, snapshot, who)
    snapshot = follow(assembler, changed)
    for who in PROXIES[:2]:
        cls = generator.classify(who, snapshot)
        with (
            mock.patch.object(outbound, "outbound_cluster_inputs", side_effect=AssertionError),
            mock.patch.object(SidecarRoutes, "_ruled", side_effect=AssertionError),
            mock.patch.object(ServiceHosts, "_make_defaults", side_effect=AssertionError),
        ):
            assert generator.clusters(snapshot, cls)
            found = generator.route(snapshot, cls, "80").body
        assert found == Generator().route(snapshot, cls, "80").body


@pytest.mark.parametrize("host", ["new.one", "10.4.0.1"])
def test_a_service_that_comes_shares_its_names_with_hosts_that_were_none(host: str) -> None:
    assembler, generator = Assembler(), Generator()
    snapshot = follow(assembler, *QUIET, route(0, host, HOSTS[2], ""))
    everything(generator, snapshot, PROXIES[0])
    snapshot = follow(assembler, service("new", "one", address="10.4.0.1"))
    found = everything(generator, snapshot, PROXIES[0])
    assert found == everything(Generator(), snapshot, PROXIES[0])


@pytest.mark.parametrize(
    ("first", "came"),
    [
        (route(0, f"*.one.{DOMAIN}", HOSTS[2], ""), service("new", "one", address="10.4.0.1")),
        (quiet_rule(6, POLICIES[2]), service("quiet-4", "one", address="10.4.0.1", port=81)),
    ],
    ids=["a wildcard", "a hash"],
)
def test_what_more_than_one_service_may_concern_goes_the_long_way(
    first: Object, came: Object
) -> None:
    assembler, generator = Assembler(), Generator()
    snapshot = follow(assembler, *QUIET, route(1, HOSTS[2], HOSTS[2], ""))
    everything(generator, snapshot, PROXIES[0])
    for step in ((first,), (came, quiet_rule(6, POLICIES[1])), (came, quiet_rule(6, POLICIES[2]))):
        snapshot = follow(assembler, *step)
        found = everything(generator, snapshot, PROXIES[0])
        assert found == everything(Generator(), snapshot, PROXIES[0])

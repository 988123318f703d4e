"""Proxies of one class get the same bytes, and who else is served changes nothing (rule 4)."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.model.assemble import make_snapshot
from controlplane.model.proxy import Proxy, make_proxy
from controlplane.translate.build import Generator
from tests.property.example_mesh import OBJECTS, resources_of

SNAPSHOT = make_snapshot(OBJECTS)
PODS = sorted(SNAPSHOT.pods_by_ip)
FLAG = st.sampled_from(["", "true"])
METADATA = st.fixed_dictionaries(
    {},
    optional={
        "LABELS": st.sampled_from(
            [{}, {"app": "reviews", "version": "v3"}, {"istio": "ingressgateway"}]
        ),
        "INTERCEPTION_MODE": st.sampled_from(["REDIRECT", "TPROXY", "NONE"]),
        "ISTIO_VERSION": st.sampled_from(["1.24.1", "1.30.0"]),
        "CLUSTER_ID": st.sampled_from(["Kubernetes", "elsewhere"]),
        "NETWORK": st.sampled_from(["", "far"]),
        "NODE_NAME": st.sampled_from(["node-1", "node-2"]),
        "DNS_CAPTURE": FLAG,
        "DNS_AUTO_ALLOCATE": FLAG,
        "UNPRIVILEGED_POD": FLAG,
        "OUTBOUND_LISTENER_EXACT_BALANCE": FLAG,
        "INBOUND_LISTENER_EXACT_BALANCE": FLAG,
        "HTTP10": st.sampled_from(["", "1"]),
        "IDLE_TIMEOUT": st.sampled_from(["", "30s"]),
        "HTTP_PROXY_PORT": st.sampled_from(["", "15080"]),
        "SERVICE_ACCOUNT": st.sampled_from(["one", "two"]),
        "GENERATOR": st.sampled_from(["", "grpc"]),
        "OWNER": st.text(max_size=5),
    },
)


@st.composite
def proxies(draw: Any) -> Proxy:
    """A proxy of this mesh, or a stranger."""
    kind = draw(st.sampled_from(["sidecar", "router"]))
    ip = draw(st.sampled_from([*PODS, "192.0.2.77", "2001:db8::7"]))
    namespace = draw(st.sampled_from(["default", "other"]))
    number = draw(st.integers(0, 99))
    return make_proxy(
        f"{kind}~{ip}~app-{number}.{namespace}~{namespace}.svc.cluster.local",
        draw(METADATA),
        locality=draw(st.sampled_from(["", "region/zone"])),
        extensions=draw(st.sampled_from([frozenset(), frozenset({"istio.stats", "other"})])),
        user_agent=draw(st.sampled_from(["envoy/1.39.0", "envoy/1.40.0"])),
    )


@settings(deadline=None, max_examples=30)
@given(st.lists(proxies(), min_size=2, max_size=5))
def test_every_proxy_gets_what_it_would_get_alone(served: list[Proxy]) -> None:
    together = Generator()
    by_class: dict[Any, dict[str, bytes]] = {}
    for proxy in served:
        found = resources_of(proxy, SNAPSHOT, together)
        assert found == resources_of(proxy, SNAPSHOT, Generator()), proxy
        known = by_class.setdefault(together.classify(proxy, SNAPSHOT), found)
        assert known == found, "two proxies of one class get different bytes"


def test_what_translation_does_not_read_makes_no_class_of_its_own() -> None:
    """The property above speaks of more than one proxy to a class, and of more than one class."""
    node = "sidecar~192.0.2.77~app-{}.default~default.svc.cluster.local"
    generator = Generator()

    def cls(number: int, metadata: dict[str, str], **fields: Any) -> Any:
        return generator.classify(make_proxy(node.format(number), metadata, **fields), SNAPSHOT)

    first = cls(1, {"OWNER": "a", "SERVICE_ACCOUNT": "one"}, user_agent="envoy/1.39.0")
    assert cls(2, {"OWNER": "b", "SERVICE_ACCOUNT": "two"}, user_agent="envoy/1.40.0") == first
    assert cls(2, {"HTTP10": "1"}) != first

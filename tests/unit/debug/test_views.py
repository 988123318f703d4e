"""The shapes of the debug output against values made by hand."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from controlplane.ads.status import ServingStatus, WatchStatus
from controlplane.debug.context import ViewError
from controlplane.debug.render import to_json
from controlplane.debug.views import config, registry, xds
from controlplane.debug.views import serving as views
from controlplane.debug.views.request import Rendering, ViewRequest
from controlplane.debug.views.serving import SyncState, sync_state
from controlplane.debug.views.table import PAGES, index, names
from controlplane.model.base import FrozenDict, Labels
from controlplane.model.core import (
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
    SliceEndpoint,
    TargetRef,
)
from controlplane.model.destination_rule import DestinationRule, DestinationRuleSpec, Subset
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.kinds import Untranslated
from controlplane.model.meta import ObjectMeta, ObjectRef
from controlplane.model.packed import SERVICE_NAME, pack_slice
from controlplane.model.snapshot import Snapshot
from tests.unit.debug.conftest import (
    CDS,
    CLUSTER,
    EDS,
    LDS,
    RDS,
    REVIEWS,
    OneServiceGenerator,
    ask,
    make_snapshot,
)


def data(rendering: Rendering) -> Any:
    """What a caller gets."""
    return json.loads(to_json(rendering()))


def test_mesh_wide_edsz_lists_each_endpoint_by_cluster(
    snapshot: Snapshot, serving: ServingStatus
) -> None:
    (found,) = data(xds.edsz(ask(snapshot, serving)))
    assert found["cluster_name"] == CLUSTER
    addresses = [
        entry["endpoint"]["address"]["socket_address"]["address"]
        for locality in found["endpoints"]
        for entry in locality["lb_endpoints"]
    ]
    assert addresses == ["10.0.0.1", "10.0.0.2"]


def test_mesh_wide_edsz_has_the_subsets_of_destination_rules(serving: ServingStatus) -> None:
    rule = DestinationRule(
        metadata=ObjectMeta(name="reviews", namespace="default"),
        spec=DestinationRuleSpec(host="reviews", subsets=(Subset(name="v1"),)),
    )
    snapshot = msgspec.structs.replace(make_snapshot("10.0.0.1"), destination_rules=(rule,))
    found = data(xds.edsz(ask(snapshot, serving)))
    assert [entry["cluster_name"] for entry in found] == [CLUSTER, f"outbound|9080|v1|{REVIEWS}"]


def test_edsz_of_a_proxy_lists_what_it_watches(snapshot: Snapshot, serving: ServingStatus) -> None:
    found = data(xds.edsz(ask(snapshot, serving, proxyID="reviews-1")))
    assert found == [{"@type": EDS, "cluster_name": CLUSTER}]


def test_configz_shows_objects_with_origin_and_findings(serving: ServingStatus) -> None:
    ref = ObjectRef("Service", "default", "reviews")
    finding = Diagnostic(
        level=Level.ERROR, code="IST0106", message="no", ref=ref, field="spec.ports[0]"
    )
    snapshot = make_snapshot("10.0.0.1", diagnostics=(finding,))
    shown = data(config.configz(ask(snapshot, serving)))
    service = shown[0]
    assert service["kind"] == "Service"
    assert service["apiVersion"] == "v1"
    assert service["metadata"] == {
        "name": "reviews", "namespace": "default", "resourceVersion": "77",
        "generation": 2, "uid": "u-1",
    }  # fmt: skip
    assert service["spec"] == {"ports": [{"port": 9080, "name": "http"}]}
    assert service["provenance"] == {"source": "file", "file": "mesh/reviews.yaml", "line": 3}
    assert service["diagnostics"] == [
        {
            "code": "IST0106", "level": "Error", "message": "no",
            "origin": "Service default/reviews", "field": "spec.ports[0]",
            "file": "mesh/reviews.yaml", "line": 3,
        }
    ]  # fmt: skip


def test_configz_shows_an_endpoint_slice_as_it_would_be_written(serving: ServingStatus) -> None:
    kept = pack_slice(
        EndpointSlice(
            metadata=ObjectMeta(
                name="reviews-1", namespace="default", labels=Labels({SERVICE_NAME: "reviews"})
            ),
            ports=(EndpointPort(port=9080),),
            endpoints=(
                SliceEndpoint(addresses=("10.0.0.1",), target_ref=TargetRef(kind="Pod", name="a")),
                SliceEndpoint(
                    addresses=("10.0.0.2",), zone="here", conditions=EndpointConditions()
                ),
            ),
        )
    )
    snapshot = msgspec.structs.replace(make_snapshot(), objects={kept.ref: kept})
    shown = data(config.configz(ask(snapshot, serving)))[0]
    assert shown["kind"] == "EndpointSlice"
    assert shown["metadata"]["labels"] == {SERVICE_NAME: "reviews"}
    assert shown["ports"] == [{"port": 9080}]
    assert shown["endpoints"] == [
        {
            "addresses": ["10.0.0.1"],
            "targetRef": {"kind": "Pod", "name": "a", "namespace": "default"},
        },
        {"addresses": ["10.0.0.2"], "zone": "here"},
    ]


def test_configz_shows_findings_about_objects_that_were_refused(
    snapshot: Snapshot, serving: ServingStatus
) -> None:
    shown = data(config.configz(ask(snapshot, serving)))
    assert shown[1]["kind"] == "VirtualService"
    assert shown[1]["apiVersion"] == "networking.istio.io/v1"
    assert shown[1]["metadata"] == {"name": "reviews", "namespace": "default"}
    assert [finding["code"] for finding in shown[1]["diagnostics"]] == ["IST0101"]


def test_configz_shows_a_file_that_cannot_be_read_and_marks_its_last_good_content() -> None:
    broken = Diagnostic(
        level=Level.ERROR, code="YamlSyntax", message="bad", file="mesh/reviews.yaml", line=9
    )
    snapshot = make_snapshot("10.0.0.1", diagnostics=(broken,))
    service, file = data(config.configz(ask(snapshot, ServingStatus())))
    assert [finding["code"] for finding in service["diagnostics"]] == ["YamlSyntax"]
    assert file["kind"] == "ConfigFile"
    assert file["metadata"] == {"name": "mesh/reviews.yaml"}
    assert file["diagnostics"][0]["line"] == 9


def test_configz_shows_a_rejection_whose_object_is_unknown() -> None:
    finding = Diagnostic(level=Level.ERROR, code="RejectedByEnvoy", message="cluster 'x'")
    (shown,) = data(config.configz(ask(Snapshot(), ServingStatus(diagnostics=(finding,)))))
    assert (shown["kind"], shown["metadata"]["name"]) == ("ControlPlane", "mesh")
    assert shown["diagnostics"][0]["code"] == "RejectedByEnvoy"


def test_configz_shows_a_kind_without_translation_under_its_own_group() -> None:
    route = Untranslated(
        metadata=ObjectMeta(name="g", namespace="default"),
        qualified_kind="Gateway.gateway.networking.k8s.io",
        body=FrozenDict({"spec": FrozenDict({"gatewayClassName": "istio"})}),
    )
    snapshot = Snapshot(objects=FrozenDict({route.ref: route}))
    (shown,) = data(config.configz(ask(snapshot, ServingStatus())))
    assert (shown["kind"], shown["apiVersion"]) == ("Gateway", "gateway.networking.k8s.io/v1")
    assert shown["spec"] == {"gatewayClassName": "istio"}


def test_resourcesz_names_group_version_and_kind(
    snapshot: Snapshot, serving: ServingStatus
) -> None:
    assert data(config.resourcesz(ask(snapshot, serving))) == [
        {"group": "", "version": "v1", "kind": "Service"}
    ]


def test_mesh_shows_defaults(snapshot: Snapshot, serving: ServingStatus) -> None:
    found = data(config.mesh(ask(snapshot, serving)))
    assert found["proxyListenPort"] == 15001
    assert found["connectTimeout"] == "10s"
    assert found["defaultConfig"]["discoveryAddress"] == "istiod.istio-system.svc:15012"
    assert "ca" not in found


def test_syncz_has_istiods_fields_and_the_rejections(
    snapshot: Snapshot, serving: ServingStatus
) -> None:
    first, second = data(views.syncz(ask(snapshot, serving)))
    assert first["proxy"] == "reviews-1.default"
    assert first["cluster_id"] == "east"
    assert first["proxy_type"] == "sidecar"
    assert first["istio_version"] == "1.29.0"
    assert (first["cluster_sent"], first["cluster_acked"]) == ("n1", "n1")
    assert (first["route_sent"], first["route_acked"]) == ("n2", "n1")
    assert first["resources"][RDS]["status"] == "REJECTED"
    assert first["resources"][RDS]["lastError"] == "bad regex"
    assert first["resources"][RDS]["sentTime"] == "2023-11-14T22:13:21.000Z"
    assert first["rejections"] == [
        {
            "type": "RDS", "resource": "9080", "version": "v2", "message": "bad regex",
            "objects": ["VirtualService default/reviews"],
        }
    ]  # fmt: skip
    assert "cluster_sent" not in second


def test_syncz_narrows_to_a_namespace(snapshot: Snapshot, serving: ServingStatus) -> None:
    found = data(views.syncz(ask(snapshot, serving, namespace="other")))
    assert [entry["proxy"] for entry in found] == ["web-1.other"]


@pytest.mark.parametrize(
    ("watch", "expected"),
    [
        (None, SyncState.NOT_SENT),
        (WatchStatus(type_url=LDS), SyncState.NOT_SENT),
        (WatchStatus(type_url=LDS, nonce_sent="b", nonce_acked="a"), SyncState.STALE),
        (WatchStatus(type_url=LDS, nonce_sent="b", nonce_acked="b"), SyncState.SYNCED),
        # A reconnected client that already has the version is sent nothing.
        (WatchStatus(type_url=LDS, version_acked="v", version_sent="v"), SyncState.SYNCED),
        # One that brings an older version has not been sent the new one yet.
        (WatchStatus(type_url=LDS, version_acked="u"), SyncState.NOT_SENT),
        (
            WatchStatus(type_url=LDS, nonce_sent="b", nonce_acked="a", last_error="no"),
            SyncState.REJECTED,
        ),
    ],
)
def test_state_of_a_watch(watch: WatchStatus | None, expected: SyncState) -> None:
    assert sync_state(watch) is expected


def test_adsz_and_connections(snapshot: Snapshot, serving: ServingStatus) -> None:
    found = data(views.adsz(ask(snapshot, serving, proxyID="reviews-1")))
    assert found["totalClients"] == 1
    client = found["clients"][0]
    assert client["connectionId"] == "reviews-1.default-1"
    assert client["address"] == "10.0.0.1:4711"
    assert client["watches"] == {"CDS": [], "EDS": [CLUSTER], "RDS": ["9080"]}
    assert client["locality"] == {"region": "eu", "zone": "eu-1", "sub_zone": "a"}
    assert client["metadata"]["NAMESPACE"] == "default"
    both = data(views.connections(ask(snapshot, serving)))
    assert both["totalClients"] == 2
    assert set(both["clients"][0]) == {"connectionId", "connectedAt", "address"}


def test_registryz_has_istiods_shape(snapshot: Snapshot, serving: ServingStatus) -> None:
    (service,) = data(registry.registryz(ask(snapshot, serving)))
    assert service["hostname"] == REVIEWS
    assert service["defaultAddress"] == "10.96.0.7"
    assert service["clusterVIPs"] == {"Addresses": {"Kubernetes": ["10.96.0.7"]}}
    assert service["ports"] == [{"name": "http", "port": 9080, "protocol": "HTTP"}]
    assert service["Resolution"] == 0
    assert service["Attributes"]["LabelSelectors"] == {"app": "reviews"}


def test_endpointz_groups_endpoints_by_shard(snapshot: Snapshot, serving: ServingStatus) -> None:
    found = data(registry.endpointz(ask(snapshot, serving)))[REVIEWS]["default"]
    shard = found["Shards"]["Kubernetes/Kubernetes"]
    assert [entry["Addresses"] for entry in shard] == [["10.0.0.1"], ["10.0.0.2"]]
    assert shard[0]["EndpointPort"] == 9080
    assert shard[0]["HealthStatus"] == 1
    assert found["ServiceAccounts"] == {"bookinfo": {}}


def test_instancesz_lists_the_ports_of_each_proxy(
    snapshot: Snapshot, serving: ServingStatus
) -> None:
    found = data(registry.instancesz(ask(snapshot, serving)))
    (target,) = found["reviews-1.default-1"]
    assert target["service"]["hostname"] == REVIEWS
    assert target["port"] == {
        "name": "http", "port": 9080, "protocol": "HTTP", "targetPort": 9080,
    }  # fmt: skip
    assert found["web-1.other-2"] == []


def test_sidecarz_shows_the_class(snapshot: Snapshot, serving: ServingStatus) -> None:
    found = data(registry.sidecarz(ask(snapshot, serving, proxyID="reviews-1")))
    assert found["outbound"]["namespace"] == "default"
    assert found["outbound"]["type"] == "sidecar"
    assert found["inbound"]["targets"][0]["targetPort"] == 9080


def test_config_dump_has_envoys_sections_in_order(
    snapshot: Snapshot, serving: ServingStatus
) -> None:
    found = data(xds.config_dump(ask(snapshot, serving, proxyID="reviews-1")))
    assert [section["@type"].rpartition(".")[2] for section in found["configs"]] == [
        "BootstrapConfigDump", "ClustersConfigDump", "ListenersConfigDump",
        "ScopedRoutesConfigDump", "RoutesConfigDump", "SecretsConfigDump",
    ]  # fmt: skip
    listener = found["configs"][2]["dynamic_listeners"][0]["active_state"]["listener"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager["@type"].endswith(".HttpConnectionManager")
    assert manager["rds"] == {"route_config_name": "9080"}
    assert found["configs"][4]["dynamic_route_configs"][0]["route_config"]["name"] == "9080"


def test_config_dump_with_endpoints_and_of_some_types(
    snapshot: Snapshot, serving: ServingStatus
) -> None:
    whole = data(xds.config_dump(ask(snapshot, serving, proxyID="web-1", include_eds="true")))
    sections = {section["@type"].rpartition(".")[2]: section for section in whole["configs"]}
    (entry,) = sections["EndpointsConfigDump"]["dynamic_endpoint_configs"]
    # The proxy watches nothing yet: what its clusters will ask for is shown.
    assert entry["endpoint_config"]["cluster_name"] == CLUSTER
    some = data(xds.config_dump(ask(snapshot, serving, proxyID="web-1", types="cds,eds")))
    assert [section["@type"].rpartition(".")[2] for section in some["configs"]] == [
        "ClustersConfigDump", "EndpointsConfigDump",
    ]  # fmt: skip
    with pytest.raises(ViewError, match="types: xyz not known"):
        xds.config_dump(ask(snapshot, serving, proxyID="web-1", types="cds,xyz"))


def test_config_dump_uses_the_class_of_the_connection(
    snapshot: Snapshot, serving: ServingStatus
) -> None:
    request = ask(snapshot, serving, proxyID="web-1")
    xds.config_dump(request)()
    generator = request.generator
    assert isinstance(generator, OneServiceGenerator)
    assert generator.seen == [serving.connections[1].proxy_class]


@pytest.mark.parametrize("view", [xds.config_dump, registry.sidecarz])
def test_proxy_id_is_needed_and_has_to_be_connected(
    view: object, snapshot: Snapshot, serving: ServingStatus
) -> None:
    assert callable(view)
    with pytest.raises(ViewError) as missing:
        view(ask(snapshot, serving))
    assert missing.value.status == 400
    with pytest.raises(ViewError, match="Proxy not connected to this Pilot instance") as unknown:
        view(ask(snapshot, serving, proxyID="nobody"))
    assert unknown.value.status == 404


def test_push_status_groups_findings_by_code(snapshot: Snapshot, serving: ServingStatus) -> None:
    assert data(views.push_status(ask(snapshot, serving))) == {
        "IST0101": {
            "VirtualService default/reviews spec.http[0]": {
                "message": "no such host",
                "proxy": "reviews-1.default-1",
            }
        }
    }


def test_push_status_tells_everything_that_is_wrong_with_one_field() -> None:
    ref = ObjectRef("VirtualService", "default", "reviews")
    first, second = (
        Diagnostic(level=Level.ERROR, code="RejectedByEnvoy", ref=ref, field="spec", message=text)
        for text in ("route 80: bad", "route 81: bad")
    )
    snapshot = make_snapshot(diagnostics=(first, second))
    assert data(views.push_status(ask(snapshot, ServingStatus()))) == {
        "RejectedByEnvoy": {
            "VirtualService default/reviews spec": {"message": "route 80: bad; route 81: bad"}
        }
    }


def test_cachez_lists_names_and_sizes(snapshot: Snapshot, serving: ServingStatus) -> None:
    cls = serving.connections[0].proxy_class
    assert cls is not None
    generator = OneServiceGenerator()
    cached = generator.clusters(snapshot, cls)

    def request(**params: str) -> ViewRequest:
        return ViewRequest(
            snapshot=snapshot,
            serving=serving,
            generator=generator,
            params=params,
            cached=lambda: cached,
        )

    assert data(xds.cachez(request())) == {CDS: [f"{CLUSTER}/{cached[0].version}"]}
    size = f"{len(cached[0].body)} B"
    assert data(xds.cachez(request(sizes="true"))) == {CDS: size, "total": size}


def test_every_view_gives_json(snapshot: Snapshot, serving: ServingStatus) -> None:
    for name, page in PAGES.items():
        asked = ask(snapshot, serving, proxyID="reviews-1", object="VirtualService/reviews.default")
        rendering = page.view(asked)
        assert json.loads(to_json(rendering(), pretty=True)) is not None, name
    assert "/debug/edsz" in names()


def test_index_links_to_pages_and_escapes_names(snapshot: Snapshot, serving: ServingStatus) -> None:
    page = index(ask(snapshot, serving))
    assert 'href="/debug/configz?pretty"' in page
    assert "reviews-1.default" in page
    hostile = msgspec.structs.replace(
        serving.connections[0],
        proxy=msgspec.structs.replace(serving.connections[0].proxy, name="<script>"),
    )
    shown = index(ask(snapshot, ServingStatus(connections=(hostile,))))
    assert "<script>" not in shown

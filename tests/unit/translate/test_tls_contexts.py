"""TLS contexts: what they demand and which secrets they name."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.translate import envoy, tls
from controlplane.translate.expand import to_data


@pytest.mark.parametrize(
    ("kind", "protocols"),
    [("http", ["h2", "http/1.1"]), ("tcp", ["istio-peer-exchange", "h2", "http/1.1"])],
)
def test_inbound_tls_demands_a_certificate_of_the_trust_domains(
    kind: Any, protocols: list[str]
) -> None:
    context = to_data(tls.inbound_tls_context(kind, ("cluster.local", "old.local")))
    assert context["require_client_certificate"] is True
    common = context["common_tls_context"]
    assert common["alpn_protocols"] == protocols
    assert common["tls_params"] == {
        "tls_minimum_protocol_version": "TLSv1_2",
        "tls_maximum_protocol_version": "TLSv1_3",
        "cipher_suites": [
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-RSA-AES256-GCM-SHA384",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-RSA-AES128-GCM-SHA256",
            "AES256-GCM-SHA384",
            "AES128-GCM-SHA256",
        ],
    }
    combined = common["combined_validation_context"]
    assert combined["default_validation_context"]["match_typed_subject_alt_names"] == [
        {"san_type": "URI", "matcher": {"prefix": "spiffe://cluster.local/"}},
        {"san_type": "URI", "matcher": {"prefix": "spiffe://old.local/"}},
    ]
    assert combined["validation_context_sds_secret_config"]["name"] == "ROOTCA"


def test_secrets_come_from_the_agents_cluster_without_a_timeout() -> None:
    assert to_data(tls.sds_secret("default")) == {
        "name": "default",
        "sds_config": {
            "api_config_source": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}],
            },
            "initial_fetch_timeout": "0s",
            "resource_api_version": "V3",
        },
    }


def test_without_subject_names_the_root_alone_decides() -> None:
    context = to_data(tls.istio_mutual(sni="s", subject_alt_names=(), http2=False))
    combined = context["common_tls_context"]["combined_validation_context"]
    assert combined["default_validation_context"] == {}


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize("names", [(), ("spiffe://cluster.local/ns/default/sa/reviews",)])
def test_the_start_and_the_common_end_of_auto_mtls_are_its_two_socket_matches(
    names: tuple[str, ...], http2: bool
) -> None:
    context = tls.istio_mutual(sni="a.b", subject_alt_names=names, http2=http2)
    whole = envoy.Cluster(transport_socket_matches=tls.auto_mutual_matches(context))
    start = tls.auto_mutual_start(sni="a.b", subject_alt_names=names, http2=http2)
    joined = envoy.Cluster.FromString(start + tls.auto_mutual_tail(http2=http2))
    assert to_data(joined) == to_data(whole)

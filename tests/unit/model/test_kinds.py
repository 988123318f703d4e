"""The table of kinds knows what is ours, what is not, and what was probably meant."""

from __future__ import annotations

import pytest

from controlplane.model.kinds import KINDS, Foreign, Kind, Unknown, find_kind
from controlplane.model.virtual_service import VirtualService


def test_a_kind_is_found_by_group_and_version() -> None:
    found = find_kind("networking.istio.io/v1alpha3", "VirtualService")
    assert isinstance(found, Kind)
    assert found.model is VirtualService
    assert found.plural == "virtualservices"
    assert found.api_versions[0] == "networking.istio.io/v1"


def test_the_two_gateways_are_two_kinds() -> None:
    istio = find_kind("networking.istio.io/v1", "Gateway")
    other = find_kind("gateway.networking.k8s.io/v1", "Gateway")
    assert isinstance(istio, Kind)
    assert isinstance(other, Kind)
    assert (istio.qualified, other.qualified) == ("Gateway", "Gateway.gateway.networking.k8s.io")


@pytest.mark.parametrize(
    ("api_version", "kind"),
    [
        ("apps/v1", "Deployment"), ("v1", "ServiceAccount"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("rbac.authorization.k8s.io/v1", "Role"), ("example.com/v1", "Gadget"),
    ],
)  # fmt: skip
def test_kinds_of_others_are_foreign(api_version: str, kind: str) -> None:
    assert isinstance(find_kind(api_version, kind), Foreign)


@pytest.mark.parametrize(
    ("api_version", "kind", "field", "hint"),
    [
        ("v1", "Servcie", "kind", "'Service'"),
        ("discovery.k8s.io/v1", "EndpointSlices", "kind", "'EndpointSlice'"),
        ("networking.istio.io/v1", "Virtualservice", "kind", "'VirtualService'"),
        ("networking.istio.io/v3", "Gateway", "apiVersion", "networking.istio.io/v1,"),
        ("networking.istio.io/v1", "EnvoyFilter", "apiVersion", "networking.istio.io/v1alpha3"),
        ("networking.istio.i/v1", "Gateway", "apiVersion", "'networking.istio.io'"),
        ("vv1", "Service", "apiVersion", "known are v1"),
    ],
)
def test_what_was_meant_is_suggested(api_version: str, kind: str, field: str, hint: str) -> None:
    found = find_kind(api_version, kind)
    assert isinstance(found, Unknown)
    assert found.field == field
    assert hint in found.reason


def test_kinds_that_differ_only_in_group_have_different_references() -> None:
    qualified = [kind.qualified for kind in KINDS.values()]
    assert len(qualified) == len(set(qualified))

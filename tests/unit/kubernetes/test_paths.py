"""Paths of the API and the calls that they mean."""

from __future__ import annotations

import pytest

from controlplane.kubernetes.paths import Call, Resource, call_of

PODS = Resource("", "v1", "pods")
ROUTES = Resource("networking.istio.io", "v1", "virtualservices")


def test_paths_of_the_core_group_and_of_others() -> None:
    assert PODS.path() == "/api/v1/pods"
    assert PODS.path(namespace="a", name="b", subresource="status") == (
        "/api/v1/namespaces/a/pods/b/status"
    )
    assert ROUTES.path(namespace="a") == (
        "/apis/networking.istio.io/v1/namespaces/a/virtualservices"
    )
    assert PODS.path(namespace="a", name="../b") == "/api/v1/namespaces/a/pods/..%2Fb"


@pytest.mark.parametrize(
    ("method", "path", "query", "call"),
    [
        ("GET", "/api/v1/pods", {}, Call("list", "pods")),
        ("GET", "/api/v1/pods", {"watch": "true"}, Call("watch", "pods")),
        ("GET", "/api/v1/namespaces", {}, Call("list", "namespaces")),
        ("GET", "/api/v1/namespaces/a", {}, Call("get", "namespaces", name="a")),
        ("POST", "/api/v1/namespaces/a/pods", {}, Call("create", "pods", namespace="a")),
        (
            "PATCH",
            ROUTES.path(namespace="a", name="b", subresource="status"),
            {},
            Call("patch", "virtualservices/status", "networking.istio.io", "a", "b"),
        ),
        ("PUT", PODS.path(namespace="a", name="b"), {}, Call("update", "pods", "", "a", "b")),
        ("DELETE", PODS.path(namespace="a"), {}, Call("deletecollection", "pods", "", "a")),
        ("GET", "/version", {}, Call("get", "/version")),
        ("GET", "/apis/apps", {}, Call("get", "/apis/apps")),
        ("GET", "/apis/apps/v1", {}, Call("get", "/apis/apps/v1")),
    ],
)
def test_a_request_is_a_call_of_rbac(
    method: str, path: str, query: dict[str, str], call: Call
) -> None:
    assert call_of(method, path, query) == call


def test_a_call_names_the_rule_that_allows_it() -> None:
    call = call_of("GET", ROUTES.path(), {})
    assert str(call) == "list virtualservices.networking.istio.io"
    assert call.rule == (
        '{apiGroups: ["networking.istio.io"], resources: ["virtualservices"], '
        'verbs: ["list", "watch"]}'
    )
    assert call_of("GET", "/version", {}).rule == (
        '{nonResourceURLs: ["/version"], verbs: ["get"]}'
    )

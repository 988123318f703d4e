"""Which webhooks are ours, and the patch that makes the API server trust us."""

from __future__ import annotations

import base64
from typing import Any

from controlplane.leader.webhook_configurations import Ours, patch_of, service_names

OURS = Ours(namespace="istio-system", services=service_names("default"))
BUNDLE = b"new and old"
ENCODED = base64.b64encode(BUNDLE).decode()


def webhook(
    name: str = "rev.namespace.sidecar-injector.istio.io",
    service: str = "istiod",
    namespace: str = "istio-system",
    **fields: Any,
) -> dict[str, Any]:
    client = {"service": {"name": service, "namespace": namespace, "path": "/inject", "port": 443}}
    return {"name": name, "clientConfig": client, "failurePolicy": "Ignore", **fields}


def configuration(*webhooks: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": "x", "resourceVersion": "5"}, "webhooks": list(webhooks)}


def trusting(one: dict[str, Any]) -> dict[str, Any]:
    return one | {"clientConfig": one["clientConfig"] | {"caBundle": ENCODED}}


def test_our_webhooks_get_the_bundle_and_nothing_else_changes() -> None:
    foreign = webhook(service="somebody", namespace="elsewhere", sideEffects="None")
    ours = webhook(rules=[{"operations": ["CREATE"]}])
    assert patch_of(configuration(foreign, ours), OURS, BUNDLE) == {
        "metadata": {"resourceVersion": "5"},
        "webhooks": [foreign, trusting(ours)],
    }


def test_a_configuration_that_has_the_bundle_is_left_alone() -> None:
    assert patch_of(configuration(trusting(webhook())), OURS, BUNDLE) is None
    assert patch_of(configuration(), OURS, BUNDLE) is None
    assert patch_of({"metadata": {}, "webhooks": None}, OURS, BUNDLE) is None


def test_webhooks_of_other_meshes_and_revisions_are_not_ours() -> None:
    for other in (
        webhook(namespace="other-mesh"),
        webhook(service="istiod-canary"),
        {"name": "x.example.com", "clientConfig": {"url": "https://example.com"}},
        {"name": "x.istio.io", "clientConfig": {}},
        {"name": "x.istio.io"},
    ):
        assert patch_of(configuration(other), OURS, BUNDLE) is None
    canary = Ours(namespace="istio-system", services=service_names("canary"))
    assert patch_of(configuration(webhook(service="istiod-canary")), canary, BUNDLE) is not None
    assert patch_of(configuration(webhook()), canary, BUNDLE) is None


def test_a_webhook_with_a_url_is_ours_by_its_name() -> None:
    client = {"url": "https://control.example.com/inject"}
    ours = {"name": "rev.object.sidecar-injector.istio.io", "clientConfig": client}
    assert patch_of(configuration(ours), OURS, BUNDLE) is not None


def test_once_it_answers_a_webhook_refuses_what_it_cannot_be_asked_about() -> None:
    ready = trusting(webhook())
    patch = patch_of(configuration(ready), OURS, BUNDLE, fail=True)
    assert patch is not None
    assert patch["webhooks"] == [ready | {"failurePolicy": "Fail"}]
    assert patch_of(configuration(ready | {"failurePolicy": "Fail"}), OURS, BUNDLE) is None

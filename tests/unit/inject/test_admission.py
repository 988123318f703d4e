"""AdmissionReviews in and out, over real HTTPS where it matters."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp import ClientConnectorCertificateError, ClientSession, TCPConnector, web
from prometheus_client import CollectorRegistry

from controlplane.admission.review import ReviewError
from controlplane.inject.admission import (
    Answer,
    Injector,
    Result,
    environment,
    review,
)
from controlplane.inject.certificate import Authority, load, ssl_context
from controlplane.inject.config import load_config
from controlplane.inject.webhook import InjectionMetrics, make_webhook_app
from controlplane.model.mesh import MeshConfig
from tests.unit.inject.pods import applied, pod

V1 = "admission.k8s.io/v1"


def enabled(namespace: str) -> Mapping[str, str] | None:
    """Return labels that ask for injection, whatever the namespace."""
    del namespace
    return {"istio-injection": "enabled"}


INJECTOR = Injector(config=load_config(), mesh=MeshConfig(), namespace_labels=enabled)


def body(made: Any, *, version: str = V1, **request: Any) -> bytes:
    """Return a review of a pod that is to be created."""
    asked = {
        "uid": "u-1",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "namespace": "shop",
        "operation": "CREATE",
        "object": made,
        **request,
    }
    return json.dumps({"apiVersion": version, "kind": "AdmissionReview", "request": asked}).encode()


def answered(text: bytes, path: str = "/inject", injector: Injector = INJECTOR) -> Answer:
    """Return the answer to a body."""
    return review(text, path, lambda: injector)


def patched(made: Any, answer: Answer) -> Any:
    """Return the pod with the patch of an answer applied."""
    response = answer.review["response"]
    assert response["patchType"] == "JSONPatch"
    return applied(made, json.loads(base64.b64decode(response["patch"])))


@pytest.mark.parametrize("version", [V1, "admission.k8s.io/v1beta1"])
def test_a_pod_is_patched_in_the_version_of_the_question(version: str) -> None:
    answer = answered(body(pod(), version=version))
    assert answer.review["apiVersion"] == version
    assert answer.review["kind"] == "AdmissionReview"
    assert answer.review["response"]["uid"] == "u-1"
    assert answer.review["response"]["allowed"] is True
    made = patched(pod(), answer)
    assert [one["name"] for one in made["spec"]["initContainers"]] == ["istio-init", "istio-proxy"]
    assert made["metadata"]["labels"]["app"] == "app"


def test_the_path_names_the_cluster_and_the_network() -> None:
    answer = answered(body(pod()), "/inject/cluster/west/net/a--slash--b")
    made = patched(pod(), answer)
    (proxy,) = [one for one in made["spec"]["initContainers"] if one["name"] == "istio-proxy"]
    values = {one["name"]: one.get("value") for one in proxy["env"]}
    assert values["ISTIO_META_CLUSTER_ID"] == "west"
    assert values["ISTIO_META_NETWORK"] == "a/b"


@pytest.mark.parametrize(
    ("path", "variables"),
    [
        ("/inject", {}),
        ("/inject/", {}),
        ("/inject/cluster/c/", {"ISTIO_META_CLUSTER_ID": "c"}),
        ("/inject/extra/1/net/n", {"EXTRA": "1", "ISTIO_META_NETWORK": "n"}),
        ("/inject/cluster", {}),
    ],
)
def test_variables_of_a_path(path: str, variables: dict[str, str]) -> None:
    assert environment(path) == variables


def test_a_pod_that_gets_no_sidecar_is_allowed_without_a_patch() -> None:
    answer = answered(body(pod(hostNetwork=True)))
    assert answer.result is Result.SKIPPED
    assert answer.review["response"] == {"uid": "u-1", "allowed": True}


def test_the_namespace_of_the_request_counts() -> None:
    asked: list[str] = []

    def labels(namespace: str) -> Mapping[str, str] | None:
        asked.append(namespace)
        return {"istio-injection": "disabled"}

    injector = Injector(config=load_config(), mesh=MeshConfig(), namespace_labels=labels)
    answer = answered(body(pod()), injector=injector)
    assert asked == ["shop"]
    assert "namespace shop has istio-injection=disabled" in answer.text


def test_what_is_no_pod_is_allowed() -> None:
    answer = answered(body({"a": 1}, kind={"kind": "Service"}))
    assert answer.review["response"] == {"uid": "u-1", "allowed": True}


def test_a_deleted_pod_is_allowed() -> None:
    assert answered(body(None)).review["response"]["allowed"] is True


def test_a_bad_annotation_is_refused_with_the_sentence() -> None:
    made = pod("web")
    made["metadata"]["annotations"] = {"sidecar.istio.io/proxyCPU": "a lot"}
    answer = answered(body(made))
    response = answer.review["response"]
    assert answer.result is Result.REFUSED
    assert response["allowed"] is False
    assert response["status"]["code"] == 400
    assert response["status"]["message"] == (
        "sidecar injection of pod shop/web: annotation sidecar.istio.io/proxyCPU: 'a lot' is not "
        "an amount such as 100m, 0.5 or 128Mi"
    )
    assert "patch" not in response


def test_warnings_reach_the_author_in_v1_only() -> None:
    made = pod()
    made["metadata"]["annotations"] = {"sidecar.istio.io/proxyCpu": "1"}
    (warning,) = answered(body(made)).review["response"]["warnings"]
    assert "did you mean sidecar.istio.io/proxyCPU?" in warning
    old = answered(body(made, version="admission.k8s.io/v1beta1"))
    assert "warnings" not in old.review["response"]


def test_our_own_error_says_that_it_is_ours() -> None:
    def broken(namespace: str) -> Mapping[str, str] | None:
        raise RuntimeError(f"no {namespace}")

    injector = Injector(config=load_config(), mesh=MeshConfig(), namespace_labels=broken)
    answer = answered(body(pod("web")), injector=injector)
    response = answer.review["response"]
    assert answer.result is Result.FAILED
    assert response["uid"] == "u-1"
    assert response["allowed"] is False
    assert response["status"]["code"] == 500
    message = response["status"]["message"]
    assert "pod shop/web failed in the control plane (pylot), not because of the pod" in message
    assert "RuntimeError: no shop" in message
    assert "sidecar.istio.io/inject=false" in message


def test_a_template_that_does_not_fit_is_the_operators_error() -> None:
    config = load_config("templates: {sidecar: {spec: {nodeName: '${nobody}'}}}")
    injector = Injector(config=config, mesh=MeshConfig(), namespace_labels=enabled)
    message = answered(body(pod()), injector=injector).review["response"]["status"]["message"]
    assert "the injector's own configuration is wrong: template sidecar: spec.nodeName" in message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", "not JSON"),
        (b"[]", "not an AdmissionReview"),
        (b'{"kind":"AdmissionReview","apiVersion":"v2"}', "apiVersion 'v2'"),
        (b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}', "no request with a uid"),
    ],
)
def test_what_is_no_review_is_an_error_of_the_caller(text: bytes, reason: str) -> None:
    with pytest.raises(ReviewError, match=reason):
        answered(text)


async def serve(app: web.Application, context: ssl.SSLContext) -> tuple[web.AppRunner, int]:
    """Serve an application on the loopback interface; returns the runner and the port."""
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port: int = runner.addresses[0][1]
    return runner, port


async def test_the_webhook_over_https_with_a_certificate_of_its_own() -> None:
    authority = Authority()
    registry = CollectorRegistry()
    app = make_webhook_app(lambda: INJECTOR, InjectionMetrics(registry))
    context = ssl_context(authority.issue(("istiod.istio-system.svc",)))
    runner, port = await serve(app, context)
    trusting = ssl.create_default_context(cadata=authority.certificate.decode())
    url = f"https://127.0.0.1:{port}"
    name = "istiod.istio-system.svc"
    try:
        async with ClientSession() as session:

            async def post(path: str, text: bytes, kind: str = "application/json") -> Any:
                headers = {"Content-Type": kind}
                async with session.post(
                    url + path, data=text, headers=headers, ssl=trusting, server_hostname=name
                ) as response:
                    return response.status, await response.text()

            status, text = await post("/inject/cluster/west?timeout=10s", body(pod()))
            assert status == 200
            assert json.loads(text)["response"]["allowed"] is True
            status, text = await post("/inject", body(pod(hostNetwork=True)))
            assert status == 200
            assert (await post("/inject", b"{}"))[0] == 400
            assert (await post("/inject", body(pod()), "text/plain"))[0] == 415
            async with session.get(f"{url}/ready", ssl=trusting, server_hostname=name) as response:
                assert response.status == 200
            # Another authority's certificate from the next connection on.
            load(context, Authority().issue((name,)))
        async with ClientSession(connector=TCPConnector(force_close=True)) as session:
            with pytest.raises(ClientConnectorCertificateError):
                await session.get(f"{url}/ready", ssl=trusting, server_hostname=name)
    finally:
        await runner.cleanup()
    assert registry.get_sample_value("sidecar_injection_requests_total") == 4
    assert registry.get_sample_value("sidecar_injection_success_total") == 1
    assert registry.get_sample_value("sidecar_injection_skip_total") == 1
    assert registry.get_sample_value("sidecar_injection_failure_total") == 2
    assert registry.get_sample_value("sidecar_injection_time_seconds_count") == 4

"""The chart and the plain manifest: the same text, the rights that are used, no clashes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from controlplane.cli.main import app
from controlplane.crds.definitions import definitions
from controlplane.crds.text import as_yaml
from controlplane.debug.token_review import TOKEN_REVIEWS
from controlplane.inject.config import load_config
from controlplane.inject.decision import Policy, Rule, decide
from controlplane.leader.duties import LEASE, STATUS_LEASE
from controlplane.leader.permissions import RULES
from controlplane.leader.reports import NAME as REPORTS
from controlplane.leader.webhook_secret import secret_name
from controlplane.model.diagnostics import Level
from controlplane.sources.kubernetes.mesh import CONFIG_MAP, config_map_name
from controlplane.sources.kubernetes.source import watched_kinds
from controlplane.sources.mesh_config import parse_mesh_config
from tests.deploy.helm import CHART, DEFINITIONS, KUBERNETES, MANIFEST, plain_manifest, run_helm
from tests.deploy.objects import Json, find, injected, objects, rights

helm = pytest.mark.helm


def test_the_definitions_of_the_chart_are_those_of_the_program() -> None:
    """`make manifests` writes them again."""
    assert DEFINITIONS.read_text("utf-8") == as_yaml(definitions())


@helm
def test_the_plain_manifest_is_the_rendered_chart() -> None:
    """`make manifests` writes it again."""
    assert MANIFEST.read_text("utf-8") == plain_manifest()


@helm
def test_the_chart_has_the_form_of_helm() -> None:
    """By helm's own check; it fails by itself when there is an error."""
    assert "0 chart(s) failed" in run_helm("lint", "--strict", str(CHART))


@helm
@pytest.mark.parametrize("settings", [(), ("revision=canary",)])
def test_the_account_may_do_what_the_code_does_and_no_more(settings: tuple[str, ...]) -> None:
    """The tables of the packages that ask the API server, against the roles."""
    used = {
        (kind.group, kind.plural, verb, False)
        for kind in watched_kinds()
        for verb in ("list", "watch")
    }
    used |= {("", CONFIG_MAP.plural, verb, True) for verb in ("list", "watch")}
    used.add((TOKEN_REVIEWS.group, TOKEN_REVIEWS.plural, "create", False))
    used |= {
        (rule.group, rule.resource, verb, rule.namespaced) for rule in RULES for verb in rule.verbs
    }
    assert rights(objects(*settings)) == used


@helm
@pytest.mark.parametrize("revision", ["", "canary"])
def test_rights_on_single_objects_name_those_of_the_code(revision: str) -> None:
    """ConfigMap, Leases and Secret of this revision, and no others."""
    items = objects(*([f"revision={revision}"] if revision else []))
    named = {
        name
        for item in items
        if item["kind"] == "Role"
        for rule in item["rules"]
        for name in rule.get("resourceNames", ())
    }
    lease = f"{LEASE}-{revision}" if revision else LEASE
    wanted = {config_map_name(revision), STATUS_LEASE, lease, secret_name(revision), REPORTS}
    assert named == wanted


@helm
def test_two_revisions_share_no_object() -> None:
    """Beside the gateway, which only one of them needs."""

    def names(*settings: str) -> set[tuple[str, str]]:
        items = objects("gateway.enabled=false", *settings)
        return {(item["kind"], item["metadata"]["name"]) for item in items}

    assert names() & names("revision=canary") == set()
    assert names("revision=default") == names()
    canary = find(objects("revision=canary"), "MutatingWebhookConfiguration")
    assert {hook["name"].split(".")[0] for hook in canary["webhooks"]} == {"rev"}


@helm
@pytest.mark.parametrize("revision", ["120", "1e3", "true", "null"])
def test_a_revision_that_yaml_reads_otherwise_is_still_a_word(revision: str) -> None:
    """Labels that are numbers would be refused by the API server."""
    items = list(
        yaml.safe_load_all(
            run_helm(
                "template",
                "42",
                str(CHART),
                "--kube-version",
                KUBERNETES,
                "--set-string",
                f"revision={revision}",
            )
        )
    )

    def labels(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            for key in ("labels", "matchLabels"):
                yield from value.get(key, {}).values()
            for inner in value.values():
                yield from labels(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from labels(inner)

    found = set(labels(items))
    assert found >= {revision, "42"}
    assert all(isinstance(one, str) for one in found)


@helm
@pytest.mark.parametrize("settings", [(), ("revision=canary", "clusterDomain=mesh.local")])
def test_the_program_takes_its_arguments_and_files(
    settings: tuple[str, ...], tmp_path: Path
) -> None:
    """Flags exist, the mesh's settings and the injector's values have no mistake."""
    items = objects(*settings)
    name = "istiod-canary" if settings else "istiod"
    container = find(items, "Deployment", name)["spec"]["template"]["spec"]["containers"][0]
    command, *flags = container["args"]
    suffix = "-canary" if settings else ""
    text = find(items, "ConfigMap", f"istio{suffix}")["data"]["mesh"]
    mesh, found = parse_mesh_config("mesh", text.encode())
    assert mesh is not None
    assert not [one for one in found if one.level is Level.ERROR]
    assert mesh.default_config.discovery_address == f"{name}.istio-system.svc:15010"
    values = find(items, "ConfigMap", f"istio-sidecar-injector{suffix}")["data"]["values"]
    assert load_config(values=values).values["global"]["tag"] == "0.1.0"
    # The flags name files that are mounted; here they lie elsewhere.
    (tmp_path / "values").write_text(values)
    group: Any = typer.main.get_command(app)
    group.commands[command].make_context(
        "serve", [flag.replace("/etc/istio/inject", str(tmp_path)) for flag in flags]
    )


@helm
def test_settings_of_the_user_are_laid_over() -> None:
    """Mesh config key by key, injection values too."""
    items = objects(
        "meshConfig.accessLogFile=/dev/stdout",
        "sidecarInjectorWebhook.values.global.proxy.logLevel=debug",
        "tag=9.9",
        "autoscaleEnabled=false",
        "replicaCount=7",
    )
    mesh, _ = parse_mesh_config("mesh", find(items, "ConfigMap", "istio")["data"]["mesh"].encode())
    assert mesh is not None
    assert mesh.access_log_file == "/dev/stdout"
    assert mesh.root_namespace == "istio-system"
    values = find(items, "ConfigMap", "istio-sidecar-injector")["data"]["values"]
    proxy = load_config(values=values).values["global"]["proxy"]
    assert (proxy["logLevel"], proxy["clusterDomain"]) == ("debug", "cluster.local")
    deployment = find(items, "Deployment", "istiod")
    assert deployment["spec"]["replicas"] == 7
    assert not [
        item
        for item in items
        if item["kind"] == "HorizontalPodAutoscaler" and item["metadata"]["name"] == "istiod"
    ]
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == "pylot/controlplane:9.9"


@helm
@pytest.mark.parametrize(
    ("setting", "word"), [("relicaCount=3", "relicaCount"), ("logLevel=loud", "logLevel")]
)
def test_a_misspelt_value_is_refused(setting: str, word: str) -> None:
    """Helm itself says which, before anything is made."""
    with pytest.raises(AssertionError, match=word):
        objects(setting)


@helm
def test_services_reach_ports_that_containers_have() -> None:
    """Every port of a Service ends at a port of the pods that it selects."""
    items = objects()
    for name in ("istiod", "istio-ingressgateway"):
        template = find(items, "Deployment", name)["spec"]["template"]
        service = find(items, "Service", name)["spec"]
        assert service["selector"].items() <= template["metadata"]["labels"].items()
        ports = {
            port["containerPort"]
            for container in template["spec"]["containers"]
            for port in container["ports"]
        }
        assert {port.get("targetPort", port["port"]) for port in service["ports"]} <= ports
    assert {15010, 15012, 443, 15014} == {
        port["port"] for port in find(items, "Service", "istiod")["spec"]["ports"]
    }


@helm
def test_the_gateway_is_completed_by_the_injector() -> None:
    """The proxy's image, its agent as a router, and the selector of Bookinfo's Gateway."""
    items = objects()
    pod = injected(items, find(items, "Deployment", "istio-ingressgateway"), "istio-system")
    (container,) = pod["spec"]["containers"]
    assert container["image"] == "pylot/proxy:0.1.0"
    assert container["args"][:2] == ["proxy", "router"]
    assert not [one["name"] for one in pod["spec"].get("initContainers", ())]
    assert pod["metadata"]["labels"]["istio"] == "ingressgateway"
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    written = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/etc/istio/proxy", "/var/lib/istio/data"} <= written


def _matches(selector: Json, labels: Json) -> bool:
    for one in selector["matchExpressions"]:
        value = labels.get(one["key"])
        match one["operator"]:
            case "In":
                good = value in one["values"]
            case "NotIn":
                good = value not in one["values"]
            case "DoesNotExist":
                good = value is None
            case operator:
                raise AssertionError(operator)
        if not good:
            return False
    return True


@helm
@pytest.mark.parametrize(
    ("revision", "by_default"), [("default", False), ("default", True), ("canary", False)]
)
def test_the_api_server_calls_the_injector_for_whom_it_selects(
    revision: str, by_default: bool
) -> None:
    """The selectors of the webhooks and the injector's own rules say the same."""
    settings = [] if revision == "default" else [f"revision={revision}"]
    flag = f"sidecarInjectorWebhook.enableNamespacesByDefault={str(by_default).lower()}"
    hooks = find(objects(flag, *settings), "MutatingWebhookConfiguration")["webhooks"]
    policy = Policy(revisions=frozenset({revision}), by_default=by_default)
    choices = (
        (None, "enabled", "disabled"),  # istio-injection of the namespace
        (None, "default", "canary"),  # istio.io/rev of the namespace
        (None, "true", "false"),  # sidecar.istio.io/inject of the pod
        (None, "default", "canary"),  # istio.io/rev of the pod
    )
    for injection, namespace_revision, wish, pod_revision in itertools.product(*choices):
        namespace = _labels({"istio-injection": injection, "istio.io/rev": namespace_revision})
        pod = _labels({"sidecar.istio.io/inject": wish, "istio.io/rev": pod_revision})
        called = any(
            _matches(
                hook["namespaceSelector"], {"kubernetes.io/metadata.name": "shop", **namespace}
            )
            and _matches(hook["objectSelector"], pod)
            for hook in hooks
        )
        decision = decide(
            {"metadata": {"labels": pod}, "spec": {"containers": [{"name": "app"}]}},
            namespace="shop",
            policy=policy,
            namespace_labels=namespace,
        )
        told = (namespace, pod, str(decision))
        assert called or not decision.inject, told
        if called and not decision.inject:
            assert decision.rule not in (Rule.NAMESPACE_LABEL, Rule.POD_REVISION), told


def _labels(given: dict[str, str | None]) -> dict[str, str]:
    return {key: value for key, value in given.items() if value is not None}

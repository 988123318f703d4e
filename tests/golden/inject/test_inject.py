"""Golden pairs of injection, each with what it proves written by hand.

An input may begin with a document `kind: InjectSettings`: `mesh` (MeshConfig), `values`,
`injectConfig` and `revision`. The tag of the images is `test` in all of them.
"""

from __future__ import annotations

import difflib
import json
import os
from typing import Any

import msgspec
import pytest
import yaml

from controlplane.inject.config import load_config
from controlplane.inject.files import FileInjector, FileResult
from controlplane.inject.yaml_text import cut
from controlplane.model.base import dec_hook
from controlplane.model.mesh import MeshConfig
from tests.golden.support import GOLDEN, REWRITE

Object = dict[str, Any]


def run(name: str) -> tuple[FileResult, str, list[Object]]:
    """Inject an input and compare with its golden file; returns the objects that came out."""
    text = (GOLDEN / f"{name}.in.yaml").read_text()
    settings: Object = {}
    first, _, rest = text.partition("---\n")
    if "kind: InjectSettings" in first:
        settings, text = yaml.safe_load(first), rest
    values = settings.get("values", {})
    values.setdefault("global", {}).setdefault("tag", "test")
    config = load_config(
        json.dumps(settings.get("injectConfig", {})),
        json.dumps(values),
        revision=settings.get("revision", "default"),
    )
    mesh = msgspec.convert(settings.get("mesh", {}), MeshConfig, dec_hook=dec_hook)
    result = FileInjector(config, mesh).inject("in.yaml", text)
    assert result.problems == ()
    made = "".join(piece.text for piece in result.pieces)
    golden = GOLDEN / f"{name}.out.yaml"
    if os.environ.get(REWRITE) == "1":
        golden.write_text(made)
    elif golden.read_text() != made:
        difference = difflib.unified_diff(
            golden.read_text().splitlines(), made.splitlines(), "expected", "made", lineterm=""
        )
        pytest.fail(f"{golden.name} differs:\n" + "\n".join(difference))
    return result, text, [document for document in yaml.safe_load_all(made) if document]


def pod_of(value: Object) -> Object:
    """Return the pod of a workload."""
    match value["kind"]:
        case "Pod":
            return value
        case "CronJob":
            pod: Object = value["spec"]["jobTemplate"]["spec"]["template"]
        case _:
            pod = value["spec"]["template"]
    return pod


def container(pod: Object, name: str) -> Object:
    """Return the container or init container of this name."""
    found: dict[str, Object] = {
        one["name"]: one
        for group in ("initContainers", "containers")
        for one in pod["spec"].get(group, ())
    }
    assert name in found, f"no container {name} among {sorted(found)}"
    return found[name]


def names(pod: Object, group: str) -> list[str]:
    """Return the names of the containers of a group, in order."""
    return [one["name"] for one in pod["spec"].get(group, ())]


def env(pod: Object) -> dict[str, Any]:
    """Return the environment of the proxy: values, or the field that one comes from."""
    variables = container(pod, "istio-proxy")["env"]
    assert len({one["name"] for one in variables}) == len(variables), "a variable is there twice"
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in variables}


def flags(pod: Object) -> dict[str, str]:
    """Return the flags of `pylot iptables` in the init container."""
    init = container(pod, "istio-init")
    assert init["command"] == ["pylot"]
    assert init["args"][0] == "iptables"
    assert all(isinstance(argument, str) for argument in init["args"])
    return dict(zip(init["args"][1::2], init["args"][2::2], strict=True))


def test_a_deployment_gets_capture_and_a_native_proxy() -> None:
    _, _, (_, deployment) = run("inject/deployment")
    pod = pod_of(deployment)
    assert names(pod, "initContainers") == ["istio-init", "istio-proxy"]
    assert names(pod, "containers") == ["reviews"]
    assert flags(pod) == {
        "-p": "15001", "-z": "15006", "-u": "1337", "-m": "REDIRECT", "-i": "*", "-x": "",
        "-b": "*", "-d": "15090,15021,15020",
    }  # fmt: skip
    proxy = container(pod, "istio-proxy")
    assert proxy["restartPolicy"] == "Always"
    assert proxy["args"][:4] == [
        "proxy",
        "sidecar",
        "--domain",
        "$(POD_NAMESPACE).svc.cluster.local",
    ]
    assert proxy["startupProbe"]["httpGet"] == {"path": "/healthz/ready", "port": 15021}
    assert proxy["readinessProbe"]["httpGet"] == {"path": "/healthz/ready", "port": 15021}
    assert proxy["ports"] == [
        {"name": "http-envoy-prom", "containerPort": 15090, "protocol": "TCP"}
    ]
    assert proxy["securityContext"]["runAsUser"] == 1337
    assert proxy["securityContext"]["runAsGroup"] == 1337
    assert proxy["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    init = container(pod, "istio-init")["securityContext"]
    assert init["capabilities"]["add"] == ["NET_ADMIN", "NET_RAW"]
    assert init["runAsUser"] == 0


def test_the_proxy_is_told_who_it_is() -> None:
    _, _, (_, deployment) = run("inject/deployment")
    found = env(pod_of(deployment))
    assert found["POD_NAME"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert found["INSTANCE_IP"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    assert found["HOST_IP"] == {"fieldRef": {"fieldPath": "status.hostIP"}}
    assert found["SERVICE_ACCOUNT"] == {"fieldRef": {"fieldPath": "spec.serviceAccountName"}}
    assert json.loads(found["ISTIO_META_POD_PORTS"]) == [
        {"name": "http", "containerPort": 9080},
        {"name": "metrics", "containerPort": 9081},
    ]
    assert found["ISTIO_META_APP_CONTAINERS"] == "reviews"
    assert found["ISTIO_META_CLUSTER_ID"] == "Kubernetes"
    assert found["ISTIO_META_WORKLOAD_NAME"] == "reviews-v1"
    assert found["ISTIO_META_OWNER"] == (
        "kubernetes://apis/apps/v1/namespaces/shop/deployments/reviews-v1"
    )
    assert found["ISTIO_META_MESH_ID"] == found["TRUST_DOMAIN"] == "cluster.local"
    assert found["ISTIO_META_WORKLOAD_CERTIFICATES"] == "none"
    assert "CA_ADDR" not in found


def test_metadata_and_metrics_of_an_injected_pod() -> None:
    _, _, (_, deployment) = run("inject/deployment")
    pod = pod_of(deployment)
    labels, annotations = pod["metadata"]["labels"], pod["metadata"]["annotations"]
    assert labels["service.istio.io/canonical-name"] == "reviews"
    assert labels["service.istio.io/canonical-revision"] == "v1"
    # No certificate, so nobody may send mutual TLS.
    assert labels["security.istio.io/tlsMode"] == "disabled"
    assert annotations["kubectl.kubernetes.io/default-container"] == "reviews"
    assert annotations["prometheus.io/port"] == "15020"
    assert annotations["prometheus.io/path"] == "/stats/prometheus"
    assert json.loads(env(pod)["ISTIO_PROMETHEUS_ANNOTATIONS"]) == {
        "scrape": "true", "path": "", "port": "9081",
    }  # fmt: skip
    status = json.loads(annotations["sidecar.istio.io/status"])
    assert status["initContainers"] == ["istio-init", "istio-proxy"]
    assert status["containers"] is None
    assert status["volumes"] == [volume["name"] for volume in pod["spec"]["volumes"]]
    assert status["revision"] == "default"
    assert {"istio-envoy", "istio-data", "istio-podinfo", "istio-token", "istiod-ca-cert"} == set(
        status["volumes"]
    )


def test_an_object_that_is_no_workload_keeps_its_text() -> None:
    result, text, _ = run("inject/deployment")
    assert result.pieces[0].text == next(cut(text))[0]
    assert "# a Service passes through untouched" in result.pieces[0].text


def test_a_probe_is_asked_through_the_agent() -> None:
    _, _, (_, deployment) = run("inject/deployment")
    pod = pod_of(deployment)
    assert container(pod, "reviews")["readinessProbe"] == {
        "httpGet": {"path": "/app-health/reviews/readyz", "port": 15020},
        "timeoutSeconds": 2,
    }
    assert json.loads(env(pod)["ISTIO_KUBE_APP_PROBERS"]) == {
        "/app-health/reviews/readyz": {
            "httpGet": {"path": "/health", "port": 9080},
            "timeoutSeconds": 2,
        }
    }


def test_without_native_sidecars_the_application_can_wait() -> None:
    _, _, (stateful_set,) = run("inject/classic-sidecar")
    pod = pod_of(stateful_set)
    # Capture last, so that `migrate` has a network; the proxy first, so that others wait for it.
    assert names(pod, "initContainers") == ["migrate", "istio-init"]
    assert names(pod, "containers") == ["istio-proxy", "database", "backup"]
    proxy = container(pod, "istio-proxy")
    assert "restartPolicy" not in proxy
    assert proxy["lifecycle"] == {"postStart": {"exec": {"command": ["pylot", "proxy-wait"]}}}
    labels = pod["metadata"]["labels"]
    assert labels["service.istio.io/canonical-name"] == "database"
    assert labels["service.istio.io/canonical-revision"] == "15"
    annotations = pod["metadata"]["annotations"]
    assert annotations["kubectl.kubernetes.io/default-container"] == "database"
    assert json.loads(annotations["sidecar.istio.io/status"])["containers"] == ["istio-proxy"]


def test_annotations_of_capture_become_flags() -> None:
    _, _, (pod,) = run("inject/capture")
    assert flags(pod) == {
        "-p": "15001",
        "-z": "15006",
        "-u": "1337",
        "-m": "REDIRECT",
        "-i": "10.0.0.0/8,fd00::/8",
        "-x": "169.254.169.254/32",
        "-b": "8080,9090",
        "-d": "15090,15021,16020,22",
        "-q": "5432",
        "-o": "3306,8000:8010",
        "-k": "k6t-eth0",
        "-c": "net1,eth2",
    }


def test_the_status_port_moves_probes_metrics_and_the_agent() -> None:
    _, _, (pod,) = run("inject/capture")
    assert container(pod, "client")["livenessProbe"] == {
        "httpGet": {"path": "/app-health/client/livez", "port": 16020}
    }
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == "16020"
    assert json.loads(env(pod)["PROXY_CONFIG"]) == {"statusPort": 16020}


def test_tproxy_runs_the_proxy_as_root_whatever_its_author_says() -> None:
    _, _, (pod,) = run("inject/tproxy")
    assert flags(pod)["-m"] == "TPROXY"
    assert flags(pod)["-u"] == "1337"
    assert env(pod)["ISTIO_META_INTERCEPTION_MODE"] == "TPROXY"
    security = container(pod, "istio-proxy")["securityContext"]
    assert security["runAsUser"] == 0
    assert security["runAsGroup"] == 1337
    assert security["runAsNonRoot"] is False
    assert security["capabilities"]["add"] == ["NET_ADMIN"]


def test_without_interception_there_is_no_init_container() -> None:
    _, _, (pod,) = run("inject/interception-none")
    assert names(pod, "initContainers") == ["istio-proxy"]
    assert env(pod)["ISTIO_META_INTERCEPTION_MODE"] == "NONE"


def test_the_authors_own_proxy_container_wins_over_the_template() -> None:
    _, _, (deployment,) = run("inject/own-istio-proxy")
    pod = pod_of(deployment)
    assert names(pod, "initContainers") == ["istio-init", "istio-proxy"]
    assert names(pod, "containers") == ["web"]
    proxy = container(pod, "istio-proxy")
    assert proxy["image"] == "pylot/proxy:test"
    assert proxy["args"] == ["proxy", "sidecar", "--proxyLogLevel=debug"]
    assert proxy["ports"] == [
        {"name": "own", "containerPort": 15090, "protocol": "TCP"},
        {"name": "more", "containerPort": 16000},
    ]
    assert proxy["resources"]["requests"] == {"cpu": "10m", "memory": "128Mi"}
    assert proxy["securityContext"]["runAsUser"] == 2000
    assert proxy["securityContext"]["runAsGroup"] == 1337
    mounts = {mount["mountPath"]: mount["name"] for mount in proxy["volumeMounts"]}
    assert mounts["/extra"] == "extra"
    assert mounts["/etc/istio/proxy"] == "istio-envoy"
    found = env(pod)
    assert found["EXTRA"] == "on"
    assert found["TRUST_DOMAIN"] == "example.org"
    assert found["ISTIO_META_APP_CONTAINERS"] == "web"
    # Whoever the proxy runs as is exempt from capture.
    assert flags(pod)["-u"] == "2000"


def test_the_authors_proxy_container_is_kept_in_an_annotation() -> None:
    _, _, (deployment,) = run("inject/own-istio-proxy")
    annotations = pod_of(deployment)["metadata"]["annotations"]
    (kept,) = json.loads(annotations["proxy.istio.io/overrides"])["initContainers"]
    assert kept["name"] == "istio-proxy"
    assert kept["image"] == "auto"
    assert kept["securityContext"] == {"runAsUser": 2000}


def test_settings_of_the_proxy_come_from_the_mesh_and_the_pod() -> None:
    _, _, (pod,) = run("inject/proxy-config")
    found = env(pod)
    assert json.loads(found["PROXY_CONFIG"]) == {
        "discoveryAddress": "pylot.mesh.svc:15010",
        "concurrency": 3,
        "drainDuration": "20s",
        "holdApplicationUntilProxyStarts": True,
        "proxyMetadata": {"ISTIO_META_DNS_CAPTURE": "true", "SHARED": "pod"},
    }
    assert found["SHARED"] == "pod"
    assert found["TRUST_DOMAIN"] == found["ISTIO_META_MESH_ID"] == "example.org"
    init = container(pod, "istio-init")
    # `pylot iptables` reads DNS capture from there.
    assert {"name": "ISTIO_META_DNS_CAPTURE", "value": "true"} in init["env"]
    assert flags(pod)["-p"] == "15011"
    proxy = container(pod, "istio-proxy")
    assert proxy["args"][4:] == [
        "--proxyLogLevel=debug",
        "--proxyComponentLogLevel=router:trace",
        "--log_output_level=dns:debug",
    ]
    assert proxy["image"] == init["image"] == "pylot/proxy:test-debug"
    # A native sidecar is waited for by its startup probe.
    assert "lifecycle" not in proxy
    probe = proxy["readinessProbe"]
    assert [probe["initialDelaySeconds"], probe["periodSeconds"], probe["failureThreshold"]] == [
        7, 8, 9,
    ]  # fmt: skip


def test_resources_images_and_volumes_of_annotations_and_values() -> None:
    _, _, (pod,) = run("inject/resources-and-volumes")
    proxy = container(pod, "istio-proxy")
    assert proxy["resources"] == {"requests": {"cpu": "200m"}, "limits": {"memory": "1Gi"}}
    assert proxy["image"] == "registry.example.org/mesh/special:test"
    assert proxy["imagePullPolicy"] == "Always"
    assert proxy["lifecycle"] == {"preStop": {"exec": {"command": ["sleep", "5"]}}}
    assert pod["spec"]["imagePullSecrets"] == [{"name": "pull"}, {"name": "mine"}]
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert volumes["keys"]["secret"] == {"secretName": "keys"}
    assert volumes["custom-bootstrap-volume"]["configMap"] == {"name": "my-bootstrap"}
    mounts = {mount["name"]: mount for mount in proxy["volumeMounts"]}
    assert mounts["keys"] == {"name": "keys", "mountPath": "/keys", "readOnly": True}
    assert mounts["custom-bootstrap-volume"]["mountPath"] == "/etc/istio/custom-bootstrap"
    assert env(pod)["ISTIO_BOOTSTRAP_OVERRIDE"] == (
        "/etc/istio/custom-bootstrap/custom_bootstrap.json"
    )
    assert proxy["securityContext"]["capabilities"]["add"] == ["NET_BIND_SERVICE"]
    assert proxy["securityContext"]["runAsUser"] == 0


def test_probes_of_every_kind_are_rewritten_when_the_agent_can_ask() -> None:
    result, _, (pod, as_they_are) = run("inject/probes")
    web = container(pod, "web")
    assert web["readinessProbe"] == {
        "httpGet": {
            "path": "/app-health/web/readyz",
            "port": 15020,
            "scheme": "HTTP",
            "httpHeaders": [{"name": "Probe", "value": "1"}],
        },
        "timeoutSeconds": 5,
        "periodSeconds": 3,
    }
    assert web["livenessProbe"] == {"httpGet": {"path": "/app-health/web/livez", "port": 15020}}
    assert web["startupProbe"] == {"exec": {"command": ["ready"]}}
    assert web["lifecycle"] == {
        "preStop": {
            "httpGet": {"path": "/app-lifecycle/web/prestopz", "port": 15020, "scheme": "HTTP"}
        },
        "postStart": {"httpGet": {"path": "/app-lifecycle/web/poststartz", "port": 15020}},
    }
    helper = container(pod, "helper")["startupProbe"]
    assert helper == {"httpGet": {"path": "/app-health/helper/startupz", "port": 15020}}
    assert json.loads(env(pod)["ISTIO_KUBE_APP_PROBERS"]) == {
        "/app-health/helper/startupz": {"tcpSocket": {"port": 7000}},
        "/app-health/web/readyz": {
            "httpGet": {
                "path": "/ready",
                "port": 8443,
                "scheme": "HTTPS",
                "httpHeaders": [{"name": "Probe", "value": "1"}],
            },
            "timeoutSeconds": 5,
        },
        "/app-health/web/livez": {"grpc": {"port": 9000, "service": "health"}},
        "/app-lifecycle/web/prestopz": {
            "httpGet": {"path": "/stop", "port": 8443, "scheme": "HTTPS"}
        },
        "/app-lifecycle/web/poststartz": {"tcpSocket": {"port": 8443}},
    }
    other = container(pod, "other")
    assert other["readinessProbe"]["httpGet"]["host"] == "10.1.1.1"
    assert other["livenessProbe"]["httpGet"]["port"] == "nowhere"
    (warning,) = result.pieces[0].warnings
    assert "container other: livenessProbe.httpGet.port" in warning
    untouched = container(as_they_are, "web")["readinessProbe"]
    assert untouched == {"httpGet": {"path": "/ready", "port": 8080}}
    assert "ISTIO_KUBE_APP_PROBERS" not in env(as_they_are)


def test_every_kind_of_workload_is_injected_and_nothing_else() -> None:
    result, text, objects = run("inject/kinds")
    daemon_set, job, cron_job, replica_set, the_list, foreign = objects
    for workload, owner in (
        (daemon_set, "apps/v1/namespaces/ops/daemonsets/agent"),
        (job, "batch/v1/namespaces/default/jobs/once"),
        (cron_job, "batch/v1/namespaces/default/cronjobs/nightly"),
        (replica_set, "apps/v1/namespaces/default/replicasets/set"),
        (the_list["items"][1], "apps/v1/namespaces/default/deployments/listed"),
    ):
        pod = pod_of(workload)
        assert names(pod, "initContainers") == ["istio-init", "istio-proxy"]
        assert env(pod)["ISTIO_META_OWNER"] == f"kubernetes://apis/{owner}"
        assert pod["metadata"]["labels"]["service.istio.io/canonical-name"] == owner.split("/")[-1]
    assert the_list["items"][0]["data"] == {"answer": "1e3", "word": "on", "mode": "0755"}
    # A Go reader would take these for a number, a truth value and a number.
    assert "answer: '1e3'" in result.pieces[4].text
    assert "mode: '0755'" in result.pieces[4].text
    assert "initContainers" not in foreign["spec"]["template"]["spec"]
    assert result.pieces[5].text == list(cut(text))[5][0]


def test_certificates_network_and_cluster_are_the_operators_choice() -> None:
    _, _, (pod,) = run("inject/certificates")
    labels = pod["metadata"]["labels"]
    assert labels["security.istio.io/tlsMode"] == "istio"
    assert labels["service.istio.io/canonical-name"] == "mine"
    assert labels["topology.istio.io/network"] == "north"
    found = env(pod)
    assert found["ISTIO_META_WORKLOAD_CERTIFICATES"] == "istiod"
    assert found["CA_ADDR"] == "istiod.istio-system.svc:15012"
    assert found["ISTIO_META_NETWORK"] == "north"
    assert found["ISTIO_META_CLUSTER_ID"] == "east"
    assert found["ISTIO_META_MESH_ID"] == "mesh-1"
    # A pod of a ReplicaSet of a Deployment belongs to the Deployment.
    assert found["ISTIO_META_WORKLOAD_NAME"] == "client"
    assert found["ISTIO_META_OWNER"].endswith("/namespaces/default/deployments/client")
    assert "workload-certs" in {volume["name"] for volume in pod["spec"]["volumes"]}
    status = json.loads(pod["metadata"]["annotations"]["sidecar.istio.io/status"])
    assert status["revision"] == "canary"


def test_what_gets_no_sidecar_comes_out_byte_for_byte() -> None:
    result, text, _ = run("inject/left-alone")
    assert "".join(piece.text for piece in result.pieces) == text
    reasons = [one.text for piece in result.pieces for one in piece.explanations]
    assert [reason.partition(":")[0] for reason in reasons] == [
        "left alone, by the rule hostNetwork",
        "left alone, by the rule ignored namespace",
        "left alone, by the rule pod label",
        "left alone, by the rule namespace label",
        "left alone, by the rule already injected",
    ]


def test_a_template_of_the_operators_own() -> None:
    _, _, (pod,) = run("inject/own-template")
    assert names(pod, "containers") == ["client", "tracer"]
    assert names(pod, "initContainers") == ["istio-init", "istio-proxy"]
    tracer = container(pod, "tracer")
    assert tracer["image"] == "example/tracer:2"
    assert tracer["args"] == ["--service=client", "--verbose", "--literal=${HOME}"]
    assert pod["metadata"]["annotations"]["example.org/by"] == "pylot"
    # The tracer was not there when the pod's own containers were counted.
    assert env(pod)["ISTIO_META_APP_CONTAINERS"] == "client"


def test_a_gateway_gets_a_proxy_of_its_own_and_no_capture() -> None:
    _, _, (deployment,) = run("inject/gateway")
    pod = pod_of(deployment)
    assert "initContainers" not in pod["spec"]
    assert names(pod, "containers") == ["istio-proxy"]
    proxy = container(pod, "istio-proxy")
    assert proxy["image"] == "pylot/proxy:test", "in the place of auto"
    assert (proxy["command"], proxy["args"][:4]) == (
        ["pylot"],
        ["proxy", "router", "--domain", "$(POD_NAMESPACE).svc.cluster.local"],
    )
    assert [one["containerPort"] for one in proxy["ports"]] == [15090, 80], "each of them once"
    assert proxy["resources"] == {"requests": {"cpu": "100m", "memory": "128Mi"}}
    assert proxy["readinessProbe"]["httpGet"] == {"path": "/healthz/ready", "port": 15021}
    security = proxy["securityContext"]
    # Neither the mesh's TPROXY nor capture makes it root: what its author says counts.
    assert (security["runAsUser"], security["runAsNonRoot"]) == (2000, True)
    assert security["capabilities"] == {"drop": ["ALL"]}
    variables = env(pod)
    assert variables["ISTIO_META_UNPRIVILEGED_POD"] == "true"
    assert variables["ISTIO_META_WORKLOAD_NAME"] == "istio-ingressgateway"
    assert variables["ISTIO_META_OWNER"].endswith("/deployments/istio-ingressgateway")
    assert json.loads(variables["ISTIO_META_POD_PORTS"])[0]["containerPort"] == 80
    assert "ISTIO_META_INTERCEPTION_MODE" not in variables
    metadata = pod["metadata"]
    assert metadata["labels"]["service.istio.io/canonical-name"] == "istio-ingressgateway"
    assert metadata["labels"]["istio.io/rev"] == "default"
    assert "security.istio.io/tlsMode" not in metadata["labels"]
    assert "kubectl.kubernetes.io/default-container" not in metadata["annotations"]
    assert metadata["annotations"]["prometheus.io/port"] == "15020"
    status = json.loads(metadata["annotations"]["sidecar.istio.io/status"])
    assert (status["initContainers"], status["containers"]) == (None, ["istio-proxy"])
    volumes = {one["name"] for one in pod["spec"]["volumes"]}
    assert {one["name"] for one in proxy["volumeMounts"]} == volumes

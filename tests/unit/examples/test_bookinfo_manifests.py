"""The Bookinfo manifests: names, labels, addresses and bootstraps that have to fit together."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
BOOKINFO = ROOT / "examples" / "bookinfo"
NETWORKING = BOOKINFO / "networking"
MESHES = (BOOKINFO / "mesh", BOOKINFO / "compose" / "mesh")
WORKLOADS = {
    "productpage-v1": ("productpage", "v1"),
    "details-v1": ("details", "v1"),
    "ratings-v1": ("ratings", "v1"),
    "reviews-v1": ("reviews", "v1"),
    "reviews-v2": ("reviews", "v2"),
    "reviews-v3": ("reviews", "v3"),
}
# File name without virtual-service- and .yaml: the VirtualServices in it.
EXERCISES = {
    "all-v1": {"productpage", "reviews", "ratings", "details"},
    "reviews-90-10": {"reviews"},
    "reviews-80-20": {"reviews"},
    "reviews-50-v3": {"reviews"},
    "reviews-v2-v3": {"reviews"},
    "reviews-v3": {"reviews"},
    "reviews-test-v2": {"reviews"},
    "reviews-jason-v2-v3": {"reviews"},
    "reviews-timeout": {"reviews"},
    "reviews-mirror": {"reviews"},
    "ratings-test-delay": {"ratings"},
    "ratings-test-abort": {"ratings"},
    "ratings-delay-2s": {"ratings"},
    "ratings-retries": {"ratings"},
}
Object = dict[str, Any]


def objects(path: Path) -> list[Object]:
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    return [
        document for file in files for document in yaml.safe_load_all(file.read_text()) if document
    ]


def key(item: Object) -> tuple[str, str, str]:
    metadata = item["metadata"]
    return item["kind"], metadata.get("namespace", "default"), metadata["name"]


def of_kind(items: list[Object], kind: str) -> Iterator[Object]:
    return (item for item in items if item["kind"] == kind)


def exercise(name: str) -> list[Object]:
    return objects(NETWORKING / f"virtual-service-{name}.yaml")


def weights(name: str) -> dict[str, int]:
    (service,) = exercise(name)
    return {
        route["destination"]["subset"]: route["weight"]
        for route in service["spec"]["http"][0]["route"]
    }


def test_networking_holds_exactly_the_known_files() -> None:
    names = {f"virtual-service-{name}.yaml" for name in EXERCISES}
    names |= {"bookinfo-gateway.yaml", "destination-rule-all.yaml"}
    assert {path.name for path in NETWORKING.iterdir()} == names


@pytest.mark.parametrize("name", EXERCISES)
def test_exercise_replaces_the_virtual_service_of_its_host(name: str) -> None:
    found = exercise(name)
    assert {item["metadata"]["name"] for item in found} == EXERCISES[name]
    for item in found:
        assert (item["apiVersion"], item["kind"]) == ("networking.istio.io/v1", "VirtualService")
        assert item["spec"]["hosts"] == [item["metadata"]["name"]]


@pytest.mark.parametrize("name", EXERCISES)
def test_every_subset_of_an_exercise_is_defined(name: str) -> None:
    defined = {
        (rule["spec"]["host"], subset["name"])
        for rule in objects(NETWORKING / "destination-rule-all.yaml")
        for subset in rule["spec"]["subsets"]
    }
    for item in exercise(name):
        for route in item["spec"]["http"]:
            targets = [entry["destination"] for entry in route["route"]]
            targets += [route["mirror"]] if "mirror" in route else []
            assert {(target["host"], target["subset"]) for target in targets} <= defined


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reviews-90-10", {"v1": 90, "v2": 10}),
        ("reviews-80-20", {"v1": 80, "v2": 20}),
        ("reviews-50-v3", {"v1": 50, "v3": 50}),
        ("reviews-v2-v3", {"v2": 50, "v3": 50}),
    ],
)
def test_weights_are_those_of_the_file_name(name: str, expected: dict[str, int]) -> None:
    assert weights(name) == expected


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("ratings-test-delay", {"delay": {"percentage": {"value": 100.0}, "fixedDelay": "7s"}}),
        ("ratings-test-abort", {"abort": {"percentage": {"value": 100.0}, "httpStatus": 500}}),
    ],
)
def test_fault_concerns_jason_only(name: str, fault: Object) -> None:
    (service,) = exercise(name)
    for_jason, for_others = service["spec"]["http"]
    assert for_jason["match"] == [{"headers": {"end-user": {"exact": "jason"}}}]
    assert for_jason["fault"] == fault
    assert set(for_others) == {"route"}


def test_timeout_and_mirror_say_what_they_do() -> None:
    (timeout,) = exercise("reviews-timeout")
    assert timeout["spec"]["http"][0]["timeout"] == "0.5s"
    (mirror,) = exercise("reviews-mirror")
    assert mirror["spec"]["http"][0]["mirror"] == {"host": "reviews", "subset": "v3"}


def test_gateway_lets_the_paths_of_the_page_in() -> None:
    gateway, service = objects(NETWORKING / "bookinfo-gateway.yaml")
    assert key(gateway) == ("Gateway", "default", "bookinfo-gateway")
    assert gateway["spec"]["selector"] == {"istio": "ingressgateway"}
    (server,) = gateway["spec"]["servers"]
    assert server == {
        "port": {"number": 80, "name": "http", "protocol": "HTTP"},
        "hosts": ["*"],
    }
    assert key(service) == ("VirtualService", "default", "bookinfo")
    (route,) = service["spec"]["http"]
    assert [match["uri"] for match in route["match"]] == [
        {"exact": "/productpage"},
        {"prefix": "/static"},
        {"exact": "/login"},
        {"exact": "/logout"},
        {"prefix": "/api/v1/products"},
    ]


@pytest.mark.parametrize("mesh", MESHES, ids=["local", "compose"])
def test_mesh_names_each_object_once(mesh: Path) -> None:
    keys = [key(item) for item in objects(mesh)]
    assert sorted(keys) == sorted(set(keys))


@pytest.mark.parametrize("mesh", MESHES, ids=["local", "compose"])
def test_every_endpoint_is_a_pod_that_its_service_selects(mesh: Path) -> None:
    items = objects(mesh)
    pods = {key(pod)[1:]: pod for pod in of_kind(items, "Pod")}
    services = {key(service)[1:]: service for service in of_kind(items, "Service")}
    seen = set()
    for endpoint_slice in of_kind(items, "EndpointSlice"):
        _, namespace, _ = key(endpoint_slice)
        name = endpoint_slice["metadata"]["labels"]["kubernetes.io/service-name"]
        spec = services[namespace, name]["spec"]
        (service_port,) = spec["ports"]
        (slice_port,) = endpoint_slice["ports"]
        assert slice_port["name"] == service_port["name"]
        assert slice_port["port"] == service_port["targetPort"]
        for endpoint in endpoint_slice["endpoints"]:
            target = endpoint["targetRef"]
            pod = pods[target["namespace"], target["name"]]
            assert [pod["status"]["podIP"]] == endpoint["addresses"]
            assert spec["selector"].items() <= pod["metadata"]["labels"].items()
            seen.add(key(pod)[1:])
    assert seen == set(pods)


@pytest.mark.parametrize("mesh", MESHES, ids=["local", "compose"])
def test_mesh_has_all_versions_and_an_ingress_that_sidecars_do_not_see(mesh: Path) -> None:
    items = objects(mesh)
    labels = {pod["metadata"]["name"]: pod["metadata"]["labels"] for pod in of_kind(items, "Pod")}
    for name, (app, version) in WORKLOADS.items():
        assert labels[name] == {"app": app, "version": version}
    services = {service["metadata"]["name"]: service for service in of_kind(items, "Service")}
    assert len({service["spec"]["clusterIP"] for service in services.values()}) == 5
    ingress = services["istio-ingressgateway"]
    assert ingress["metadata"]["namespace"] == "istio-system"
    assert ingress["metadata"]["annotations"] == {"networking.istio.io/exportTo": "."}
    assert ingress["spec"]["ports"][0]["port"] == 80
    assert ingress["spec"]["ports"][0]["targetPort"] == 8080
    for app in ("productpage", "details", "reviews", "ratings"):
        (port,) = services[app]["spec"]["ports"]
        assert (port["name"], port["port"], port["targetPort"]) == ("http", 9080, 9080)


def test_local_addresses_are_those_of_the_readme() -> None:
    pods = {pod["metadata"]["name"]: pod for pod in of_kind(objects(BOOKINFO / "mesh"), "Pod")}
    addresses = {name: pod["status"]["podIP"] for name, pod in pods.items()}
    assert addresses == {
        "istio-ingressgateway": "127.0.0.10",
        "details-v1": "127.0.0.11",
        "ratings-v1": "127.0.0.12",
        "reviews-v1": "127.0.0.13",
        "reviews-v2": "127.0.0.14",
        "reviews-v3": "127.0.0.15",
        "productpage-v1": "127.0.0.16",
    }
    readme = (BOOKINFO / "README.md").read_text()
    for name, address in addresses.items():
        if name in WORKLOADS:
            app, _ = WORKLOADS[name]
            assert f"run {app} --host {address} --instance {name}" in readme


def test_kubernetes_manifest_deploys_every_workload() -> None:
    items = objects(BOOKINFO / "platform" / "bookinfo.yaml")
    deployments = {item["metadata"]["name"]: item for item in of_kind(items, "Deployment")}
    assert set(deployments) == set(WORKLOADS)
    accounts = {item["metadata"]["name"] for item in of_kind(items, "ServiceAccount")}
    services = {item["metadata"]["name"]: item for item in of_kind(items, "Service")}
    assert set(services) == {"productpage", "details", "reviews", "ratings"}
    for name, (app, version) in WORKLOADS.items():
        template = deployments[name]["spec"]["template"]
        assert template["metadata"]["labels"] == {"app": app, "version": version}
        assert template["spec"]["serviceAccountName"] == f"bookinfo-{app}"
        assert f"bookinfo-{app}" in accounts
        (container,) = template["spec"]["containers"]
        assert container["image"] == f"pylot/examples-bookinfo-{name}:1.0"
        assert services[app]["spec"]["ports"] == [
            {"name": "http", "port": 9080, "targetPort": 9080}
        ]


def compose() -> Object:
    loaded: Object = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def test_compose_gives_every_application_its_own_sidecar() -> None:
    services = compose()["services"]
    assert set(services) == {"controlplane", "ingress"} | {
        f"{name}{suffix}" for name in WORKLOADS for suffix in ("", "-sidecar")
    }
    pods = {pod["metadata"]["name"]: pod for pod in of_kind(objects(MESHES[1]), "Pod")}
    for name, (app, version) in WORKLOADS.items():
        address = pods[name]["status"]["podIP"]
        application, sidecar = services[name], services[f"{name}-sidecar"]
        assert application["networks"]["bookinfo"]["ipv4_address"] == address
        assert application["build"]["args"] == {"APP": app, "VERSION": version}
        assert f"--host={address}" in application["command"]
        calls_others = app in {"productpage", "reviews"}
        assert ("--mesh-proxy=127.0.0.1:9080" in application["command"]) == calls_others
        assert sidecar["network_mode"] == f"service:{name}"
        node = f"sidecar~{address}~{name}.default~default.svc.cluster.local"
        assert sidecar["command"][-1] == node


def test_compose_publishes_on_loopback_only_and_mounts_what_exists() -> None:
    loaded = compose()
    for service in loaded["services"].values():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")
        for volume in service.get("volumes", ()):
            source, _, mode = volume.split(":")
            assert (ROOT / source).exists(), volume
            assert mode == "ro"
        build = service.get("build", {})
        if build:
            dockerfile = ROOT / build["context"] / build.get("dockerfile", "Dockerfile")
            assert dockerfile.is_file()
    (config,) = loaded["networks"]["bookinfo"]["ipam"]["config"]
    network = ipaddress.ip_network(config["subnet"])
    for pod in of_kind(objects(MESHES[1]), "Pod"):
        assert ipaddress.ip_address(pod["status"]["podIP"]) in network


@pytest.mark.envoy
@pytest.mark.parametrize("folder", ["local", "compose"])
@pytest.mark.parametrize("role", ["ingress", "sidecar"])
def test_envoy_accepts_the_bootstrap(folder: str, role: str) -> None:
    arguments: list[str] = []
    if (folder, role) == ("compose", "sidecar"):
        # The flags that give the shared bootstrap its node.
        arguments = compose()["services"]["reviews-v2-sidecar"]["command"][2:]
    envoy = Path(sys.executable).parent / "envoy"
    path = BOOKINFO / folder / f"{role}.yaml"
    command = [str(envoy), "--mode", "validate", "-c", str(path), "--disable-hot-restart"]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"configuration '{path}' OK" in done.stdout


@pytest.mark.parametrize("folder", ["local", "compose"])
def test_bootstraps_reach_the_control_plane_and_name_an_existing_pod(folder: str) -> None:
    mesh = MESHES[0] if folder == "local" else MESHES[1]
    pods = {pod["metadata"]["name"]: pod for pod in of_kind(objects(mesh), "Pod")}
    for role in ("ingress", "sidecar"):
        bootstrap = yaml.safe_load((BOOKINFO / folder / f"{role}.yaml").read_text())
        ads = bootstrap["dynamic_resources"]["ads_config"]
        assert ads["set_node_on_first_message_only"] is True
        assert ads["transport_api_version"] == "V3"
        (cluster,) = bootstrap["static_resources"]["clusters"]
        assert cluster["name"] == ads["grpc_services"][0]["envoy_grpc"]["cluster_name"]
        metadata = bootstrap["node"]["metadata"]
        if role == "sidecar":
            assert metadata["INTERCEPTION_MODE"] == "NONE"
        else:
            pod = pods["istio-ingressgateway"]
            assert metadata["LABELS"] == pod["metadata"]["labels"]
            _, address, name, _ = bootstrap["node"]["id"].split("~")
            assert address == pod["status"]["podIP"]
            assert name == "istio-ingressgateway.istio-system"

"""What an injected pod runs is what our own commands take: capture, agent, and their settings."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from controlplane.agent.run import envoy_binary
from controlplane.cli import iptables, proxy, proxy_wait
from controlplane.inject.config import load_config
from controlplane.inject.sidecar import Injected, inject
from controlplane.model.base import FrozenDict
from controlplane.model.mesh import MeshConfig, ProxyConfig
from tests.unit.inject.pods import pod

app = typer.Typer()
iptables.register(app)
proxy.register(app)
app.command(name="proxy-wait")(proxy_wait.proxy_wait)

FIELDS = {
    "metadata.name": "web-1",
    "metadata.namespace": "shop",
    "status.podIP": "10.1.2.3",
    "status.hostIP": "10.0.0.1",
    "spec.serviceAccountName": "web",
    "spec.nodeName": "node-1",
}


def containers(annotations: dict[str, str], *, values: str = "") -> dict[str, dict[str, Any]]:
    """Return the containers that were added to a pod, by name."""
    made = pod("web")
    made["metadata"]["annotations"] = annotations
    made["spec"]["containers"][0]["ports"] = [{"containerPort": 8080, "name": "http"}]
    made["spec"]["containers"][0]["readinessProbe"] = {"httpGet": {"port": "http", "path": "/ok"}}
    metadata = FrozenDict({"ISTIO_META_DNS_CAPTURE": "true"})
    mesh = MeshConfig(
        default_config=ProxyConfig(
            discovery_address="10.9.9.9:15010", proxy_metadata=metadata, concurrency=2
        )
    )
    outcome = inject(made, namespace="shop", config=load_config(None, values), mesh=mesh)
    assert isinstance(outcome, Injected), outcome
    return {
        one["name"]: one
        for group in ("initContainers", "containers")
        for one in outcome.pod["spec"][group]
    }


def environment(container: dict[str, Any]) -> dict[str, str]:
    """Return the variables of a container as the kubelet would set them."""
    found = {}
    for one in container.get("env", ()):
        source = one.get("valueFrom", {})
        if "fieldRef" in source:
            found[one["name"]] = FIELDS[source["fieldRef"]["fieldPath"]]
        elif "resourceFieldRef" in source:
            found[one["name"]] = "2"
        else:
            found[one["name"]] = one["value"]
    return found


def run(container: dict[str, Any], *further: str) -> str:
    """Run the command of a container; returns what it printed."""
    variables = environment(container)
    assert container["command"] == ["pylot"]
    arguments = list(container["args"])
    for name, value in variables.items():
        arguments = [argument.replace(f"$({name})", value) for argument in arguments]
    result = CliRunner().invoke(app, [*arguments, *further], env=variables)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_the_init_container_runs_capture() -> None:
    made = containers(
        {
            "traffic.sidecar.istio.io/excludeOutboundPorts": "5432",
            "traffic.sidecar.istio.io/excludeInterfaces": "net1",
        }
    )
    text = run(made["istio-init"], "--dry-run")
    assert "--to-ports 15006" in text
    assert "--dport 5432" in text
    assert "-i net1" in text
    # DNS capture is asked for by the proxy's metadata.
    assert "--to-ports 15053" in text


def test_the_init_container_captures_with_nftables_when_the_values_say_so() -> None:
    made = containers({}, values="global: {nativeNftables: true}")
    assert "redirect to :15006" in run(made["istio-init"], "--dry-run")


@pytest.mark.parametrize("native", ["true", "false"])
def test_the_proxy_container_runs_the_agent(native: str) -> None:
    made = containers(
        {
            "sidecar.istio.io/nativeSidecar": native,
            "sidecar.istio.io/logLevel": "debug",
            "proxy.istio.io/config": "holdApplicationUntilProxyStarts: true",
            "status.sidecar.istio.io/port": "16020",
        }
    )
    bootstrap = json.loads(run(made["istio-proxy"], "--bootstrap-only"))
    node = bootstrap["node"]
    assert node["id"] == "sidecar~10.1.2.3~web-1.shop~shop.svc.cluster.local"
    metadata = node["metadata"]
    assert metadata["NAMESPACE"] == "shop"
    assert metadata["WORKLOAD_NAME"] == "web"
    assert metadata["WORKLOAD_CERTIFICATES"] == "none"
    assert json.loads(metadata["POD_PORTS"]) == [{"containerPort": 8080, "name": "http"}]
    assert metadata["PROXY_CONFIG"]["statusPort"] == 16020
    text = json.dumps(bootstrap)
    assert "10.9.9.9" in text
    # Readiness is asked of the agent where the annotation has moved it.
    assert '"port_value": 16020' in text


def test_the_gateway_runs_the_agent_as_a_router() -> None:
    bootstrap = json.loads(gateway_bootstrap())
    assert bootstrap["node"]["id"] == "router~10.1.2.3~web-1.shop~shop.svc.cluster.local"
    assert bootstrap["node"]["metadata"]["WORKLOAD_NAME"] == "gateway"
    assert "INTERCEPTION_MODE" not in bootstrap["node"]["metadata"]


@pytest.mark.envoy
def test_an_envoy_takes_the_gateways_bootstrap(tmp_path: Path) -> None:
    file = tmp_path / "bootstrap.json"
    file.write_text(gateway_bootstrap())
    subprocess.run(
        [envoy_binary(None), "--mode", "validate", "-c", str(file), "--disable-hot-restart"],
        check=True,
        capture_output=True,
        timeout=30,
    )


def gateway_bootstrap() -> str:
    """Return the bootstrap that the proxy of an injected gateway would run with."""
    made = pod("gateway")
    made["metadata"]["annotations"] = {"inject.istio.io/templates": "gateway"}
    made["spec"]["containers"] = [{"name": "istio-proxy", "image": "auto"}]
    mesh = MeshConfig(default_config=ProxyConfig(discovery_address="10.9.9.9:15010"))
    outcome = inject(made, namespace="shop", config=load_config(), mesh=mesh)
    assert isinstance(outcome, Injected), outcome
    (proxy_container,) = outcome.pod["spec"]["containers"]
    return run(proxy_container, "--bootstrap-only")


def test_the_hook_that_waits_is_a_command() -> None:
    made = containers(
        {
            "sidecar.istio.io/nativeSidecar": "false",
            "proxy.istio.io/config": "holdApplicationUntilProxyStarts: true",
        }
    )
    command = made["istio-proxy"]["lifecycle"]["postStart"]["exec"]["command"]
    assert command[0] == "pylot"
    result = CliRunner().invoke(app, [*command[1:], "--help"])
    assert result.exit_code == 0, result.output

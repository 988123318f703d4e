"""The chart's gateway and webhooks in a cluster where pods run: kubectl is the only input."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import aiohttp
import pytest
import pytest_asyncio
import yaml

from controlplane.agent.bootstrap import SocketAddress
from controlplane.demo.layout import bookinfo_directory
from tests.deploy.objects import objects
from tests.envoy.harness import eventually
from tests.kubernetes.installation import SYSTEM
from tests.kubernetes.node_bed import NodeBed, node_bed

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.controllers,
    pytest.mark.netns,
    pytest.mark.envoy,
    pytest.mark.helm,
    pytest.mark.asyncio(loop_scope="module"),
]

GATEWAY: Final = "istio-ingressgateway"
WEBHOOKS: Final = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")


def chart() -> list[dict[str, Any]]:
    """What of the chart can run beside a control plane that is no pod."""
    return [
        item
        for item in objects("gateway.autoscaleEnabled=false")
        if item["kind"] in WEBHOOKS or item["metadata"]["name"].startswith(GATEWAY)
    ]


def details() -> list[dict[str, Any]]:
    """One application of Bookinfo behind the gateway."""
    text = (bookinfo_directory() / "platform" / "bookinfo.yaml").read_text("utf-8")
    return [
        *(item for item in yaml.safe_load_all(text) if "details" in item["metadata"]["name"]),
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "Gateway",
            "metadata": {"name": "door", "namespace": "default"},
            "spec": {
                "selector": {"istio": "ingressgateway"},
                "servers": [
                    {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}
                ],
            },
        },
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": "details", "namespace": "default"},
            "spec": {
                "hosts": ["*"],
                "gateways": ["door"],
                "http": [{"route": [{"destination": {"host": "details"}}]}],
            },
        },
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bed() -> AsyncIterator[NodeBed]:
    """A cluster whose webhooks are those of the chart."""
    async with node_bed() as bed:
        await bed.kubectl(
            "delete", "mutatingwebhookconfiguration,validatingwebhookconfiguration", "--all"
        )
        await bed.apply(*chart())
        await bed.webhooks_trusted()
        yield bed


async def test_the_gateway_of_the_chart_takes_requests_to_an_injected_pod(bed: NodeBed) -> None:
    """Webhooks, injected gateway, its Service's ports and probes: all as the chart says."""
    await bed.apply(*details())
    for namespace in ("default", SYSTEM):
        await bed.kubectl(
            "wait", "deployments", "--all", "-n", namespace,
            "--for=condition=Available", "--timeout=50s",
        )  # fmt: skip
    (pod,) = await bed.objects("pods", "-l", "app=details")
    names = [one["name"] for one in pod["spec"].get("initContainers", ())]
    assert "istio-proxy" in names, "it was not injected"
    (gateway,) = [
        worker
        for worker in bed.kubelet.workers.values()
        if worker.pod["metadata"]["labels"].get("istio") == "ingressgateway"
    ]
    front = await bed.forward(SocketAddress(host=gateway.address, port=8080))
    async with aiohttp.ClientSession() as session:

        async def page() -> tuple[int, str]:
            async with session.get(f"http://{front}/details/0") as answer:
                return answer.status, await answer.text()

        status, text = await eventually(page, lambda found: found[0] == 200, what="an answer")
    assert status == 200
    assert "author" in text


async def test_an_invalid_object_is_refused_as_soon_as_the_leader_has_made_it_so(
    bed: NodeBed,
) -> None:
    """The chart begins with Ignore; nobody has to change it."""

    async def policies() -> set[str]:
        (item,) = await bed.objects("validatingwebhookconfigurations")
        return {webhook["failurePolicy"] for webhook in item["webhooks"]}

    await eventually(policies, lambda found: found == {"Fail"}, what="webhooks that refuse")
    bad = details()[-1]
    bad["spec"]["hosts"] = ["a..b"]
    with pytest.raises(AssertionError, match=r"spec\.hosts\[0\]: 'a\.\.b' is not a valid host"):
        await bed.apply(bad)

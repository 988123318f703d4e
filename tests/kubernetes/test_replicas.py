"""Two replicas of `pylot serve`: one leads and writes, and when it goes the other does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc.aio
import pytest

from controlplane.ads.types import CDS
from controlplane.ads.wire import SERVICE, SOTW_METHOD
from controlplane.leader.reports import NAME
from tests.feature.conversation import SotwEnvoy
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.replica import PATIENCE, Replica, running_replica

pytestmark = [pytest.mark.kubernetes, pytest.mark.usefixtures("istio_crds")]

LEASE_DURATION: Final = 6.0  # seconds
TIMING: Final = (
    f"--leader-elect-lease-duration={LEASE_DURATION}s",
    "--leader-elect-renew-deadline=4s",
    "--leader-elect-retry-period=0.5s",
)
SLACK: Final = 10.0
"""Seconds that a loaded machine may add to anything."""


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait until something is true, and return it."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.1)
    return found


class Namespace:
    """The objects of one namespace, which is the root namespace of the replicas too."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name

    def get(self, kind: str, name: str) -> dict[str, Any]:
        done = self.cluster.kubectl("get", kind, name, "-n", self.name, "-o", "json")
        return dict(json.loads(done.stdout))

    def holder(self) -> str:
        """Who may write the status of objects."""
        done = self.cluster.kubectl(
            "get", "lease", "istio-status-leader", "-n", self.name,
            "-o", "jsonpath={.spec.holderIdentity}", check=False,
        )  # fmt: skip
        return done.stdout

    def conditions(self, kind: str, name: str) -> dict[str, tuple[str, str]]:
        """The conditions of an object that are about its present generation."""
        item = self.get(kind, name)
        return {
            entry["type"]: (entry["status"], entry["reason"])
            for entry in item.get("status", {}).get("conditions", ())
            if entry["observedGeneration"] == item["metadata"]["generation"]
        }

    def codes(self, kind: str, name: str) -> list[str]:
        """The codes of an object's validationMessages."""
        messages = self.get(kind, name).get("status", {}).get("validationMessages", ())
        return [message["type"]["code"] for message in messages]

    def _apply(self, api_version: str, kind: str, name: str, spec: dict[str, Any]) -> None:
        metadata = {"name": name, "namespace": self.name}
        self.cluster.apply(
            {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}
        )

    def service(self, name: str) -> None:
        self._apply("v1", "Service", name, {"ports": [{"name": "http", "port": 80}]})

    def virtual_service(self, name: str, host: str, destination: str) -> None:
        route = {"route": [{"destination": {"host": destination}}]}
        spec = {"hosts": [host], "http": [route]}
        self._apply("networking.istio.io/v1", "VirtualService", name, spec)

    def destination_rule(self, name: str, connections: int) -> None:
        policy = {"connectionPool": {"tcp": {"maxConnections": connections}}}
        spec = {"host": name, "trafficPolicy": policy}
        self._apply("networking.istio.io/v1", "DestinationRule", name, spec)


@pytest.fixture
def here(cluster: Cluster, namespace: str) -> Namespace:
    return Namespace(cluster, namespace)


@contextlib.contextmanager
def replica(here: Namespace, directory: Path, name: str) -> Iterator[Replica]:
    """Run a replica that has everything."""
    with running_replica(
        here.cluster, directory, name, *TIMING, root_namespace=here.name
    ) as running:
        running.wait_for("app.snapshot")
        yield running


@contextlib.asynccontextmanager
async def envoy(replica: Replica, namespace: str) -> AsyncIterator[SotwEnvoy]:
    """A stream to a replica."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{replica.port('grpc')}") as channel:
        call = channel.stream_stream(f"/{SERVICE}/{SOTW_METHOD}")()
        node = f"sidecar~10.1.1.1~app.{namespace}~{namespace}.svc.cluster.local"
        try:
            yield SotwEnvoy(call, node, agent="envoy", namespace=namespace)
        finally:
            call.cancel()


def test_a_leader_that_dies_is_followed_and_nothing_is_written_twice(
    here: Namespace, tmp_path: Path
) -> None:
    here.service("web")
    here.virtual_service("bad", "web", "nowhere")
    here.virtual_service("lost", "web", "web")
    with (
        replica(here, tmp_path, "istiod-1") as one,
        replica(here, tmp_path, "istiod-2") as two,
    ):
        leader, other = (one, two) if until(here.holder, "one leads") == "istiod-1" else (two, one)
        until(lambda: here.conditions("vs", "lost").get("Reconciled"), "every object is written")
        # Both claim one host, and the older one has it.
        until(lambda: here.codes("vs", "lost") == ["IST0109"], "the lost conflict is told")
        until(lambda: here.codes("vs", "bad") == ["IST0101"], "the finding is on the winner")
        assert not other.found("leader.acquired", lease="istio-status-leader")
        assert {lease["leads"] for lease in other.debug("leaderz")} == {False}
        written = {
            name: here.get("vs", name)["metadata"]["resourceVersion"] for name in ("bad", "lost")
        }

        leader.end(signal.SIGKILL)
        died = time.monotonic()
        other.wait_for("leader.acquired", lease="istio-status-leader")
        assert time.monotonic() - died < LEASE_DURATION + SLACK
        assert time.monotonic() - died > LEASE_DURATION / 2, "it did not wait for the dead one"
        here.virtual_service("new", "other", "web")
        until(lambda: here.conditions("vs", "new"), "the new leader writes")
        for name, version in written.items():
            assert here.get("vs", name)["metadata"]["resourceVersion"] == version

        here.virtual_service("bad", "mended", "web")
        until(lambda: here.codes("vs", "bad") == [], "what is mended has no findings")
        until(lambda: here.codes("vs", "lost") == [], "and there is no conflict")
        assert here.conditions("vs", "bad")["Reconciled"] == ("True", "Reconciled")


def test_a_leader_that_ends_in_order_hands_over_at_once(here: Namespace, tmp_path: Path) -> None:
    with (
        replica(here, tmp_path, "istiod-1") as one,
        replica(here, tmp_path, "istiod-2") as two,
    ):
        leader, other = (one, two) if until(here.holder, "one leads") == "istiod-1" else (two, one)
        leader.process.send_signal(signal.SIGTERM)
        since = time.monotonic()
        other.wait_for("leader.acquired", lease="istio-status-leader")
        assert time.monotonic() - since < LEASE_DURATION * 0.75
        assert here.holder() == other.name
        assert leader.process.wait(PATIENCE) == 0
        assert leader.found("leader.released", lease="istio-status-leader")


async def test_what_an_envoy_rejects_stands_on_the_object_until_it_is_mended(
    here: Namespace, tmp_path: Path
) -> None:
    """And writing that pushes nothing."""

    def reconciled() -> tuple[str, str] | None:
        return here.conditions("dr", "web").get("Reconciled")

    here.service("web")
    here.destination_rule("web", 1)
    with replica(here, tmp_path, "istiod-1") as one:
        async with envoy(one, here.name) as stream:
            await stream.asks(CDS)
            await stream.accepts(await stream.hears(CDS))
            await asyncio.to_thread(
                until, lambda: reconciled() == ("True", "Reconciled"), "the object is in force"
            )

            here.destination_rule("web", 2)
            cluster = f"outbound|80||web.{here.name}.svc.cluster.local"
            await stream.rejects(
                await stream.hears(CDS), error=f"Error adding/updating cluster(s) {cluster}: no"
            )
            await asyncio.to_thread(
                until, lambda: reconciled() == ("False", "Rejected"), "the rejection is told"
            )
            assert here.codes("dr", "web") == ["RejectedByEnvoy"]
            message = here.get("dr", "web")["status"]["conditions"][1]["message"]
            assert cluster in message
            assert "1 proxy" in message

            pushes = len(one.found("ads.publish"))
            version = here.get("dr", "web")["metadata"]["resourceVersion"]
            status = json.dumps({"status": {"somebody": "else"}})
            here.cluster.kubectl(
                "patch", "dr", "web", "-n", here.name, "--subresource=status", "--type=merge",
                "-p", status,
            )  # fmt: skip
            assert here.get("dr", "web")["metadata"]["resourceVersion"] != version
            here.destination_rule("web", 3)
            await stream.accepts(await stream.hears(CDS))
            await asyncio.to_thread(
                until, lambda: reconciled() == ("True", "Reconciled"), "the object is mended"
            )
            assert here.codes("dr", "web") == []
            assert here.get("dr", "web")["status"]["somebody"] == "else"
            assert len(one.found("ads.publish")) == pushes + 1, "only the mended rule was pushed"


async def test_what_is_rejected_at_another_replica_stands_on_the_object_too(
    here: Namespace, tmp_path: Path
) -> None:
    """Also when the leader dies: its successor says the same, without a moment of doubt."""

    def reconciled() -> tuple[str, str] | None:
        return here.conditions("dr", "web").get("Reconciled")

    def reports() -> list[str]:
        return list(here.get("configmap", NAME).get("data", {}))

    here.service("web")
    here.destination_rule("web", 1)
    with (
        replica(here, tmp_path, "istiod-1") as one,
        replica(here, tmp_path, "istiod-2") as two,
    ):
        leader, other = (one, two) if until(here.holder, "one leads") == "istiod-1" else (two, one)
        async with envoy(other, here.name) as stream:
            await stream.asks(CDS)
            cluster = f"outbound|80||web.{here.name}.svc.cluster.local"
            error = f"Error adding/updating cluster(s) {cluster}: no"
            await stream.rejects(await stream.hears(CDS), error=error)
            await asyncio.to_thread(
                until, lambda: reconciled() == ("False", "Rejected"), "the rejection is told"
            )
            assert reports() == [other.name]

            version = here.get("dr", "web")["metadata"]["resourceVersion"]
            leader.end(signal.SIGKILL)
            await asyncio.to_thread(other.wait_for, "leader.acquired", lease="istio-status-leader")
            here.virtual_service("new", "other", "web")
            await asyncio.to_thread(
                until, lambda: here.conditions("vs", "new"), "the new leader writes"
            )
            assert here.get("dr", "web")["metadata"]["resourceVersion"] == version

            here.destination_rule("web", 2)
            # The clusters without the rejected one come first.
            while cluster not in (answer := await stream.hears(CDS)).names:
                await stream.accepts(answer)
            await stream.accepts(answer)
            await asyncio.to_thread(
                until, lambda: reconciled() == ("True", "Reconciled"), "the object is mended"
            )
            await asyncio.to_thread(until, lambda: not reports(), "there is nothing to tell")


def test_an_operator_can_keep_status_to_himself(here: Namespace, tmp_path: Path) -> None:
    here.virtual_service("any", "web", "web")
    with running_replica(
        here.cluster, tmp_path, "istiod-1", *TIMING, "--no-write-status", root_namespace=here.name
    ) as one:
        one.wait_for("leader.acquired", lease="istio-leader")
        one.wait_for("app.snapshot")
        assert [lease["name"] for lease in one.debug("leaderz")] == ["istio-leader"]
    assert "status" not in here.get("vs", "any")

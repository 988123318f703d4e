"""Agents for tests: `pylot proxy` as a process of its own, and what can be seen of it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

import aiohttp

from controlplane.agent.admin import AdminClient
from controlplane.agent.bootstrap import EnvoyAddress, PipeAddress
from controlplane.agent.processes import Child, start_child
from tests.envoy.harness import eventually, free_ports

PROXY_ID: Final = 1337
# What is promised in seconds is promised for a machine of its own; where other things run beside,
# it takes longer.
SLOWNESS: Final = float(os.environ.get("PYLOT_TEST_SLOWNESS", "4"))
_ENVOY_PID: Final = re.compile(r"envoy_started +.*pid=(\d+)")


class AgentProcess:
    """One running agent. Its Envoy's admin interface is a unix socket, which namespaces share."""

    def __init__(self, child: Child, admin: Path, *, status: int, health: int) -> None:
        self.child = child
        self.admin = AdminClient(PipeAddress(path=str(admin)))
        self.status_port = status
        self.health_port = health

    @property
    def log(self) -> str:
        """All that agent and Envoy have written, without colours."""
        return self.child.log.read_text(errors="replace")

    @property
    def envoy_pid(self) -> int:
        """The process id of the newest Envoy, 0 when there was none yet."""
        found = _ENVOY_PID.findall(self.log)
        return int(found[-1]) if found else 0

    async def ready(self, *, seconds: float = 30.0) -> None:
        """Wait until Envoy is live with its first configuration."""

        async def look() -> bool:
            assert self.child.returncode is None, f"the agent ended: {self.log}"
            return await self.admin.is_ready()

        await eventually(look, bool, seconds=seconds, what=f"a live Envoy; log: {self.log}")

    async def health(self) -> tuple[int, str]:
        """What the kubelet is told at 15021; (0, reason) when nobody listens."""
        return await self.get(self.health_port, "/healthz/ready")

    async def own_health(self) -> tuple[int, str]:
        """What the agent itself says at 15020."""
        return await self.get(self.status_port, "/healthz/ready")

    async def get(self, port: int, path: str) -> tuple[int, str]:
        """Ask a port of this machine."""
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as http,
                http.get(f"http://127.0.0.1:{port}{path}") as answer,
            ):
                return answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            return 0, str(error)


def is_running(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be taken leave of."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def capabilities_of(pid: int) -> int:
    """The effective capabilities of a process, as bits."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("CapEff:")[2].split()[0], 16)


def ids_of(pid: int) -> tuple[int, int]:
    """User and group of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = {line.split(":")[0]: line.split()[1:] for line in lines}
    return int(found["Uid"][1]), int(found["Gid"][1])


@contextlib.asynccontextmanager
async def agent(
    xds: EnvoyAddress,
    *words: str,
    name: str = "web",
    role: str = "sidecar",
    environment: Mapping[str, str] | None = None,
    network_namespace: str = "",
    prefix: tuple[str, ...] = (),
) -> AsyncIterator[AgentProcess]:
    """An agent, on ports of its own unless it has a network namespace; ended afterwards."""
    own = not network_namespace
    status, health, metrics = free_ports(3) if own else (15020, 15021, 15090)
    with tempfile.TemporaryDirectory(prefix="pylot-agent-") as directory:
        place = Path(directory)
        if os.geteuid() == 0:
            # Envoy makes its admin socket there, as this user or as root without root's powers.
            os.chown(place, PROXY_ID, PROXY_ID)
            os.chmod(place, 0o770)
        admin = place / "admin.sock"
        child = await start_child(
            name,
            [
                *prefix,
                *(sys.executable, "-m", "controlplane", "proxy", role),
                *("--discoveryAddress", str(xds), "--proxyAdminSocket", str(admin)),
                *("--statusPort", str(status), "--concurrency", "1", *words),
            ],
            log=place / f"{name}.log",
            environment={
                "POD_NAME": name,
                "POD_NAMESPACE": "default",
                "INSTANCE_IP": "127.0.0.1",
                "ENVOY_STATUS_PORT": str(health),
                "ENVOY_PROMETHEUS_PORT": str(metrics),
                "ISTIO_META_INTERCEPTION_MODE": "NONE" if own else "REDIRECT",
                "ISTIO_META_UNPRIVILEGED_POD": "true",
                "MINIMUM_DRAIN_DURATION": "0s",
                "NO_COLOR": "1",
                "TMPDIR": directory,  # an agent that is killed leaves its bootstrap behind
                **(environment or {}),
            },
            network_namespace=network_namespace,
        )
        made = AgentProcess(child, admin, status=status, health=health)
        try:
            yield made
        finally:
            await made.admin.close()
            await child.stop(seconds=10)

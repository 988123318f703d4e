"""A bed for tests with real Envoys: a real control plane process, Envoys, and a watched directory.

Every bed has loopback addresses and ports of its own, so that beds, and a demo, run side by side.
Waits are bounded and say what they saw last; processes are ended by their own ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import aiohttp

from controlplane.agent.admin import AdminClient
from controlplane.agent.bootstrap import Bootstrap, EnvoyAddress, PipeAddress, SocketAddress
from controlplane.agent.envoy import Envoy, EnvoyOptions
from controlplane.agent.processes import Child, start_child
from controlplane.demo.layout import (
    FILE_PREFIX,
    LOOPBACK,
    Layout,
    bookinfo_directory,
    gateway_bootstrap,
    serve_command,
    sidecar_bootstrap,
    write_live,
)
from controlplane.demo.mesh import replace_file
from controlplane.errors import OutsideError
from controlplane.model.base import freeze
from controlplane.model.proxy import ProxyType

PATIENCE: Final = 20.0
PAUSE: Final = 0.02
BOOKINFO: Final = bookinfo_directory()
NETWORKING: Final = BOOKINFO / "networking"
EXERCISES: Final = tuple(sorted(path.name for path in NETWORKING.glob("virtual-service-*.yaml")))
SETTLED_STATS: Final = (
    r"^(cluster_manager\.cds|listener_manager\.lds|.*\.rds\..*)\.update_rejected$"
    r"|^cluster_manager\.warming_clusters$|^listener_manager\.total_listeners_warming$"
    r"|^control_plane\.connected_state$"
)

_T = TypeVar("_T")


async def eventually(
    look: Callable[[], Awaitable[_T]],
    good: Callable[[_T], bool],
    *,
    seconds: float = PATIENCE,
    what: str = "the expected state",
) -> _T:
    """Look again and again until what is seen is good, and return it; else fail with the last."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            seen: Any = await look()
            if good(seen):
                return seen  # type: ignore[no-any-return]
        except (OutsideError, aiohttp.ClientError, TimeoutError) as error:
            seen = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}; seen last: {seen!r:.2000}")
        await asyncio.sleep(PAUSE)


def own_layout() -> Layout:
    """Addresses that nothing else uses: ports that are free now, and an own part of 127/8."""
    own = random.SystemRandom()
    ports = free_ports(7)
    prefix = FILE_PREFIX
    if sys.platform == "linux":
        prefix = f"127.{own.randint(1, 250)}.{own.randint(1, 250)}."
    addresses = [SocketAddress(host=LOOPBACK, port=port) for port in ports]
    return Layout(
        gateway_port=ports[0],
        service_port=ports[1],
        prefix=prefix,
        grpc=addresses[2],
        http=addresses[3],
        monitoring=addresses[4],
        gateway_admin=addresses[5],
        sidecar_admin=addresses[6],
    )


def free_ports(count: int) -> list[int]:
    """Ports that are free on every address, below those of outgoing connections."""
    found: list[int] = []
    for _ in range(1000):
        port = random.SystemRandom().randint(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


class Bed:
    """One control plane with its directory, and the Envoys that a test asks for."""

    def __init__(self, layout: Layout, directory: Path) -> None:
        self.layout = layout
        self.directory = directory
        self.live = directory / "live"
        self.mesh_config = ""
        self.envoys: dict[str, Envoy] = {}
        self.http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=10), cookie_jar=aiohttp.DummyCookieJar()
        )
        self._control_plane: Child | None = None
        self._children: list[Child] = []

    async def start_control_plane(self, *, network_namespace: str = "") -> None:
        """Start `pylot serve` and wait until it is ready (in our own namespace only)."""
        command = serve_command(self.layout, self.live)
        if self.mesh_config:
            file = self.directory / "mesh.yaml"
            file.write_text(self.mesh_config)
            command += ["--mesh-config", str(file)]
        self._control_plane = await self.start_child(
            "controlplane", command, network_namespace=network_namespace
        )
        if not network_namespace:
            await self.wait_ready()

    async def wait_ready(self) -> None:
        """Wait until the control plane is ready."""
        child = self.control_plane
        deadline = time.monotonic() + PATIENCE
        while True:
            assert child.returncode is None, f"the control plane ended: {child.tail(lines=20)}"
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self.http.get(f"http://{self.layout.http}/ready") as answer:
                    if answer.status == 200:
                        return
            assert time.monotonic() < deadline, f"not ready: {child.tail(lines=20)}"
            await asyncio.sleep(PAUSE)

    @property
    def control_plane(self) -> Child:
        """The running control plane."""
        assert self._control_plane is not None, "start_control_plane comes first"
        return self._control_plane

    @property
    def log(self) -> str:
        """What the control plane has logged so far."""
        return self.control_plane.log.read_text(errors="replace")

    async def start_child(
        self, name: str, command: Iterable[str], *, network_namespace: str = ""
    ) -> Child:
        """Start a program that ends with the bed."""
        child = await start_child(
            name,
            list(command),
            log=self.directory / f"{name}.log",
            network_namespace=network_namespace,
        )
        self._children.append(child)
        return child

    async def launch(
        self, name: str, bootstrap: Bootstrap, *, network_namespace: str = ""
    ) -> Envoy:
        """Start an Envoy and wait until it is ready."""
        envoy = await Envoy.launch(
            name,
            bootstrap,
            directory=self.directory,
            options=EnvoyOptions(concurrency=1, network_namespace=network_namespace),
        )
        self.envoys[name] = envoy
        await envoy.ready()
        return envoy

    def admin(self, name: str) -> EnvoyAddress:
        """A unix socket for the admin interface of an Envoy: it needs no port."""
        return PipeAddress(path=str(self.directory / f"{name}.sock"))

    async def gateway(self, name: str = "gateway", *, delta: bool = True) -> Envoy:
        """Start the ingress gateway's Envoy."""
        return await self.launch(
            name, gateway_bootstrap(self.layout, delta=delta, admin=self.admin(name))
        )

    async def sidecar(self, name: str = "sidecar", *, delta: bool = True) -> Envoy:
        """Start the sidecar of interception mode NONE that all applications share."""
        return await self.launch(
            name, sidecar_bootstrap(self.layout, delta=delta, admin=self.admin(name))
        )

    async def redirected(
        self, name: str = "redirected", *, delta: bool = True, number: int = 13
    ) -> Envoy:
        """Start a sidecar of reviews v1 that believes that iptables rules send it traffic."""
        return await self.launch(
            name,
            redirect_bootstrap(self.layout, admin=self.admin(name), delta=delta, number=number),
        )

    def write(self, name: str, text: str) -> None:
        """Put a file into the watched directory, with this bed's addresses."""
        replace_file(self.live / name, self.layout.localized(text))

    def copy(self, exercise: str, name: str) -> None:
        """Copy a file of `networking` into the watched directory."""
        self.write(name, (NETWORKING / exercise).read_text())

    def remove(self, name: str) -> None:
        """Take a file away from the watched directory."""
        (self.live / name).unlink()

    async def debug(self, page: str, **query: str) -> Any:
        """The JSON of a debug page."""
        url = f"http://{self.layout.http}/debug/{page}"
        async with self.http.get(url, params=query) as answer:
            assert answer.status == 200, f"{url} answers {answer.status}: {await answer.text()}"
            return await answer.json()

    async def findings(self) -> list[dict[str, Any]]:
        """All diagnostics that `/debug/configz` shows."""
        return [entry for item in await self.debug("configz") for entry in item["diagnostics"]]

    async def settled(self, *, seconds: float = PATIENCE) -> None:
        """Wait until every Envoy runs everything that was sent to it, and rejected nothing."""
        await eventually(
            self.unsettled, lambda troubles: not troubles, seconds=seconds, what="settled Envoys"
        )

    async def unsettled(self) -> list[str]:
        """What is not as it should be, by Envoy; empty when all is well."""
        found = await asyncio.gather(*(troubles_of(envoy) for envoy in self.envoys.values()))
        troubles = [trouble for entry in found for trouble in entry]
        statuses = await self.debug("syncz")
        if len(statuses) != len(self.envoys):
            troubles.append(f"{len(statuses)} proxies are connected, not {len(self.envoys)}")
        troubles += [
            f"{status['proxy']} {url.rpartition('.')[2]}: {watch['status']} {watch['lastError']}"
            for status in statuses
            for url, watch in status["resources"].items()
            if watch["status"] != "SYNCED"
        ]
        return troubles

    async def close(self) -> None:
        """End everything."""
        await self.http.close()
        await asyncio.gather(*(envoy.stop() for envoy in self.envoys.values()))
        await asyncio.gather(*(child.stop() for child in self._children))

    def remove_directory(self) -> None:
        """Remove files and logs, unless PYLOT_KEEP_BEDS is set: a failure can then be looked at."""
        if not os.environ.get("PYLOT_KEEP_BEDS"):
            shutil.rmtree(self.directory, ignore_errors=True)


class Proxy(Protocol):
    """An Envoy, whoever runs it."""

    @property
    def name(self) -> str:
        """What it is called in a message."""
        ...

    @property
    def admin(self) -> AdminClient:
        """Its admin interface."""
        ...


async def troubles_of(envoy: Proxy) -> list[str]:
    """What keeps one Envoy from being settled."""
    stats = await envoy.admin.stats(SETTLED_STATS)
    expected = {
        "cluster_manager.cds.update_rejected": 0,
        "listener_manager.lds.update_rejected": 0,
        "cluster_manager.warming_clusters": 0,
        "listener_manager.total_listeners_warming": 0,
        "control_plane.connected_state": 1,
    }
    expected |= {name: 0 for name in stats if name.endswith(".update_rejected")}
    troubles = [
        f"{envoy.name}: {name} is {stats.get(name)}"
        for name, value in expected.items()
        if stats.get(name) != value
    ]
    if not await envoy.admin.is_ready():
        troubles.append(f"{envoy.name}: /ready is not 200")
    return troubles


async def assert_settled(envoy: Envoy) -> None:
    """Fail unless the Envoy runs all that it was sent and has rejected nothing."""
    troubles = await troubles_of(envoy)
    assert not troubles, troubles


def redirect_bootstrap(
    layout: Layout,
    *,
    admin: EnvoyAddress,
    delta: bool = True,
    number: int = 13,
    ip: str = "",
    xds: EnvoyAddress | None = None,
) -> Bootstrap:
    """The sidecar of reviews v1 whose traffic is captured by iptables."""
    return Bootstrap(
        proxy_type=ProxyType.SIDECAR,
        ip=ip or f"{layout.prefix}{number}",
        name="reviews-v1.default",
        cluster="reviews.default",
        metadata=freeze(
            {
                "NAMESPACE": "default",
                "INTERCEPTION_MODE": "REDIRECT",
                "LABELS": {"app": "reviews", "version": "v1"},
            }
        ),
        xds=xds or layout.grpc,
        admin=admin,
        delta=delta,
    )


def empty_bed(layout: Layout) -> Bed:
    """A bed whose watched directory is empty, and in which nothing runs yet."""
    # A unix socket's path may have some 100 characters, so pytest's tmp_path is too long.
    directory = Path(tempfile.mkdtemp(prefix="pylot-bed-"))
    directory.chmod(0o755)
    made = Bed(layout, directory)
    made.live.mkdir()
    return made


@contextlib.asynccontextmanager
async def bed(*, mesh_config: str = "", files: bool = True) -> AsyncIterator[Bed]:
    """A bed with a control plane on the files of Bookinfo, ended and removed afterwards."""
    made = empty_bed(own_layout())
    made.mesh_config = mesh_config
    if files:
        write_live(made.layout, BOOKINFO, made.live)
    try:
        await made.start_control_plane()
        yield made
    finally:
        await made.close()
        made.remove_directory()


async def virtual_hosts(envoy: Envoy) -> dict[str, Any]:
    """What an Envoy routes by, for each virtual host by its name."""
    return {
        host["name"]: host
        for entry in await envoy.admin.config_dump("dynamic_route_configs")
        for host in entry["route_config"].get("virtual_hosts", ())
    }


async def listener_names(envoy: Envoy) -> set[str]:
    """The names of the listeners that an Envoy runs."""
    return {
        entry["name"]
        for entry in await envoy.admin.config_dump("dynamic_listeners")
        if "active_state" in entry
    }

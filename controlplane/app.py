"""`pylot serve`, wired: sources, registry, translation, ADS and the HTTP listeners.

Owns the order of starting and stopping, and the only TaskGroup at the top. Must not know how any
part works. The rule that is easy to break: listeners open before the sources are read, so that
`/ready` can say what is missing and an Envoy gets UNAVAILABLE instead of a refused connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import structlog

from controlplane import __version__
from controlplane.ads.log import LogReporter
from controlplane.ads.outstanding import Outstanding
from controlplane.ads.pusher import Pusher
from controlplane.ads.reporter import Reporters
from controlplane.ads.server import AdsServer
from controlplane.allocator import arrange_heap, give_back_freed
from controlplane.debug.auth import Authenticator, make_doors
from controlplane.debug.context import DebugContext, Readiness
from controlplane.debug.http import http_app, listen, monitoring_app
from controlplane.debug.metrics import Metrics
from controlplane.debug.reporter import MetricsReporter
from controlplane.debug.source_reporter import SourceMetrics
from controlplane.debug.token_review import TokenReviews
from controlplane.errors import PylotError, UsageError
from controlplane.kubernetes.access import NoClusterError, find_access
from controlplane.kubernetes.client import Client
from controlplane.leader.assess import Readers
from controlplane.leader.duties import Duties, make_duties
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.diff import Change
from controlplane.model.mesh import MeshConfig
from controlplane.model.snapshot import Snapshot
from controlplane.pacing import Pacing
from controlplane.registry import Registry
from controlplane.settings import Address, Settings
from controlplane.sources.base import Source
from controlplane.sources.files import FileSource
from controlplane.sources.kubernetes.log import LogReporter as SourceLog
from controlplane.sources.kubernetes.reporter import Reporters as SourceReporters
from controlplane.sources.kubernetes.source import KubernetesSource
from controlplane.translate.build import Generator
from controlplane.webhooks import Webhooks, certificate_of_files

LOGGED_AT_ONCE: Final = 50
"""Findings that one change writes to the log; the rest is counted and is in /debug/configz."""

# A full collection visits every object of a large mesh. What the first snapshot is made of lives
# as long as the process: it is frozen, and later collections are rarer.
_COLLECTION_THRESHOLD: Final = (50_000, 20, 100)
_LONGEST_START: Final = 30.0  # seconds without collections when no first snapshot comes


class App:
    """The control plane: made from settings, started, and run until it is told to stop."""

    def __init__(self, settings: Settings, client: Client | None = None) -> None:
        self._settings: Final = settings
        self._client: Final = client
        self._log: Final[Any] = structlog.get_logger("controlplane.app")
        self._stopping = False
        self._metrics: Final = Metrics(version=__version__)
        self._generator: Final = Generator()
        self._duties: Final = self._cluster_duties()
        reporter = Reporters(
            LogReporter(),
            MetricsReporter(self._metrics),
            *(() if self._duties is None else (self._duties.reporter,)),
        )
        self._pusher: Final = Pusher(
            self._generator,
            self._generator.classify,
            clock=time.monotonic,
            epoch=time.time,
            reporter=reporter,
            keeps_classes=self._generator.keeps_classes,
        )
        self._kubernetes: Final = self._kubernetes_source()
        self._sources: Final[tuple[Source, ...]] = (
            *_sources(settings),
            *(() if self._kubernetes is None else (self._kubernetes,)),
        )
        self._registry: Final = Registry(
            self._publish,
            sources=[source.name for source in self._sources],
            domain=settings.domain,
            cluster_id=settings.cluster_id,
            mesh=MeshConfig(root_namespace=settings.root_namespace),
            pacing=Pacing(
                debounce_after=settings.debounce_after.seconds,
                debounce_max=settings.debounce_max.seconds,
            ),
            reporter=self._report,
            timed=self._metrics.made_snapshot,
            failed=self._failed,
        )
        self._webhooks: Final = Webhooks(
            settings,
            self._metrics,
            snapshot=lambda: self._registry.snapshot,
            shared=None if self._duties is None else self._duties.shared_certificate,
        )
        self._server: Final = AdsServer(
            self._pusher, ready=lambda: self._registry.ready, reporter=reporter
        )
        self._context: Final = DebugContext(
            snapshot=lambda: self._registry.snapshot,
            serving=self._pusher.status,
            findings=self._findings,
            generator=self._generator,
            ready=self._readiness,
            metrics=self._metrics,
            doors=make_doors(
                settings.debug_token_file,
                insecure=settings.debug_insecure,
                others=self._authenticators(),
            ),
            cached=self._generator.remembered,
            journal=self._pusher.journal.entries,
            progress=self._pusher.progress,
            unpublished=self._registry.is_waiting,
            kubernetes=lambda: None if self._kubernetes is None else self._kubernetes.status(),
            leases=lambda: () if self._duties is None else self._duties.leases(),
            cluster_id=settings.cluster_id,
            revision=settings.revision,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set. Raises PylotError when a listener cannot be opened."""
        arrange_heap()
        # Almost nothing of what is read at first is garbage; `_settle_garbage` looks once.
        gc.disable()
        timer = asyncio.get_running_loop().call_later(_LONGEST_START, gc.enable)
        try:
            await self._run(stop)
        finally:
            timer.cancel()
            gc.enable()

    def _kubernetes_source(self) -> KubernetesSource | None:
        settings = self._settings
        if self._client is None:
            return None
        source = KubernetesSource(
            self._client,
            revision=settings.revision,
            root_namespace=settings.root_namespace,
            mesh_config=settings.mesh_config is None,
            reporter=SourceReporters(SourceLog(), SourceMetrics(self._metrics)),
        )
        self._metrics.state_age(lambda: source.status().age)
        return source

    def _cluster_duties(self) -> Duties | None:
        settings = self._settings
        if self._client is None:
            return None
        readers = Readers(
            snapshot=lambda: self._pusher.snapshot,
            outstanding=self._outstanding,
            findings=self._findings,
        )
        return make_duties(
            settings,
            self._client,
            readers,
            registry=self._metrics.registry,
            certificate=certificate_of_files(settings),
        )

    def _outstanding(self) -> Outstanding:
        return self._pusher.outstanding()

    def _findings(self) -> tuple[Diagnostic, ...]:
        """What serving found wrong with objects: what Envoys rejected, and what translation of
        the connected classes noticed."""
        snapshot = self._pusher.snapshot
        noticed = (
            finding
            for cls in self._pusher.classes()
            for finding in self._generator.diagnostics(snapshot, cls)
        )
        return tuple(dict.fromkeys((*self._pusher.findings(), *noticed)))

    def _authenticators(self) -> tuple[Authenticator, ...]:
        if self._client is None:
            return ()
        return (TokenReviews(self._client, root_namespace=self._settings.root_namespace),)

    async def _run(self, stop: asyncio.Event) -> None:
        async with (
            self._client or contextlib.nullcontext(),
            self._listening(),
            asyncio.TaskGroup() as group,
        ):
            tasks = [group.create_task(self._registry.run(self._sources))]
            if self._duties is not None:
                tasks.append(group.create_task(self._duties.run()))
            await stop.wait()
            self._stopping = True  # Kubernetes sends nobody to a pod that is not ready
            grace = self._settings.shutdown_duration.seconds
            self._log.info("app.stopping", grace=grace)
            # At once, not after Leases were given away: who comes now would have to go again.
            group.create_task(self._server.stop(grace))
            for task in tasks:
                task.cancel()
        self._log.info("app.stopped")

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        settings = self._settings
        async with contextlib.AsyncExitStack() as stack:
            for name, app, address in (
                ("http", http_app, settings.http_addr),
                ("monitoring", monitoring_app, settings.monitoring_addr),
            ):
                if address is not None:
                    runner = await listen(app(self._context), address.host, address.port)
                    stack.push_async_callback(runner.cleanup)
                    self._log.info("app.listening", name=name, address=_bound(runner, address))
            if settings.grpc_addr is not None:
                address = settings.grpc_addr
                (port,) = await self._server.start(str(Address(address.host or "::", address.port)))
                self._log.info("app.listening", name="grpc", address=f"{address.host}:{port}")
            if settings.https_addr is not None:
                address = settings.https_addr
                runner = await stack.enter_async_context(self._webhooks.listening(address))
                self._log.info("app.listening", name="https", address=_bound(runner, address))
            if settings.secure_grpc_addr is not None:
                self._log.info(
                    "app.not_served_yet", name="secure-grpc", address=str(settings.secure_grpc_addr)
                )
            yield

    def _publish(self, old: Snapshot, new: Snapshot, change: Change) -> None:
        first = not self._registry.ready or not old.services
        self._pusher.publish(old, new, change)
        self._count(change, old, new)
        self._metrics.published(new)
        waiting = new.waiting_for_pods
        self._metrics.waiting_for_pods(len(waiting), len(waiting - old.waiting_for_pods))
        if first:
            _settle_garbage()
            self._log.info(
                "app.snapshot",
                services=len(new.services),
                virtual_services=len(new.virtual_services),
                destination_rules=len(new.destination_rules),
                gateways=len(new.gateways),
            )

    def _count(self, change: Change, old: Snapshot, new: Snapshot) -> None:
        if change.objects or change.mesh:
            self._metrics.updated("config")
        if change.endpoints:
            self._metrics.updated("eds")
        for host in change.services:
            self._metrics.updated("svc" if host in new.service_by_host else "svcdelete")

    def _readiness(self) -> Readiness:
        missing = (*self._registry.waiting_for, *self._webhooks.missing)
        warnings = () if self._kubernetes is None else self._kubernetes.warnings
        return Readiness(
            ready=self._registry.ready and not missing and not self._stopping,
            stopping=self._stopping,
            missing=missing,
            warnings=(*warnings, *self._webhooks.warnings),
        )

    def _failed(self, error: Exception) -> None:
        self._metrics.internal_error()
        self._log.error("app.failed", exc_info=error)

    def _report(self, new: tuple[Diagnostic, ...], gone: tuple[Diagnostic, ...]) -> None:
        """Write each finding to the log once: when it appears and when it is mended."""
        for finding in new:
            if finding.level is Level.ERROR:
                self._metrics.refused_object()
        for finding in new[:LOGGED_AT_ONCE]:
            write = self._log.error if finding.level is Level.ERROR else self._log.warning
            if finding.level is Level.INFO:
                write = self._log.info
            write("config.problem", **_fields(finding))
        for finding in gone[:LOGGED_AT_ONCE]:
            self._log.info("config.mended", **_fields(finding))
        left = max(0, len(new) - LOGGED_AT_ONCE) + max(0, len(gone) - LOGGED_AT_ONCE)
        if left:
            self._log.warning("config.more_problems", number=left, see="/debug/configz")


def allow_many_files() -> None:
    """Raise the limit of open files as far as the system lets us: a stream is one each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def run(settings: Settings) -> None:
    """Run the control plane until SIGTERM or SIGINT.

    Raises UsageError before anything is opened when the kubeconfig is missing or broken.
    """
    client = None
    if settings.kubernetes:
        try:
            client = Client(await find_access(settings.kubeconfig, settings.context))
        except NoClusterError as error:
            hint = "name a directory with --config-dir DIR to serve files"
            raise UsageError(f"{error}; {hint}") from None
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await App(settings, client).run(stop)
    except* PylotError as group:
        # One sentence for the user: the first error tells why the others followed.
        raise _first(group) from None


def _first(group: BaseExceptionGroup[PylotError]) -> PylotError:
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


def _sources(settings: Settings) -> tuple[Source, ...]:
    if settings.config_dirs or settings.mesh_config is not None:
        return (FileSource(settings.config_dirs, mesh_config=settings.mesh_config),)
    return ()


def _bound(runner: Any, address: Address) -> str:
    """The address with the port that the system chose for port 0."""
    bound = runner.addresses[0][1] if runner.addresses else address.port
    return str(Address(address.host, bound))


def _settle_garbage() -> None:
    gc.collect()
    gc.freeze()
    give_back_freed()
    gc.set_threshold(*_COLLECTION_THRESHOLD)
    gc.enable()


def _fields(finding: Diagnostic) -> dict[str, Any]:
    fields: dict[str, Any] = {"code": finding.code, "message": finding.message}
    if finding.ref is not None:
        fields["object"] = str(finding.ref)
    if finding.field:
        fields["field"] = finding.field
    if finding.file:
        fields["file"] = f"{finding.file}:{finding.line}"
    return fields

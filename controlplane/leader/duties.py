"""Everything that `pylot serve` does in a cluster beside serving, wired.

Owns the names of the Leases and which work belongs to which. Must not know how any of it works.
The rule that is easy to break: revisions share the objects, and so the Lease of their status;
the webhooks are each revision's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry

from controlplane.ads.rejections import Rejection
from controlplane.ads.reporter import Reporter
from controlplane.ads.types import TypeInfo
from controlplane.debug.context import LeaseView
from controlplane.inject.certificate import GetCertificate, serving_names
from controlplane.kubernetes.client import Client
from controlplane.leader.assess import Readers
from controlplane.leader.election import Timing
from controlplane.leader.lease import Leadership, LeaseStore, Work
from controlplane.leader.metrics import LeaderMetrics
from controlplane.leader.reports import Reports
from controlplane.leader.status_writer import StatusWriter
from controlplane.leader.webhook_configurations import Configurations
from controlplane.leader.webhook_secret import SharedCertificate, secret_name
from controlplane.leader.webhooks import WebhookKeeper
from controlplane.model.proxy import Proxy

STATUS_LEASE: Final = "istio-status-leader"
LEASE: Final = "istio-leader"


class Duties:
    """The elections that a replica takes part in, and the work of whoever wins them."""

    def __init__(
        self,
        client: Client,
        readers: Readers,
        *,
        namespace: str,
        revision: str,
        identity: str,
        timing: Timing,
        registry: CollectorRegistry,
        certificate: GetCertificate | None = None,
        webhooks: bool = True,
        write_status: bool = True,
    ) -> None:
        """`namespace` is the root namespace; `certificate` the operator's own, when there is."""
        metrics = LeaderMetrics(registry)

        def lead(lease: str) -> Leadership:
            store = LeaseStore(client, namespace=namespace, name=lease)
            return Leadership(store, identity=identity, timing=timing, metrics=metrics)

        self._namespace: Final = namespace
        status = lead(STATUS_LEASE)
        self._reports: Final = Reports(
            client,
            readers,
            namespace=namespace,
            identity=identity,
            changed=self._told,
        )
        self._writer: Final = StatusWriter(
            client,
            Readers(
                snapshot=readers.snapshot,
                outstanding=self._reports.outstanding,
                findings=self._reports.findings,
            ),
            leads=status.leads,
            metrics=metrics,
        )
        self._tells: Final = write_status
        own = lead(LEASE if revision in ("", "default") else f"{LEASE}-{revision}")
        self._shared: Final = SharedCertificate(
            client,
            namespace=namespace,
            name=secret_name(revision),
            names=serving_names(namespace, revision),
            metrics=metrics,
        )
        self.certificate: Final[GetCertificate] = certificate or self._shared
        """What the webhooks serve with."""
        keeper = WebhookKeeper(
            self.certificate,
            Configurations(client, namespace=namespace, revision=revision, metrics=metrics),
            leads=own.leads,
        )
        self._follows_secret: Final = webhooks and certificate is None
        self._elections: Final[dict[Leadership, Work]] = {
            **({status: self._write_status} if write_status else {}),
            **({own: keeper.run} if webhooks else {}),
        }
        self.reporter: Final[Reporter] = _Listener(self._writer)
        """Has to hear of pushes and answers: they change what is true of objects."""

    def leases(self) -> tuple[LeaseView, ...]:
        """Return who leads, as far as is known here."""
        return tuple(
            LeaseView(
                name=one.name,
                namespace=self._namespace,
                identity=one.identity,
                holder=one.holder,
                leads=one.leads(),
            )
            for one in self._elections
        )

    async def run(self) -> None:
        """Do all of it until cancelled; then give the Leases away, for 2 s at most."""
        async with asyncio.TaskGroup() as group:
            if self._follows_secret:
                group.create_task(self._shared.run())
            if self._tells:
                group.create_task(self._reports.tell())
            for leadership, work in self._elections.items():
                group.create_task(leadership.run(work))

    def _told(self) -> None:
        self._writer.changed()

    async def _write_status(self) -> None:
        await self._reports.look()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reports.collect())
            group.create_task(self._writer.run())


class _Listener(Reporter):
    """Tells the writer that something happened."""

    def __init__(self, writer: StatusWriter) -> None:
        self._writer: Final = writer

    def connected(self, connection: str, proxy: Proxy, *, delta: bool) -> None:
        self._writer.changed()

    def disconnected(self, connection: str, *, reason: str) -> None:
        self._writer.changed()

    def acknowledged(
        self, connection: str, info: TypeInfo, *, version: str, seconds: float, push: int
    ) -> None:
        self._writer.changed()

    def rejected(
        self,
        connection: str,
        info: TypeInfo,
        *,
        message: str,
        suspects: Sequence[str],
        culprits: Sequence[Rejection],
        push: int,
    ) -> None:
        self._writer.changed()

    def published(self, *, push: int, classes: int, streams: int, reason: str) -> None:
        self._writer.changed()

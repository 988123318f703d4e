"""Everything that `pylot serve` does in a cluster beside serving, wired.

Owns the names of the Leases and which work belongs to which. Must not know how any of it works.
The rule that is easy to break: revisions share the objects that name none, and so the Lease of
their status; what names a revision, and its webhooks, are its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry

from controlplane.ads.reporter import Reporter
from controlplane.debug.context import LeaseView
from controlplane.inject.certificate import GetCertificate, serving_names
from controlplane.kubernetes.client import Client
from controlplane.leader.assess import Readers
from controlplane.leader.election import Timing
from controlplane.leader.lease import Leadership, LeaseStore, Work, make_identity
from controlplane.leader.metrics import LeaderMetrics
from controlplane.leader.reports import Reports
from controlplane.leader.status_writer import StatusWriter
from controlplane.leader.webhook_configurations import Configurations
from controlplane.leader.webhook_secret import SharedCertificate, secret_name
from controlplane.leader.webhooks import WebhookKeeper
from controlplane.settings import Settings

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
        self._writes_status: Final = write_status
        self._reports: Final = Reports(
            client, readers, namespace=namespace, identity=identity, changed=self._changed
        )
        everybodys = Readers(
            snapshot=readers.snapshot,
            outstanding=self._reports.outstanding,
            findings=self._reports.findings,
        )
        mesh = lead(STATUS_LEASE)
        own = lead(LEASE if revision in ("", "default") else f"{LEASE}-{revision}")
        self._writers: Final = tuple(
            StatusWriter(client, everybodys, leads=one.leads, metrics=metrics, labelled=one is own)
            for one in (mesh, own)
        )
        self._work: Final[dict[Leadership, list[Work]]] = {mesh: [], own: []}
        if write_status:
            for leadership, writer in zip(self._work, self._writers, strict=True):
                self._work[leadership].append(writer.run)
        shared: SharedCertificate | None = None
        if webhooks and certificate is None:
            certificate = shared = SharedCertificate(
                client,
                namespace=namespace,
                name=secret_name(revision),
                names=serving_names(namespace, revision),
                metrics=metrics,
            )
        self.shared_certificate: Final = shared
        """What the webhooks serve with, when it is the cluster's."""
        self.certificate: Final = certificate
        """What the webhooks serve with; None when there are none."""
        if webhooks and certificate is not None:
            configurations = Configurations(
                client, namespace=namespace, revision=revision, metrics=metrics
            )
            keeper = WebhookKeeper(certificate, configurations, leads=own.leads)
            self._work[own].append(keeper.run)
        self.reporter: Final[Reporter] = _Listener(self._changed)
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
            for one, work in self._work.items()
            if work
        )

    async def run(self) -> None:
        """Do all of it until cancelled; then give the Leases away, for 2 s at most."""
        async with asyncio.TaskGroup() as group:
            if self.shared_certificate is not None:
                group.create_task(self.shared_certificate.run())
            if self._writes_status:
                group.create_task(self._reports.tell())
            for leadership, work in self._work.items():
                if work:
                    group.create_task(leadership.run(partial(self._lead, work)))

    async def _lead(self, work: Iterable[Work]) -> None:
        """Do the work of a Lease until cancelled."""
        if self._writes_status:
            await self._reports.look()  # what other replicas tell has to be known before a write
        async with asyncio.TaskGroup() as group:
            if self._writes_status:
                group.create_task(self._reports.collect())
            for one in work:
                group.create_task(one())

    def _changed(self) -> None:
        for writer in self._writers:
            writer.changed()


def make_duties(
    settings: Settings,
    client: Client,
    readers: Readers,
    *,
    registry: CollectorRegistry,
    certificate: GetCertificate | None,
) -> Duties:
    """Return the duties that the settings ask for, under a name that no other replica has."""
    return Duties(
        client,
        readers,
        namespace=settings.root_namespace,
        revision=settings.revision,
        identity=make_identity(),
        timing=Timing(
            lease_duration=settings.lease_duration.seconds,
            renew_deadline=settings.renew_deadline.seconds,
            retry_period=settings.retry_period.seconds,
        ),
        registry=registry,
        certificate=certificate,
        webhooks=settings.https_addr is not None,
        write_status=settings.write_status,
    )


class _Listener(Reporter):
    """Hears that something happened, whatever it is."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed: Final = changed

    def _hear(self, *_: object, **__: object) -> None:
        self._changed()

    connected = disconnected = acknowledged = rejected = published = _hear

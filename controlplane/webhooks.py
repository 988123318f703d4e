"""The admission webhooks of `pylot serve`, wired: their listener and what it serves with.

Owns where the certificate comes from. Must not know how injection, validation or the Secret work.
The rule that is easy to break: nobody may be sent here before the API server, which calls the
webhooks, would trust them; until then there is something `missing`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final

from aiohttp import web

from controlplane.admission.webhook import add_validation
from controlplane.debug.http import listen
from controlplane.debug.metrics import Metrics
from controlplane.inject.admission import Injector
from controlplane.inject.certificate import (
    GetCertificate,
    OwnCertificate,
    serving_names,
    ssl_context,
)
from controlplane.inject.certificate_files import FileCertificate
from controlplane.inject.config_files import FileConfig
from controlplane.inject.webhook import CertificateKeeper, InjectionMetrics, make_webhook_app
from controlplane.leader.webhook_secret import SharedCertificate
from controlplane.model.snapshot import Snapshot
from controlplane.settings import Address, Settings


class Webhooks:
    """`/inject` and `/validate`; `shared` is the certificate of the cluster, when that counts."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        snapshot: Callable[[], Snapshot],
        shared: SharedCertificate | None = None,
    ) -> None:
        self._settings: Final = settings
        self._metrics: Final = metrics
        self._snapshot: Final = snapshot
        self._shared: Final = shared
        self._keeper: CertificateKeeper | None = None

    @property
    def missing(self) -> tuple[str, ...]:
        """What has to come before the API server can trust the webhooks."""
        shared = self._shared
        if shared is None or self._keeper is None:
            return ()
        if shared.answered and self._keeper.loaded == shared():
            return ()
        return ("the certificate of the webhooks",)

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence when there is a certificate that the API server cannot know."""
        return (self._shared.refusal,) if self._shared is not None and self._shared.refusal else ()

    @contextlib.asynccontextmanager
    async def listening(self, address: Address) -> AsyncIterator[web.AppRunner]:
        """Serve until the end of the block. Raises PylotError when that cannot begin."""
        current = self._certificate()
        first = current()
        tls = ssl_context(first)
        app = make_webhook_app(self._injector(), InjectionMetrics(self._metrics.registry))
        add_validation(app, revision=self._settings.revision, metrics=self._metrics)
        runner = await listen(app, address.host, address.port, tls=tls)
        self._keeper = CertificateKeeper(tls, current, loaded=first)
        changed = None if self._shared is None else self._shared.changed
        renewal = asyncio.create_task(self._keeper.run(changed=changed))
        try:
            yield runner
        finally:
            renewal.cancel()
            await runner.cleanup()

    def _injector(self) -> Callable[[], Injector]:
        settings = self._settings
        config = FileConfig(
            settings.inject_config,
            settings.inject_values,
            revision=settings.revision,
            mesh_values={
                "global": {
                    "istioNamespace": settings.root_namespace,
                    "multiCluster": {"clusterName": settings.cluster_id},
                    "proxy": {"clusterDomain": settings.domain},
                }
            },
        )
        return lambda: Injector(
            config=config(),
            mesh=self._snapshot().mesh,
            namespace_labels=self._snapshot().namespaces.get,
        )

    def _certificate(self) -> GetCertificate:
        """Where the certificate comes from: files, the cluster's Secret, ourselves."""
        settings = self._settings
        return (
            certificate_of_files(settings)
            or self._shared
            or OwnCertificate(serving_names(settings.root_namespace, settings.revision))
        )


def certificate_of_files(settings: Settings) -> GetCertificate | None:
    """Return the webhooks' certificate when the operator gives it."""
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return FileCertificate(settings.tls_cert_file, settings.tls_key_file, settings.ca_cert_file)

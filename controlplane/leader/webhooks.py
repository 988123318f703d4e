"""What the leader does for the webhooks: the API server trusts them, today and tomorrow.

Owns the loop. Must not know Secrets or configurations. The rule that is easy to break: a look is
made every few seconds whatever happened, so that a configuration that somebody applies again
without our authority is mended before many pods were refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from controlplane.inject.certificate import GetCertificate
from controlplane.inject.errors import CertificateError
from controlplane.leader.webhook_configurations import Configurations
from controlplane.leader.webhook_secret import SharedCertificate

EVERY: Final = 3.0
"""Seconds between two looks; each is two small lists."""


class WebhookKeeper:
    """Publishes the authority of the webhooks' certificate, and rotates a shared one."""

    def __init__(
        self,
        certificate: GetCertificate,
        configurations: Configurations,
        *,
        leads: Callable[[], bool],
    ) -> None:
        self._certificate: Final = certificate
        self._configurations: Final = configurations
        self._leads: Final = leads

    async def run(self) -> None:
        """Keep everything up to date until cancelled."""
        while True:
            await self._look()
            await asyncio.sleep(EVERY)

    async def _look(self) -> None:
        shared = self._certificate if isinstance(self._certificate, SharedCertificate) else None
        if shared is not None and not shared.settled:
            # What is served is not what the Secret holds, or nobody knows yet.
            await shared.rotate(published=False)
            return
        try:
            bundle = (await asyncio.to_thread(self._certificate)).authority
        except CertificateError:
            return  # the webhooks tell about it
        if not bundle or not self._leads():
            return
        published = await self._configurations.publish(bundle)
        if shared is not None and self._leads():
            await shared.rotate(published=published)

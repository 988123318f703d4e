"""The serving side's steps, counted: the bridge from its reporter to the metrics.

Must not know how either works inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from controlplane.ads.rejections import Rejection
from controlplane.ads.reporter import Reporter
from controlplane.ads.types import Send, TypeInfo
from controlplane.debug.metrics import Metrics
from controlplane.model.proxy import Proxy


class MetricsReporter(Reporter):
    """Counts what the engine reports."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics: Final = metrics

    def connected(self, connection: str, proxy: Proxy, *, delta: bool) -> None:
        """Count the client."""
        self._metrics.connected()

    def disconnected(self, connection: str, *, reason: str) -> None:
        """Forget the client."""
        self._metrics.disconnected()

    def written(self, send: Send, *, making: float, writing: float) -> None:
        """Count the response, its bytes and its times."""
        self._metrics.responses.written(
            send.type_url, len(send.payload), making=making, writing=writing
        )

    def acknowledged(
        self, connection: str, info: TypeInfo, *, version: str, seconds: float, push: int
    ) -> None:
        """Note how long the proxy took."""
        self._metrics.responses.acknowledged(seconds)

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
        """Count the rejection."""
        self._metrics.rejected(info.url)

    def stale(self, connection: str, info: TypeInfo) -> None:
        """Count the late answer."""
        self._metrics.expired_nonce(info.url)

    def warming(self, connection: str, clusters: Sequence[str]) -> None:
        """Count the clusters that are late."""
        self._metrics.warming(len(clusters))

    def failed(self, connection: str, error: Exception) -> None:
        """Count the mistake."""
        self._metrics.internal_error()

    def published(self, *, push: int, classes: int, streams: int, reason: str) -> None:
        """Count the push."""
        self._metrics.triggered(reason)

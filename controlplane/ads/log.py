"""The reporter that writes the log: one line per connect, push and NACK.

A push reaches a thousand streams in a moment; it is one line, with what it came to, and the
responses and acknowledgements of single streams show only when somebody debugs. Events have
fixed names. The rule that is easy to break: nothing is logged per resource, nor, above debug, per
stream and push.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

import structlog

from controlplane.ads.rejections import Rejection
from controlplane.ads.reporter import Reporter
from controlplane.ads.types import Send, TypeInfo
from controlplane.model.proxy import Proxy

_NAMED: Final = 10  # names shown in one line
_SUMMARY_AFTER: Final = 1.0  # seconds after the first response of a push


class _Tally:
    """What a push came to so far."""

    __slots__ = ("acknowledged", "rejected", "responses", "size", "slowest", "types")

    def __init__(self) -> None:
        self.types: dict[str, None] = {}
        self.responses = self.acknowledged = self.rejected = self.size = 0
        self.slowest = 0.0  # seconds


class LogReporter(Reporter):
    """Writes structlog events. Pushes are summed up by a timer of the running event loop."""

    def __init__(self) -> None:
        # Bound now: an unbound logger is bound anew at each call, and there are two per response.
        self._log: Any = structlog.get_logger("controlplane.ads").bind()
        self._debugs: Final[bool] = self._log.is_enabled_for(logging.DEBUG)
        self._tallies: dict[int, _Tally] = {}

    def connected(self, connection: str, proxy: Proxy, *, delta: bool) -> None:
        """Log the new stream."""
        self._log.info(
            "ads.connected",
            connection=connection,
            delta=delta,
            namespace=proxy.namespace,
            build=proxy.user_agent,
        )

    def disconnected(self, connection: str, *, reason: str) -> None:
        """Log the end of the stream."""
        self._log.info("ads.disconnected", connection=connection, reason=reason)

    def refused(self, peer: str, *, reason: str) -> None:
        """Log a stream that never was."""
        self._log.warning("ads.refused", peer=peer, reason=reason)

    def sent(self, connection: str, send: Send) -> None:
        """Count a response."""
        if send.push:
            tally = self._tallies.get(send.push)
            if tally is None:
                tally = self._tallies[send.push] = _Tally()
                loop = asyncio.get_running_loop()
                loop.call_later(_SUMMARY_AFTER, self._sum_up, send.push)
            tally.types[send.short] = None
            tally.responses += 1
            tally.size += len(send.payload)
        if self._debugs:
            self._log.debug(
                "ads.response",
                connection=connection,
                type=send.short,
                nonce=send.nonce,
                push=send.push,
                resources=len(send.names),
                removed=len(send.removed),
                size=len(send.payload),
            )

    def acknowledged(
        self, connection: str, info: TypeInfo, *, version: str, seconds: float, push: int
    ) -> None:
        """Count an acknowledgement."""
        tally = self._tallies.get(push)
        if tally is not None:
            tally.acknowledged += 1
            tally.slowest = max(tally.slowest, seconds)
        if self._debugs:
            self._log.debug(
                "ads.ack",
                connection=connection,
                type=info.short,
                version=version,
                push=push,
                seconds=round(seconds, 4),
            )

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
        """Log a rejection and whose fault it is."""
        tally = self._tallies.get(push)
        if tally is not None:
            tally.rejected += 1
        self._log.warning(
            "ads.nack",
            connection=connection,
            type=info.short,
            message=message,
            push=push,
            culprits=[item.item.name for item in culprits[:_NAMED]],
            objects=sorted({str(origin.ref) for item in culprits for origin in item.item.origins})[
                :_NAMED
            ],
            suspects=len(suspects),
        )

    def stale(self, connection: str, info: TypeInfo) -> None:
        """Log an answer that came too late."""
        self._log.debug("ads.stale_nonce", connection=connection, type=info.short)

    def unserved(self, connection: str, type_url: str) -> None:
        """Log a request for a type that is not served."""
        self._log.debug("ads.unserved_type", connection=connection, type_url=type_url)

    def warming(self, connection: str, clusters: Sequence[str]) -> None:
        """Log clusters that did not get ready in time."""
        self._log.warning("ads.warming", connection=connection, clusters=list(clusters[:_NAMED]))

    def failed(self, connection: str, error: Exception) -> None:
        """Log a mistake of ours, which alone comes with a traceback."""
        self._log.error("ads.failed", connection=connection, exc_info=error)

    def published(self, *, push: int, classes: int, streams: int, reason: str) -> None:
        """Log a new snapshot."""
        self._log.info("ads.publish", push=push, classes=classes, streams=streams, reason=reason)

    def _sum_up(self, push: int) -> None:
        tally = self._tallies.pop(push)
        self._log.info(
            "ads.pushed",
            push=push,
            types=list(tally.types),
            responses=tally.responses,
            acknowledged=tally.acknowledged,
            rejected=tally.rejected,
            size=tally.size,
            slowest=round(tally.slowest, 4),
        )

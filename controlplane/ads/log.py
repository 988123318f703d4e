"""The reporter that writes the log: one line per connect, push, ACK after a change and NACK.

Events have fixed names, and context is bound once per stream. The rule that is easy to break:
nothing is logged per resource.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog

from controlplane.ads.rejections import Rejection
from controlplane.ads.reporter import Reporter
from controlplane.ads.types import Send, TypeInfo
from controlplane.model.proxy import Proxy

_NAMED = 10  # names shown in one line


class LogReporter(Reporter):
    """Writes structlog events."""

    def __init__(self) -> None:
        self._log: Any = structlog.get_logger("controlplane.ads")
        self._bound: dict[str, Any] = {}

    def connected(self, connection: str, proxy: Proxy, *, delta: bool) -> None:
        """Log the new stream."""
        log = self._log.bind(proxy=proxy.id, connection=connection)
        self._bound[connection] = log
        log.info("ads.connected", delta=delta, namespace=proxy.namespace, build=proxy.user_agent)

    def disconnected(self, connection: str, *, reason: str) -> None:
        """Log the end of the stream."""
        self._of(connection).info("ads.disconnected", reason=reason)
        self._bound.pop(connection, None)

    def refused(self, peer: str, *, reason: str) -> None:
        """Log a stream that never was."""
        self._log.warning("ads.refused", peer=peer, reason=reason)

    def sent(self, connection: str, send: Send) -> None:
        """Log a push; answers only when somebody debugs."""
        log = self._of(connection)
        write = log.info if send.push else log.debug
        write(
            "ads.push",
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
        """Log the acknowledgement of a push; of answers only when somebody debugs."""
        log = self._of(connection)
        write = log.info if push else log.debug
        write("ads.ack", type=info.short, version=version, push=push, seconds=round(seconds, 4))

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
        self._of(connection).warning(
            "ads.nack",
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
        self._of(connection).debug("ads.stale_nonce", type=info.short)

    def unserved(self, connection: str, type_url: str) -> None:
        """Log a request for a type that is not served."""
        self._of(connection).debug("ads.unserved_type", type_url=type_url)

    def warming(self, connection: str, clusters: Sequence[str]) -> None:
        """Log clusters that did not get ready in time."""
        self._of(connection).warning("ads.warming", clusters=list(clusters[:_NAMED]))

    def published(self, *, push: int, classes: int, streams: int, reason: str) -> None:
        """Log a new snapshot."""
        self._log.info("ads.publish", push=push, classes=classes, streams=streams, reason=reason)

    def _of(self, connection: str) -> Any:
        return self._bound.get(connection, self._log)

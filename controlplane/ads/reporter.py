"""What the engine tells about itself: the core logs nothing and counts nothing.

A reporter sees every step. The rule that is easy to break: it is called while a stream is being
served, so it must not block, and what it raises is a mistake of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from controlplane.ads.rejections import Rejection
from controlplane.ads.types import Send, TypeInfo
from controlplane.model.proxy import Proxy


class Reporter:
    """Hears of every step and does nothing: subclass what is of interest.

    `connection` is the connection id, `seconds` a length of time in seconds, `push` the
    journal's number of the push that caused the response, 0 for the answer to a request.
    """

    def connected(self, connection: str, proxy: Proxy, *, delta: bool) -> None:
        """A stream was opened by a proxy."""

    def disconnected(self, connection: str, *, reason: str) -> None:
        """A stream ended."""

    def refused(self, peer: str, *, reason: str) -> None:
        """A stream was refused before it had a connection id."""

    def sent(self, connection: str, send: Send) -> None:
        """A response is about to be written."""

    def written(self, send: Send, *, making: float, writing: float) -> None:
        """A response was handed to the transport; the seconds of both steps."""

    def acknowledged(
        self, connection: str, info: TypeInfo, *, version: str, seconds: float, push: int
    ) -> None:
        """A response was acknowledged, so many seconds after it was taken for sending."""

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
        """A response was rejected; `culprits` is empty while they are being looked for."""

    def stale(self, connection: str, info: TypeInfo) -> None:
        """A request answered a response that is not the newest one."""

    def unserved(self, connection: str, type_url: str) -> None:
        """A request asked for a type that is not served."""

    def warming(self, connection: str, clusters: Sequence[str]) -> None:
        """Clusters were not acknowledged in time."""

    def failed(self, connection: str, error: Exception) -> None:
        """A stream, or a class where `connection` is empty, failed by a mistake of ours."""

    def published(self, *, push: int, classes: int, streams: int, reason: str) -> None:
        """A snapshot was published."""


class Reporters(Reporter):
    """Tells several reporters. What is told for each response goes only to those who listen."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters: Final = tuple(_flat(reporters))
        self._of_sent: Final = [one.sent for one in self._reporters if _hears(one, "sent")]
        self._of_written: Final = [one.written for one in self._reporters if _hears(one, "written")]
        self._of_acknowledged: Final = [
            one.acknowledged for one in self._reporters if _hears(one, "acknowledged")
        ]

    def connected(self, connection: str, proxy: Proxy, *, delta: bool) -> None:
        for reporter in self._reporters:
            reporter.connected(connection, proxy, delta=delta)

    def disconnected(self, connection: str, *, reason: str) -> None:
        for reporter in self._reporters:
            reporter.disconnected(connection, reason=reason)

    def refused(self, peer: str, *, reason: str) -> None:
        for reporter in self._reporters:
            reporter.refused(peer, reason=reason)

    def sent(self, connection: str, send: Send) -> None:
        for tell in self._of_sent:
            tell(connection, send)

    def written(self, send: Send, *, making: float, writing: float) -> None:
        for tell in self._of_written:
            tell(send, making=making, writing=writing)

    def acknowledged(
        self, connection: str, info: TypeInfo, *, version: str, seconds: float, push: int
    ) -> None:
        for tell in self._of_acknowledged:
            tell(connection, info, version=version, seconds=seconds, push=push)

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
        for reporter in self._reporters:
            reporter.rejected(
                connection, info, message=message, suspects=suspects, culprits=culprits, push=push
            )

    def stale(self, connection: str, info: TypeInfo) -> None:
        for reporter in self._reporters:
            reporter.stale(connection, info)

    def unserved(self, connection: str, type_url: str) -> None:
        for reporter in self._reporters:
            reporter.unserved(connection, type_url)

    def warming(self, connection: str, clusters: Sequence[str]) -> None:
        for reporter in self._reporters:
            reporter.warming(connection, clusters)

    def failed(self, connection: str, error: Exception) -> None:
        for reporter in self._reporters:
            reporter.failed(connection, error)

    def published(self, *, push: int, classes: int, streams: int, reason: str) -> None:
        for reporter in self._reporters:
            reporter.published(push=push, classes=classes, streams=streams, reason=reason)


def _flat(reporters: Iterable[Reporter]) -> Iterator[Reporter]:
    for reporter in reporters:
        if isinstance(reporter, Reporters):
            yield from reporter._reporters
        else:
            yield reporter


def _hears(reporter: Reporter, step: str) -> bool:
    """Whether a reporter does anything at a step."""
    return getattr(type(reporter), step) is not getattr(Reporter, step)

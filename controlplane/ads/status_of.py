"""Streams to plain values for readers (debug endpoints, proxy-status, metrics).

Reads only. The rule that is easy to break: the engine counts monotonic seconds, readers want
seconds since the epoch; `offset` is what lies between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from controlplane.ads.classes import Stream
from controlplane.ads.rejections import Rejection, Rejections
from controlplane.ads.status import ConnectionStatus, RejectionStatus, ServingStatus, WatchStatus
from controlplane.ads.virtual_hosts import Item
from controlplane.ads.watch import Watch
from controlplane.model.diagnostics import Diagnostic

_TOLD: Final = 50  # suspects of one type on one stream; more of them help nobody


def serving_status(
    streams: Iterable[Stream],
    rejections: Rejections,
    diagnostics: tuple[Diagnostic, ...],
    offset: float,
) -> ServingStatus:
    """Return the state of every stream, in the order of their connection ids."""
    found = [
        ConnectionStatus(
            connection_id=stream.connection,
            proxy=stream.proxy,
            proxy_class=stream.state.cls,
            peer=stream.peer,
            connected_at=stream.connected_at,
            delta=stream.delta,
            watches={
                kind.url: _watch_status(stream, watch, rejections, offset)
                for kind, watch in stream.session.watches.items()
            },
        )
        for stream in streams
    ]
    found.sort(key=lambda connection: connection.connection_id)
    return ServingStatus(connections=tuple(found), diagnostics=diagnostics)


def rejection_status(rejection: Rejection) -> RejectionStatus:
    """Return what is told about a rejection."""
    item, message = rejection.item, rejection.message
    if rejection.among > 1:
        message = f"one or several of {rejection.among} are rejected: {message}"
    return RejectionStatus(
        type_url=item.type.url,
        resource=item.name,
        version=rejection.version,
        message=message,
        objects=tuple(dict.fromkeys(origin.ref for origin in item.origins)),
    )


def undecided_of(stream: Stream, watch: Watch, rejections: Rejections) -> tuple[Rejection, ...]:
    """Return what a client rejects one or several of, and nobody can tell which."""
    build, undecided = stream.proxy.user_agent, watch.undecided
    return tuple(
        Rejection(item, build, watch.complaint, None, among=len(undecided))
        for item in islice(undecided, _TOLD)
        if _stands(watch, item, rejections)
    )


def undecided_findings(streams: Iterable[Stream], rejections: Rejections) -> Iterator[Diagnostic]:
    """Yield what is to be said about all that streams cannot decide, once for all of them."""
    found: dict[tuple[str, str, int, str], Rejection] = {}
    for stream in streams:
        if not stream.session.rejects:
            continue
        for watch in stream.session.watches.values():
            for one in undecided_of(stream, watch, rejections):
                key = (one.version, one.build, one.among, one.message)
                found.setdefault(key, one).nodes[stream.proxy.id] = None
    for one in found.values():
        yield from one.diagnostics()


def _watch_status(
    stream: Stream, watch: Watch, rejections: Rejections, offset: float
) -> WatchStatus:
    node, build = stream.proxy.id, stream.proxy.user_agent
    standing = (
        rejection
        for rejection in rejections.concerning(watch.info.kind, node, build)
        if _stands(watch, rejection.item, rejections)
    )
    return WatchStatus(
        type_url=watch.info.url,
        wildcard=watch.wildcard,
        names=watch.names.ordered,
        version_sent=watch.version_sent,
        version_acked=watch.version_acked,
        nonce_sent=watch.nonce_sent,
        nonce_acked=watch.nonce_acked,
        time_sent=watch.time_sent + offset if watch.time_sent else 0.0,
        time_acked=watch.time_acked + offset if watch.time_acked else 0.0,
        last_error=watch.error,
        rejections=tuple(
            map(rejection_status, (*standing, *undecided_of(stream, watch, rejections)))
        ),
    )


def _stands(watch: Watch, item: Item, rejections: Rejections) -> bool:
    """Whether something is still wanted, and the client does not hold it."""
    hosts = rejections.virtual_hosts
    return hosts.holds(watch.based, item) and not hosts.holds(watch.accepted, item)

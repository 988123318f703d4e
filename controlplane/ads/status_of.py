"""Streams to plain values for readers (debug endpoints, proxy-status, metrics).

Reads only. The rule that is easy to break: the engine counts monotonic seconds, readers want
seconds since the epoch; `offset` is what lies between.
"""

from __future__ import annotations

from collections.abc import Iterable

from controlplane.ads.classes import Stream
from controlplane.ads.rejections import Rejection, Rejections
from controlplane.ads.status import ConnectionStatus, RejectionStatus, ServingStatus, WatchStatus
from controlplane.ads.watch import Watch
from controlplane.model.diagnostics import Diagnostic


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
    item = rejection.item
    return RejectionStatus(
        type_url=item.type.url,
        resource=item.name,
        version=rejection.version,
        message=rejection.message,
        objects=tuple(dict.fromkeys(origin.ref for origin in item.origins)),
    )


def _watch_status(
    stream: Stream, watch: Watch, rejections: Rejections, offset: float
) -> WatchStatus:
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
            rejection_status(rejection)
            for rejection in rejections.concerning(
                watch.info.kind, stream.proxy.id, stream.proxy.user_agent
            )
            if rejections.virtual_hosts.holds(watch.based, rejection.item)
            and not rejections.virtual_hosts.holds(watch.accepted, rejection.item)
        ),
    )

"""syncz, adsz, connections, push_status: who is connected and how far each one is."""

from __future__ import annotations

import enum
from collections import defaultdict
from functools import partial
from typing import Any, Final

from controlplane.ads.status import ConnectionStatus, RejectionStatus, ServingStatus, WatchStatus
from controlplane.debug.context import asks_names_only
from controlplane.debug.render import timestamp
from controlplane.debug.views.request import Rendering, ViewRequest
from controlplane.model.diagnostics import Diagnostic
from controlplane.model.proxy import NEWEST_VERSION, Proxy
from controlplane.translate.resources import ResourceType

# istiod's field prefix in syncz, its short name in adsz, the column of proxy-status.
SHORT_TYPES: Final = {
    ResourceType.CLUSTER.url: ("cluster", "CDS"),
    ResourceType.LISTENER.url: ("listener", "LDS"),
    ResourceType.ENDPOINT.url: ("endpoint", "EDS"),
    ResourceType.ROUTE.url: ("route", "RDS"),
    "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig": ("extensionconfig", "ECDS"),
}


class SyncState(enum.StrEnum):
    """How far a proxy is with one resource type, in istioctl's words and REJECTED."""

    SYNCED = "SYNCED"
    NOT_SENT = "NOT SENT"
    STALE = "STALE"
    REJECTED = "REJECTED"


def sync_state(watch: WatchStatus | None) -> SyncState:
    """Return the state of one watch.

    A stream on which nothing was sent because the client already had the same version is
    synced, not "not sent".
    """
    if watch is None:
        return SyncState.NOT_SENT
    if watch.rejections:
        return SyncState.REJECTED
    if not watch.nonce_sent:
        # A version that is only acknowledged is what the client brought, perhaps an old one.
        has_it = watch.version_acked and watch.version_acked == watch.version_sent
        return SyncState.SYNCED if has_it else SyncState.NOT_SENT
    if watch.nonce_acked == watch.nonce_sent:
        return SyncState.SYNCED
    return SyncState.REJECTED if watch.last_error else SyncState.STALE


def syncz(request: ViewRequest) -> Rendering:
    """What was sent to each Envoy and what it acknowledged; `namespace` narrows.

    The name table that its agent asks for on a stream of its own is shown with the Envoy.
    """
    namespace = request.params.get("namespace", "")
    return partial(
        _statuses,
        [
            connection
            for connection in request.serving.connections
            if not namespace or connection.proxy.namespace == namespace
        ],
        request.cluster_id,
    )


def _statuses(connections: list[ConnectionStatus], cluster_id: str) -> list[dict[str, Any]]:
    agents = {entry.proxy.id: entry for entry in connections if asks_names_only(entry)}
    return [
        sync_status(connection, cluster_id, agents.get(connection.proxy.id))
        for connection in connections
        if not asks_names_only(connection)
    ]


def sync_status(
    connection: ConnectionStatus, cluster_id: str, agent: ConnectionStatus | None = None
) -> dict[str, Any]:
    """Return istiod's SyncStatus, with `connection_id`, `namespace` and `rejections` added.

    `agent` is the stream by which the agent of the proxy gets its name table.
    """
    proxy = connection.proxy
    watches = {**(agent.watches if agent is not None else {}), **connection.watches}
    data: dict[str, Any] = {
        "cluster_id": proxy.cluster_id or cluster_id,
        "proxy": proxy.name,
        "proxy_type": proxy.type.value,
        "proxy_version": _version(proxy),
        "istio_version": proxy.istio_version,
        "connection_id": connection.connection_id,
        "namespace": proxy.namespace,
        "delta": connection.delta,
    }
    for url, (prefix, _) in SHORT_TYPES.items():
        watch = connection.watches.get(url)
        if watch is not None:
            data[f"{prefix}_sent"] = watch.nonce_sent
            data[f"{prefix}_acked"] = watch.nonce_acked
    data["resources"] = {url: _watch(watch) for url, watch in sorted(watches.items())}
    data["rejections"] = [
        rejection_data(rejection)
        for _, watch in sorted(watches.items())
        for rejection in watch.rejections
    ]
    return data


def _watch(watch: WatchStatus) -> dict[str, Any]:
    return {
        "status": sync_state(watch).value,
        "sent": watch.nonce_sent,
        "acked": watch.nonce_acked,
        "versionSent": watch.version_sent,
        "versionAcked": watch.version_acked,
        "sentTime": timestamp(watch.time_sent),
        "ackedTime": timestamp(watch.time_acked),
        "lastError": watch.last_error,
    }


def rejection_data(rejection: RejectionStatus) -> dict[str, Any]:
    """Return what an Envoy refused and the objects that made it."""
    return {
        "type": SHORT_TYPES.get(rejection.type_url, ("", rejection.type_url))[1],
        "resource": rejection.resource,
        "version": rejection.version,
        "message": rejection.message,
        "objects": [str(ref) for ref in rejection.objects],
    }


def connections(request: ViewRequest) -> Rendering:
    """The connected clients."""
    return partial(_clients, [_client(entry) for entry in request.serving.connections])


def adsz(request: ViewRequest) -> Rendering:
    """The connected clients with what they told about themselves and what they watch."""
    if request.params.get("proxyID"):
        chosen: tuple[ConnectionStatus, ...] = (request.connection(),)
    else:
        chosen = request.serving.connections
    return partial(_full_clients, chosen)


def _full_clients(chosen: tuple[ConnectionStatus, ...]) -> dict[str, Any]:
    return _clients(
        [
            {
                **_client(connection),
                "labels": dict(connection.proxy.labels),
                "metadata": node_metadata(connection.proxy),
                "locality": _locality(connection.proxy.locality),
                "watches": {
                    SHORT_TYPES.get(url, ("", url))[1]: list(watch.names)
                    for url, watch in sorted(connection.watches.items())
                },
            }
            for connection in chosen
        ]
    )


def _clients(clients: list[dict[str, Any]]) -> dict[str, Any]:
    return {"totalClients": len(clients), "clients": clients}


def _client(connection: ConnectionStatus) -> dict[str, Any]:
    return {
        "connectionId": connection.connection_id,
        "connectedAt": timestamp(connection.connected_at),
        "address": connection.peer,
    }


def node_metadata(proxy: Proxy) -> dict[str, Any]:
    """Return the known node metadata under Istio's keys; what is empty is left out."""
    data = {
        "NAMESPACE": proxy.namespace,
        "SERVICE_ACCOUNT": proxy.service_account,
        "CLUSTER_ID": proxy.cluster_id,
        "NETWORK": proxy.network,
        "NODE_NAME": proxy.node_name,
        "INTERCEPTION_MODE": proxy.interception_mode,
        "ISTIO_VERSION": proxy.istio_version,
        "INSTANCE_IPS": ",".join(proxy.ips),
        "GENERATOR": proxy.generator,
        "USER_AGENT": proxy.user_agent,
        "DNS_CAPTURE": "true" if proxy.dns_capture else "",
        "POD_PORTS": [
            {"name": port.name, "containerPort": port.container_port, "protocol": port.protocol}
            for port in proxy.pod_ports
        ],
    }
    return {key: value for key, value in data.items() if value}


def _locality(text: str) -> dict[str, str]:
    return dict(zip(("region", "zone", "sub_zone"), text.split("/"), strict=False)) if text else {}


def _version(proxy: Proxy) -> str:
    if proxy.version == NEWEST_VERSION:
        return proxy.user_agent
    return ".".join(str(part) for part in proxy.version)


def push_status(request: ViewRequest) -> Rendering:
    """What sources, translation and proxies found wrong: `{code: {key: {proxy, message}}}`."""
    found = [
        *(("", diagnostic) for diagnostic in request.snapshot.diagnostics),
        *(("", diagnostic) for diagnostic in request.serving.diagnostics),
        *request.class_diagnostics(),
    ]
    return partial(_push_status, found)


def _push_status(found: list[tuple[str, Diagnostic]]) -> dict[str, dict[str, Any]]:
    metrics: dict[str, dict[str, Any]] = defaultdict(dict)
    for connection_id, diagnostic in found:
        key = " ".join(filter(None, (str(diagnostic.ref or ""), diagnostic.field)))
        entry = metrics[diagnostic.code].setdefault(key or diagnostic.file or "mesh", {})
        # Several things can be wrong with one field; istiod's shape has one text for it.
        before = f"{entry['message']}; " if entry else ""
        entry["message"] = before + diagnostic.message
        if connection_id:
            entry.setdefault("proxy", connection_id)
    return {code: metrics[code] for code in sorted(metrics)}


def rejected(serving: ServingStatus) -> tuple[tuple[ConnectionStatus, RejectionStatus], ...]:
    """Return every rejection that stands, with the connection it stands on."""
    return tuple(
        (connection, rejection)
        for connection in serving.connections
        for _, watch in sorted(connection.watches.items())
        for rejection in watch.rejections
    )

"""The HTTP connection manager: settings that all of Istio's have, and those of a direction.

Must not know what a listener is for beyond its `Direction`. The rule that is easy to break:
stat prefixes end in `;`, because the bootstrap's tag expressions look for it.
"""

from __future__ import annotations

from typing import Any, Final, assert_never

from controlplane.model.services import Protocol
from controlplane.translate import envoy
from controlplane.translate.access_log import access_logs
from controlplane.translate.filters import (
    HTTP_CONNECTION_MANAGER,
    Direction,
    http_filters,
    network_filter,
)
from controlplane.translate.listener_settings import ListenerSettings

SERVER_NAME: Final = "istio-envoy"


def http_connection_manager(
    settings: ListenerSettings,
    direction: Direction,
    *,
    stat_prefix: str,
    protocol: Protocol,
    route: str | Any,
    explicit_proxy: bool = False,
) -> Any:
    """Return the network filter that speaks HTTP (Istio's buildHTTPConnectionManager).

    `route` is the name to ask RDS for or a RouteConfiguration message to hold inline.
    `explicit_proxy` accepts absolute URLs, as clients of an HTTP proxy send them.
    """
    manager = envoy.HttpConnectionManager(
        codec_type="AUTO",
        stat_prefix=stat_prefix,
        http_filters=http_filters(direction, protocol, settings.extensions),
        access_log=access_logs(settings.access_log),
        use_remote_address=envoy.BoolValue(value=direction is Direction.GATEWAY),
        upgrade_configs=[envoy.HttpConnectionManager.UpgradeConfig(upgrade_type="websocket")],
        stream_idle_timeout=envoy.DurationMessage(),
        path_with_escaped_slashes_action="KEEP_UNCHANGED",
        proxy_100_continue=True,
    )
    manager.request_id_extension.typed_config.CopyFrom(
        envoy.pack(
            envoy.UuidRequestIdConfig(use_request_id_for_trace_sampling=envoy.BoolValue(value=True))
        )
    )
    if isinstance(route, str):
        manager.rds.CopyFrom(envoy.Rds(config_source=envoy.ads_source(), route_config_name=route))
    else:
        manager.route_config.CopyFrom(route)
    _normalize_paths(manager, settings)
    if settings.idle_timeout is not None:
        manager.common_http_protocol_options.idle_timeout.CopyFrom(
            envoy.duration(settings.idle_timeout)
        )
    if settings.http10:
        manager.http_protocol_options.accept_http_10 = True
    if explicit_proxy:
        manager.http_protocol_options.allow_absolute_url.value = True
    _apply_direction(manager, direction, protocol)
    return network_filter(HTTP_CONNECTION_MANAGER, manager)


def _normalize_paths(manager: Any, settings: ListenerSettings) -> None:
    match settings.normalization:
        case "NONE":
            manager.normalize_path.value = False
        case "DEFAULT" | "BASE":
            manager.normalize_path.value = True
        case "MERGE_SLASHES":
            manager.normalize_path.value = True
            manager.merge_slashes = True
        case "DECODE_AND_MERGE_SLASHES":
            manager.normalize_path.value = True
            manager.merge_slashes = True
            manager.path_with_escaped_slashes_action = (
                envoy.HttpConnectionManager.UNESCAPE_AND_FORWARD
            )
        case unknown:
            assert_never(unknown)


def _apply_direction(manager: Any, direction: Direction, protocol: Protocol) -> None:
    details = manager.set_current_client_cert_details
    match direction:
        case Direction.SIDECAR_OUTBOUND:
            return
        case Direction.SIDECAR_INBOUND:
            manager.forward_client_cert_details = envoy.HttpConnectionManager.APPEND_FORWARD
            if protocol.is_http2:
                manager.http2_protocol_options.SetInParent()
        case Direction.GATEWAY:
            manager.forward_client_cert_details = envoy.HttpConnectionManager.SANITIZE_SET
            details.cert = True
            manager.http_protocol_options.SetInParent()
        case unknown:
            assert_never(unknown)
    details.subject.value = True
    details.dns = True
    details.uri = True
    manager.server_name = SERVER_NAME

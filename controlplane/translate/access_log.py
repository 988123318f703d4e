"""Access logs as MeshConfig asks for them.

Owns the default formats and the file logger. Must not know which filters write a log. The rule
that is easy to break: the formats are visible on the wire, down to the closing newline (source:
Istio's model/telemetry_logging.go).
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from controlplane.model.base import Model
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.mesh import MeshConfig
from controlplane.translate import envoy

FILE_LOGGER: Final = "envoy.access_loggers.file"
REQUEST_WITHOUT_QUERY: Final = "envoy.formatter.req_without_query"

DEFAULT_TEXT: Final = (
    " ".join(
        (
            "[%START_TIME%]",
            '"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%"',
            "%RESPONSE_CODE%",
            "%RESPONSE_FLAGS%",
            "%RESPONSE_CODE_DETAILS%",
            "%CONNECTION_TERMINATION_DETAILS%",
            '"%UPSTREAM_TRANSPORT_FAILURE_REASON%"',
            "%BYTES_RECEIVED%",
            "%BYTES_SENT%",
            "%DURATION%",
            "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
            '"%REQ(X-FORWARDED-FOR)%"',
            '"%REQ(USER-AGENT)%"',
            '"%REQ(X-REQUEST-ID)%"',
            '"%REQ(:AUTHORITY)%"',
            '"%UPSTREAM_HOST%"',
            "%UPSTREAM_CLUSTER_RAW%",
            "%UPSTREAM_LOCAL_ADDRESS%",
            "%DOWNSTREAM_LOCAL_ADDRESS%",
            "%DOWNSTREAM_REMOTE_ADDRESS%",
            "%REQUESTED_SERVER_NAME%",
            "%ROUTE_NAME%",
        )
    )
    + "\n"
)
DEFAULT_JSON: Final = (
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
)


class AccessLogSettings(Model):
    """What MeshConfig says about access logs; an empty `path` means none."""

    path: str = ""
    encoding: Literal["TEXT", "JSON"] = "TEXT"
    format: str = ""
    of_listeners: bool = True


def access_log_settings(mesh: MeshConfig) -> AccessLogSettings:
    """Return the access log settings of a mesh, all equal when there is no log."""
    if not mesh.access_log_file:
        return AccessLogSettings()
    return AccessLogSettings(
        path=mesh.access_log_file,
        encoding=mesh.access_log_encoding,
        format=mesh.access_log_format,
        of_listeners=not mesh.disable_envoy_listener_log,
    )


def access_log_problems(mesh: MeshConfig) -> tuple[Diagnostic, ...]:
    """Return what is wrong with the log format; a JSON format that is none gives the default."""
    settings = access_log_settings(mesh)
    if settings.encoding == "TEXT" or not settings.format:
        return ()
    if _json_format(settings.format) is not None:
        return ()
    return (
        Diagnostic(
            level=Level.ERROR,
            code="InvalidAccessLogFormat",
            message="is not a JSON object; the default format is used",
            field="accessLogFormat",
        ),
    )


def access_logs(settings: AccessLogSettings) -> list[Any]:
    """Return the access logs of an HTTP connection manager or a TCP proxy."""
    return [_file_log(settings)] if settings.path else []


def listener_access_logs(settings: AccessLogSettings) -> list[Any]:
    """Return the access logs of a listener: of connections that match no filter chain.

    Everything else is logged by the filters, so only the response flag NR passes.
    """
    if not settings.path or not settings.of_listeners:
        return []
    log = _file_log(settings)
    log.filter.response_flag_filter.flags.append("NR")
    return [log]


def _file_log(settings: AccessLogSettings) -> Any:
    if settings.encoding == "JSON":
        fields = _json_format(settings.format) if settings.format else None
        structure = envoy.Struct()
        structure.update(dict(DEFAULT_JSON) if fields is None else fields)
        text = settings.format if fields is not None else ""
        form = envoy.SubstitutionFormatString(
            json_format=structure, json_format_options=envoy.JsonFormatOptions()
        )
    else:
        text = settings.format or DEFAULT_TEXT
        if not text.endswith("\n"):
            text += "\n"
        form = envoy.SubstitutionFormatString(
            text_format_source=envoy.DataSource(inline_string=text)
        )
    if "%REQ_WITHOUT_QUERY" in text:
        form.formatters.append(
            envoy.TypedExtensionConfig(
                name=REQUEST_WITHOUT_QUERY, typed_config=envoy.pack(envoy.ReqWithoutQuery())
            )
        )
    logger = envoy.FileAccessLog(path=settings.path, log_format=form)
    return envoy.AccessLog(name=FILE_LOGGER, typed_config=envoy.pack(logger))


def _json_format(text: str) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None
    return found if isinstance(found, dict) else None

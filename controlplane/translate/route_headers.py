"""Header operations, CORS and faults of a VirtualService route, as Envoy writes them.

Owns the parts of a route that are not its match and not its destination. Must not know
services. The rule that is easy to break: `Host` and `:authority` are never header operations
for Envoy; setting them rewrites the host.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from controlplane.model.matching import Percent
from controlplane.model.virtual_service import (
    CorsPolicy,
    FaultAbort,
    HeaderManipulation,
    Headers,
    HTTPFaultInjection,
)
from controlplane.translate import envoy
from controlplane.translate.header_formats import format_problem
from controlplane.translate.route_match import UnexpressibleError, one_line, string_matcher

FAULT_FILTER: Final = "envoy.filters.http.fault"
CORS_FILTER: Final = "envoy.filters.http.cors"
SECOND: Final = 1_000_000_000
_GRPC_STATUS: Final = {
    name: number
    for number, name in enumerate(
        "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS "
        "PERMISSION_DENIED RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE "
        "UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED".split()
    )
}
_OVERWRITE: Final = envoy.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_APPEND: Final = envoy.HeaderValueOption.APPEND_IF_EXISTS_OR_ADD


class HeaderOperations(NamedTuple):
    """The operations of one level, in Envoy's four lists, and the host that they set."""

    request_add: list[Any]
    request_remove: list[str]
    response_add: list[Any]
    response_remove: list[str]
    authority: str


def header_operations(headers: HeaderManipulation | None, field: str) -> HeaderOperations:
    """Return the operations of a route or of a destination; `set` comes before `add`.

    Raises UnexpressibleError for a name or value that Envoy refuses; `field` is the path of
    `headers`.
    """
    request = headers.request if headers is not None else None
    response = headers.response if headers is not None else None
    authority = ""
    if request is not None:
        authority = one_line(_authority(request.set) or _authority(request.add), f"{field}.request")
    return HeaderOperations(
        request_add=[
            *_options(request.set if request else None, _OVERWRITE, f"{field}.request.set"),
            *_options(request.add if request else None, _APPEND, f"{field}.request.add"),
        ],
        request_remove=_removable(request.remove if request else (), f"{field}.request.remove"),
        response_add=[
            *_options(response.set if response else None, _OVERWRITE, f"{field}.response.set"),
            *_options(response.add if response else None, _APPEND, f"{field}.response.add"),
        ],
        response_remove=_removable(response.remove if response else (), f"{field}.response.remove"),
        authority=authority,
    )


def add_header_operations(target: Any, operations: HeaderOperations) -> None:
    """Append operations to a Route or ClusterWeight, after those that it has."""
    target.request_headers_to_add.extend(operations.request_add)
    target.request_headers_to_remove.extend(operations.request_remove)
    target.response_headers_to_add.extend(operations.response_add)
    target.response_headers_to_remove.extend(operations.response_remove)


def build_cors(cors: CorsPolicy) -> Any:
    """Return the per-route CorsPolicy. An origin that cannot be expressed admits nobody."""
    out = envoy.CorsPolicy(
        allow_methods=",".join(cors.allow_methods),
        allow_headers=",".join(cors.allow_headers),
        expose_headers=",".join(cors.expose_headers),
        filter_enabled=envoy.RuntimeFractionalPercent(
            default_value=envoy.FractionalPercent(numerator=100)
        ),
        # Envoy's older behaviour, which Istio keeps unless told to ignore such requests.
        forward_not_matching_preflights=envoy.BoolValue(
            value=cors.unmatched_preflights != "IGNORE"
        ),
    )
    for origin in cors.allow_origins:
        try:
            out.allow_origin_string_match.append(string_matcher(origin, "allowOrigins"))
        except UnexpressibleError:
            continue
    if not cors.allow_origins:
        out.allow_origin_string_match.extend(
            envoy.StringMatcher(exact=origin) for origin in cors.allow_origin
        )
    if cors.allow_credentials is not None:
        out.allow_credentials.value = cors.allow_credentials
    if cors.max_age is not None:
        out.max_age = str(int(cors.max_age) // SECOND)
    return out


def build_fault(fault: HTTPFaultInjection) -> Any | None:
    """Return the per-route HTTPFault, None when nothing of it can be done."""
    out = envoy.HTTPFault()
    delay = fault.delay
    # Envoy refuses a delay of zero, which would do nothing anyway.
    if delay is not None and delay.fixed_delay is not None and delay.fixed_delay > 0:
        out.delay.fixed_delay.CopyFrom(envoy.duration(delay.fixed_delay))
        out.delay.percentage.CopyFrom(fractional_percent(delay.percentage, delay.percent))
    if fault.abort is not None:
        abort = _abort(fault.abort)
        if abort is not None:
            out.abort.CopyFrom(abort)
    return out if out.HasField("delay") or out.HasField("abort") else None


def fractional_percent(percentage: Percent | None, percent: int | None) -> Any:
    """Return a share of requests: parts per million of `percentage`, else whole `percent`."""
    if percentage is not None:
        return envoy.FractionalPercent(
            numerator=int(percentage.value * 10_000), denominator=envoy.FractionalPercent.MILLION
        )
    return envoy.FractionalPercent(numerator=max(0, min(100, percent or 0)))


def _abort(abort: FaultAbort) -> Any | None:
    percentage = fractional_percent(abort.percentage, abort.percent)
    if abort.http_status is not None:
        if not 200 <= abort.http_status <= 599:
            return None
        return envoy.FaultAbort(http_status=abort.http_status, percentage=percentage)
    status = _GRPC_STATUS.get(abort.grpc_status or "")
    if status is None:
        return None
    return envoy.FaultAbort(grpc_status=status, percentage=percentage)


def _options(headers: Headers | None, action: int, field: str) -> list[Any]:
    return [
        envoy.HeaderValueOption(
            header=envoy.HeaderValue(
                key=one_line(name, field), value=_header_value(value, f"{field}[{name}]")
            ),
            append_action=action,
        )
        for name, value in sorted((headers or {}).items())
        if not _is_internal(name)
    ]


def _header_value(value: str, field: str) -> str:
    """Return a value that Envoy can format; raises UnexpressibleError."""
    problem = format_problem(value)
    if problem is not None:
        raise UnexpressibleError(field, problem)
    return one_line(value, field)


def _removable(names: tuple[str, ...], field: str) -> list[str]:
    return [one_line(name, field) for name in names if not _is_internal(name)]


def _is_internal(name: str) -> bool:
    """Whether Envoy would refuse to change the header (or it has no name at all)."""
    return not name or name.startswith(":") or name.lower() == "host"


def _authority(headers: Headers | None) -> str:
    for name, value in sorted((headers or {}).items()):
        if name.lower() in (":authority", "host"):
            return value
    return ""

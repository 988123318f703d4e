"""What definitions say of structs beyond their types: the `oneof`s of Istio's API, old spellings.

The names are those on the wire. The rule that is easy to break: validation refuses two of them
as well, with its own sentence; what is here reaches those who validate against the CRD alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from controlplane.model.base import Model
from controlplane.model.destination_rule import ConsistentHashLB, LoadBalancerSettings
from controlplane.model.matching import StringMatch
from controlplane.model.virtual_service import (
    FaultAbort,
    FaultDelay,
    HTTPBody,
    HTTPRedirect,
    HTTPRoute,
)

OLD_SPELLINGS: Final[Mapping[type[Model], Mapping[str, str]]] = {
    HTTPRoute: {"mirror_percent": "mirrorPercent"},
}
"""Names that Istio's own definitions still have: an object in etcd keeps them. Validation names the
new one when somebody writes such an object."""

UNIONS: Final[Mapping[type[Model], tuple[tuple[str, ...], ...]]] = {
    StringMatch: (("exact", "prefix", "regex"),),
    HTTPRedirect: (("port", "derivePort"),),
    HTTPBody: (("string", "bytes"),),
    FaultDelay: (("fixedDelay", "exponentialDelay"),),
    FaultAbort: (("httpStatus", "grpcStatus", "http2Error"),),
    LoadBalancerSettings: (("simple", "consistentHash"),),
    ConsistentHashLB: (
        ("httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"),
        ("ringHash", "maglev"),
    ),
}
"""Fields of which at most one may be set."""

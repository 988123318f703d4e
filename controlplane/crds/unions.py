"""Fields of which at most one may be set, by struct: the `oneof`s of Istio's API.

The names are those on the wire. The rule that is easy to break: validation refuses two of them
as well, with its own sentence; what is here reaches those who validate against the CRD alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from controlplane.model.base import Model
from controlplane.model.destination_rule import ConsistentHashLB, LoadBalancerSettings
from controlplane.model.matching import StringMatch
from controlplane.model.virtual_service import FaultAbort, FaultDelay, HTTPBody, HTTPRedirect

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

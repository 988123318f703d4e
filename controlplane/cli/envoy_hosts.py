"""The rows of `pylot proxy-config endpoint` and `secret`.

Owns the state of endpoints and the reading of certificates. Must not know where a dump came
from. The rule that is easy to break: Envoy leaves health flags out of JSON when they are false.
"""

from __future__ import annotations

import base64
import binascii
import datetime
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from cryptography import x509

from controlplane.cli.envoy_dump import EnvoyDump, Message, Secret
from controlplane.cli.envoy_rows import Filter
from controlplane.model.names import parse_cluster

ENDPOINT_COLUMNS: Final = ("ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER")
SECRET_COLUMNS: Final = (
    "RESOURCE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE",
)  # fmt: skip
UNKNOWN: Final = "-"


class EndpointRow(NamedTuple):
    """One endpoint of one cluster; `outlier` is FAILED while outlier detection ejects it."""

    endpoint: str
    status: str
    outlier: str
    cluster: str


def endpoint_rows(dump: EnvoyDump, asked: Filter) -> list[EndpointRow]:
    """Return the endpoints that the filter lets through, by cluster, then address.

    From `/clusters` of a live Envoy, which knows health checks and outlier detection, else from
    the load assignments of the dump, which do not (`-`).
    """
    rows = _live(dump.statuses) if dump.statuses is not None else _assigned(dump.endpoints)
    return sorted((row for row in rows if _wanted(row, asked)), key=_order)


def _order(row: EndpointRow) -> tuple[str, str, int, str, str]:
    parts = parse_cluster(row.cluster)
    if parts is None:
        return row.cluster, "", 0, "", row.endpoint
    return parts.host, parts.subset, parts.port, parts.direction, row.endpoint


def _wanted(row: EndpointRow, asked: Filter) -> bool:
    address, _, port = row.endpoint.rpartition(":")
    return (
        asked.address.casefold() in ("", row.endpoint.casefold(), address.strip("[]").casefold())
        and str(asked.port or port) == port
        and asked.status.casefold() in ("", row.status.casefold())
        and asked.cluster.casefold() in ("", row.cluster.casefold())
    )


def _live(statuses: Iterable[Message]) -> Iterator[EndpointRow]:
    for cluster in statuses:
        for host in cluster.get("host_statuses", ()):
            health = host.get("health_status", {})
            ejected = health.get("failed_outlier_check", False)
            unhealthy = ejected or any(
                health.get(flag)
                for flag in ("failed_active_health_check", "failed_active_degraded_check")
            )
            status = health.get("eds_health_status", "UNKNOWN")
            yield EndpointRow(
                _address(host.get("address", {})),
                "UNHEALTHY" if unhealthy else str(status),
                "FAILED" if ejected else "OK",
                str(cluster.get("name", "")),
            )


def _assigned(assignments: Iterable[Message]) -> Iterator[EndpointRow]:
    for assignment in assignments:
        for locality in assignment.get("endpoints", ()):
            for entry in locality.get("lb_endpoints", ()):
                yield EndpointRow(
                    _address(entry.get("endpoint", {}).get("address", {})),
                    # An unset status is healthy to Envoy.
                    str(entry.get("health_status", "HEALTHY")),
                    UNKNOWN,
                    str(assignment.get("cluster_name", "")),
                )


def _address(address: Message) -> str:
    if socket := address.get("socket_address"):
        host = str(socket.get("address", ""))
        shown = f"[{host}]" if ":" in host else host
        return f"{shown}:{socket.get('port_value', 0)}"
    if path := address.get("pipe", {}).get("path"):
        return f"unix://{path}"
    if internal := address.get("envoy_internal_address"):
        name = internal.get("server_listener_name", "")
        return f"envoy://{name}/{internal.get('endpoint_id', '')}"
    return "unknown"


def secret_rows(
    secrets: Iterable[Secret], asked: Filter, *, now: datetime.datetime
) -> Iterator[tuple[object, ...]]:
    """Yield a row per secret with the facts of its first certificate."""
    for secret in sorted(secrets, key=lambda found: (found.name, found.status)):
        if asked.name not in ("", secret.name):
            continue
        kind, source = _certificate_source(secret.body)
        certificate = _certificate(source)
        if certificate is None:
            yield secret.name, kind, secret.status, "false", *(UNKNOWN,) * 3
            continue
        starts, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        yield (
            secret.name,
            kind,
            secret.status,
            str(starts <= now <= ends).lower(),
            f"{certificate.serial_number:x}",
            _moment(ends),
            _moment(starts),
        )


def _certificate_source(body: Message) -> tuple[str, Any]:
    if (chain := body.get("tls_certificate")) is not None:
        return "Cert Chain", chain.get("certificate_chain", {})
    if (context := body.get("validation_context")) is not None:
        return "CA", context.get("trusted_ca", {})
    return UNKNOWN, {}


def _certificate(source: Message) -> x509.Certificate | None:
    """The first certificate of a DataSource; None when it is elsewhere or cannot be read."""
    try:
        if text := source.get("inline_string"):
            data = str(text).encode()
        else:
            data = base64.b64decode(str(source.get("inline_bytes", "")), validate=True)
        return x509.load_pem_x509_certificates(data)[0]
    except (ValueError, binascii.Error, IndexError):
        return None


def _moment(value: datetime.datetime) -> str:
    return value.strftime("%Y-%m-%dT%H:%M:%SZ")

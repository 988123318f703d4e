"""The settings of `pylot serve`: frozen, made once from flags and environment."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from controlplane.errors import UsageError
from controlplane.model.base import Duration

MILLISECOND: Final = 1_000_000


class Address(msgspec.Struct, frozen=True):
    """Where a listener binds; `port` 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str, flag: str) -> Address | None:
    """Return the address that `HOST:PORT` says, None for an empty text (switched off).

    An empty host means all addresses. Raises UsageError naming the flag.
    """
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"{flag}: {text!r} is not of the form HOST:PORT")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise UsageError(f"{flag}: write the IPv6 address in brackets, [{host}]:{port}")
    return Address(host, int(port))


def parse_duration(text: str, flag: str) -> Duration:
    """Return the duration; raises UsageError naming the flag."""
    try:
        found = Duration.parse(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from None
    if found < 0:
        raise UsageError(f"{flag}: {text!r} is negative")
    return found


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `serve` can be told."""

    config_dirs: tuple[Path, ...] = ()
    mesh_config: Path | None = None
    kubernetes: bool = False
    kubeconfig: Path | None = None
    context: str = ""
    grpc_addr: Address | None = Address("", 15010)
    secure_grpc_addr: Address | None = Address("", 15012)
    http_addr: Address | None = Address("", 8080)
    monitoring_addr: Address | None = Address("", 15014)
    https_addr: Address | None = Address("", 15017)
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    ca_cert_file: Path | None = None
    inject_config: Path | None = None
    inject_values: Path | None = None
    domain: str = "cluster.local"
    cluster_id: str = "Kubernetes"
    revision: str = "default"
    root_namespace: str = "istio-system"
    debounce_after: Duration = Duration(100 * MILLISECOND)
    debounce_max: Duration = Duration(10_000 * MILLISECOND)
    write_status: bool = True
    lease_duration: Duration = Duration(15_000 * MILLISECOND)
    renew_deadline: Duration = Duration(10_000 * MILLISECOND)
    retry_period: Duration = Duration(2_000 * MILLISECOND)
    shutdown_duration: Duration = Duration(5_000 * MILLISECOND)
    debug_token_file: Path | None = None
    debug_insecure: bool = False

"""The settings of the agent: made once from flags, environment, annotations and files.

Owns the order in which they win (flag, annotation, PROXY_CONFIG, mesh file, default) and the
meaning of old arguments. Must not know processes and sockets.
Easy to break: a wrong value is refused with the name of where it was written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from controlplane.agent.bootstrap import (
    Bootstrap,
    EnvoyAddress,
    PipeAddress,
    SocketAddress,
)
from controlplane.agent.identity import PROXY_ID, Account, Identity
from controlplane.agent.pod import Pod, locality, node_metadata, service_cluster
from controlplane.agent.proxy_config import CONFIG_ANNOTATION, effective_config, yaml_object
from controlplane.agent.stats import StatsSettings, stats_settings
from controlplane.agent.values import duration, number, optional_path, truth
from controlplane.errors import UsageError
from controlplane.model.base import Duration, FrozenDict
from controlplane.model.mesh import ProxyConfig
from controlplane.model.proxy import ProxyType

SECOND: Final = 1_000_000_000
TLS_PORT: Final = 15012
PLAIN_PORT: Final = 15010
DRAIN_MINIMUM: Final = Duration(5 * SECOND)


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line said; empty means that it said nothing."""

    domain: str = ""
    config_path: str = ""
    binary_path: str = ""
    service_cluster: str = ""
    drain_duration: str = ""
    termination_drain_duration: str = ""
    discovery_address: str = ""
    dns_refresh_rate: str = ""
    connect_timeout: str = ""
    admin_port: str = ""
    admin_socket: str = ""
    concurrency: str = ""
    auth_policy: str = ""
    status_port: str = ""
    log_level: str = ""
    component_log_level: str = ""
    custom_config_file: str = ""
    id: str = ""
    uid: str = ""
    gid: str = ""
    sotw: bool = False


class DrainSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How an ending agent waits for connections to go: seconds.

    At least `minimum`, because others learn only a moment later that this pod is going, and at
    most `limit`. `envoy` is the time over which Envoy itself closes what is open.
    """

    minimum: float
    limit: float
    envoy: int


class ApplicationMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Where the application's metrics are."""

    port: int
    path: str


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one agent is told."""

    bootstrap: Bootstrap
    pod: Pod
    identity: Identity | None  # None: our own
    concurrency: int
    log_level: str
    component_log_level: str
    drain: DrainSettings
    connect_timeout: Duration
    dns_refresh_rate: Duration
    config_path: Path | None
    binary: Path | None
    custom_config: Path | None
    override: Path | None
    status_port: int
    dns_port: int  # 0: no DNS proxy
    runtime: FrozenDict[str, Any]
    stats: StatsSettings
    locality: str
    file_flush_milliseconds: int
    application_metrics: ApplicationMetrics | None
    probers: FrozenDict[str, Any]


class Made(NamedTuple):
    """The settings, and sentences about what was accepted without having a meaning."""

    settings: AgentSettings
    warnings: tuple[str, ...]


def make_settings(
    proxy_type: ProxyType,
    flags: Flags,
    *,
    pod: Pod,
    environment: Mapping[str, str],
    mesh_file: str = "",
    account: Account,
) -> Made:
    """Return the settings of an agent; raises UsageError when something cannot be understood."""
    raw, config = effective_config(
        mesh_file, environment.get("PROXY_CONFIG", ""), pod.annotations.get(CONFIG_ANNOTATION, "")
    )
    environment = {**(config.proxy_metadata or {}), **environment}
    warnings: list[str] = []
    xds = control_plane_address(flags, config, warnings)
    metadata = dict(node_metadata(pod, environment, proxy_config=raw))
    mode = str(metadata.get("INTERCEPTION_MODE", config.interception_mode)).upper()
    if proxy_type is ProxyType.SIDECAR:
        metadata.setdefault("INTERCEPTION_MODE", mode)
    status_port = number(flags.status_port, "--statusPort", default=config.status_port)
    admin_port = number(flags.admin_port, "--proxyAdminPort", default=config.proxy_admin_port)
    loopback = "::1" if all(":" in ip for ip in pod.ips) else "127.0.0.1"
    admin: EnvoyAddress = SocketAddress(host=loopback, port=admin_port)
    if flags.admin_socket:
        admin = PipeAddress(path=flags.admin_socket)
    bootstrap = Bootstrap(
        proxy_type=proxy_type,
        ip=pod.ips[0],
        name=flags.id or node_name(pod),
        xds=xds,
        admin=admin,
        dns_domain=flags.domain or f"{pod.namespace or 'default'}.svc.cluster.local",
        cluster=flags.service_cluster
        or str(raw.get("serviceCluster", ""))
        or service_cluster(
            pod,
            str(metadata.get("WORKLOAD_NAME", "")),
            how=config.tracing_service_name or "",
        ),
        metadata=FrozenDict(metadata),
        delta=not flags.sotw and truth(environment.get("ISTIO_DELTA_XDS", "true")),
        prometheus_port=number(
            environment.get("ENVOY_PROMETHEUS_PORT", ""), "ENVOY_PROMETHEUS_PORT", default=15090
        ),
        status_port=number(
            environment.get("ENVOY_STATUS_PORT", ""), "ENVOY_STATUS_PORT", default=15021
        )
        if status_port
        else 0,
        agent_port=status_port,
    )
    settings = AgentSettings(
        bootstrap=bootstrap,
        pod=pod,
        identity=proxy_identity(
            flags,
            environment,
            account=account,
            # A router captures nothing, whatever the mesh's default is.
            transparent=mode == "TPROXY" and proxy_type is ProxyType.SIDECAR,
        ),
        concurrency=concurrency(flags, config, environment, proxy_type=proxy_type),
        log_level=flags.log_level or "warning",
        component_log_level=flags.component_log_level or "misc:error",
        drain=drain_settings(flags, raw, config, environment),
        connect_timeout=duration(flags.connect_timeout, "--connectTimeout", default=SECOND),
        dns_refresh_rate=duration(flags.dns_refresh_rate, "--dnsRefreshRate", default=5 * SECOND),
        config_path=optional_path(flags.config_path or str(raw.get("configPath", ""))),
        binary=optional_path(flags.binary_path or str(raw.get("binaryPath", ""))),
        custom_config=optional_path(flags.custom_config_file or config.custom_config_file),
        override=optional_path(environment.get("ISTIO_BOOTSTRAP_OVERRIDE", "")),
        status_port=status_port,
        dns_port=dns_port(metadata),
        runtime=FrozenDict(config.runtime_values or {}),
        stats=stats_settings(config, pod.annotations),
        locality=locality(pod),
        file_flush_milliseconds=round((config.file_flush_interval or Duration(SECOND)) / 1_000_000),
        application_metrics=application_metrics(environment, pod),
        probers=FrozenDict(
            yaml_object(environment.get("ISTIO_KUBE_APP_PROBERS", ""), "ISTIO_KUBE_APP_PROBERS")
        ),
    )
    return Made(settings, tuple(warnings))


def control_plane_address(flags: Flags, config: ProxyConfig, warnings: list[str]) -> EnvoyAddress:
    """Return where the control plane serves plaintext; raises UsageError.

    `unix:PATH` is a socket. The port of TLS is replaced by that of plaintext, with a warning.
    """
    text = flags.discovery_address or config.discovery_address
    if text.startswith("unix:"):
        return PipeAddress(path=text.removeprefix("unix:").removeprefix("//"))
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"the discovery address {text!r} is not of the form HOST:PORT")
    chosen = int(port)
    policy = (flags.auth_policy or config.control_plane_auth_policy).upper()
    if chosen == TLS_PORT and policy != "NONE":
        chosen = PLAIN_PORT
        warnings.append(
            f"the control plane at {text} is asked without TLS on port {PLAIN_PORT}: this agent "
            "has no certificates yet"
        )
    return SocketAddress(host=host.removeprefix("[").removesuffix("]"), port=chosen)


def node_name(pod: Pod) -> str:
    """`POD.NAMESPACE`, the third part of a node id."""
    name = pod.name or pod.ips[0]
    return f"{name}.{pod.namespace or 'default'}"


def proxy_identity(
    flags: Flags, environment: Mapping[str, str], *, account: Account, transparent: bool
) -> Identity | None:
    """Return as whom Envoy runs, None for our own user, which is all that others than root can.

    With TPROXY it keeps root's number and one capability: a socket that takes over foreign
    addresses needs it.
    """
    uid = flags.uid or environment.get("PROXY_UID", "")
    gid = flags.gid or environment.get("PROXY_GID", "")
    if account.uid != 0:
        return None
    capabilities = ("net_admin",) if transparent else ()
    identity = Identity(
        uid=number(uid, "--proxyUid", default=0 if transparent else PROXY_ID, most=2**32 - 2),
        gid=number(gid, "--proxyGid", default=PROXY_ID, most=2**32 - 2),
        capabilities=capabilities,
    )
    return None if (identity.uid, identity.gid) == account else identity


def concurrency(
    flags: Flags, config: ProxyConfig, environment: Mapping[str, str], *, proxy_type: ProxyType
) -> int:
    """Return the number of worker threads; 0 means one for each processor.

    The CPU limit decides when nobody says a number; without one a sidecar gets 2.
    """
    if flags.concurrency:
        return number(flags.concurrency, "--concurrency", default=0)
    if config.concurrency is not None:
        return config.concurrency
    limit = environment.get("ISTIO_CPU_LIMIT", "")
    if limit:
        return number(limit, "ISTIO_CPU_LIMIT", default=0)
    return 0 if proxy_type is ProxyType.ROUTER else 2


def drain_settings(
    flags: Flags,
    raw: Mapping[str, Any],
    config: ProxyConfig,
    environment: Mapping[str, str],
) -> DrainSettings:
    """Return how the agent ends.

    The longest it waits is terminationDrainDuration where that is said, else what
    `--drainDuration` says, else 5 s. EXIT_ON_ZERO_ACTIVE_CONNECTIONS gives connections the whole
    drainDuration. MINIMUM_DRAIN_DURATION is the least, 5 s as in Istio, and never more than the
    longest.
    """
    envoy = duration(flags.drain_duration, "--drainDuration", default=config.drain_duration)
    on_zero = truth(
        environment.get("EXIT_ON_ZERO_ACTIVE_CONNECTIONS")
        or environment.get("ISTIO_META_EXIT_ON_ZERO_ACTIVE_CONNECTIONS", "")
    )
    named = "TERMINATION_DRAIN_DURATION_SECONDS"
    if on_zero:
        limit = envoy
    elif flags.termination_drain_duration:
        limit = duration(
            flags.termination_drain_duration, "--terminationDrainDuration", default=SECOND
        )
    elif environment.get(named):
        limit = Duration(number(environment[named], named, default=5) * SECOND)
    elif "terminationDrainDuration" in raw:
        limit = config.termination_drain_duration
    else:
        limit = envoy if flags.drain_duration else config.termination_drain_duration
    minimum = duration(
        environment.get("MINIMUM_DRAIN_DURATION", ""),
        "MINIMUM_DRAIN_DURATION",
        default=DRAIN_MINIMUM,
    )
    return DrainSettings(
        minimum=min(minimum, limit) / SECOND, limit=limit / SECOND, envoy=math.ceil(envoy / SECOND)
    )


def dns_port(metadata: Mapping[str, Any]) -> int:
    """Return the port of the DNS proxy, 0 when DNS is not captured; raises UsageError."""
    if not truth(str(metadata.get("DNS_CAPTURE", ""))):
        return 0
    _, _, port = str(metadata.get("DNS_PROXY_ADDR", "localhost:15053")).rpartition(":")
    return number(port, "DNS_PROXY_ADDR", default=15053)


def application_metrics(environment: Mapping[str, str], pod: Pod) -> ApplicationMetrics | None:
    """Return where the application's metrics are, None when it has none to be merged.

    ISTIO_PROMETHEUS_ANNOTATIONS says what the pod's annotations were before the injection.
    """
    name = "ISTIO_PROMETHEUS_ANNOTATIONS"
    said = yaml_object(environment.get(name, ""), name)
    if not truth(str(said.get("scrape", "") or "false")):
        return None
    return ApplicationMetrics(
        port=number(str(said.get("port") or ""), f"{name}: port", default=80),
        path=str(said.get("path") or "/metrics"),
    )

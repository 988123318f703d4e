"""The bootstrap and the command line of the agent's Envoy.

Owns what an agent adds to the bootstrap of a plain Envoy: locality, runtime values, limits, how
soon Envoy asks an absent control plane again.
Must not know the environment.
Easy to break: Envoy doubles the pause between two attempts to reach the control plane up to 30 s
by default; an agent that comes first would be ready that late.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from controlplane.agent.bootstrap import (
    XDS_CLUSTER,
    build_bootstrap,
    thawed,
)
from controlplane.agent.settings import AgentSettings
from controlplane.agent.stats import add_stats

PROFILE: Final = "/var/lib/istio/data/envoy.prof"
"""Where Envoy's profiler writes: the one directory that a sidecar of ours may write to."""
MOST_CONNECTIONS: Final = "overload.global_downstream_max_connections"
"""Runtime value of the most connections that clients may have; above it new ones are closed."""


def agent_bootstrap(settings: AgentSettings) -> dict[str, Any]:
    """Return the bootstrap as plain data: proto3 JSON of envoy.config.bootstrap.v3.Bootstrap."""
    made = build_bootstrap(settings.bootstrap)
    if settings.locality:
        names = ("region", "zone", "sub_zone")
        parts = [part for part in settings.locality.split("/") if part][:3]
        made["node"]["locality"] = dict(zip(names, parts, strict=False))
    for cluster in made["static_resources"]["clusters"]:
        if cluster["name"] == XDS_CLUSTER:
            cluster["connect_timeout"] = str(settings.connect_timeout)
            if cluster["type"] == "STRICT_DNS":
                cluster["dns_refresh_rate"] = str(settings.dns_refresh_rate)
                cluster["dns_failure_refresh_rate"] = {
                    "base_interval": "1s",
                    "max_interval": str(settings.dns_refresh_rate),
                }
                cluster["respect_dns_ttl"] = True
    if all(":" in ip for ip in settings.pod.ips):
        for listener in made["static_resources"]["listeners"]:
            listener["address"]["socket_address"]["address"] = "::"
    made["admin"]["profile_path"] = PROFILE
    add_stats(made, settings.stats, prometheus_port=settings.bootstrap.prometheus_port)
    made["layered_runtime"]["layers"][0]["static_layer"].update(thawed(settings.runtime))
    most = settings.runtime.get(MOST_CONNECTIONS)
    if most is not None:
        made["overload_manager"] = connection_limit(most)
    return made


def connection_limit(most: str) -> dict[str, Any]:
    """An envoy.config.overload.v3.OverloadManager for the most connections of clients."""
    monitor = "envoy.resource_monitors.global_downstream_max_connections"
    return {
        "resource_monitors": [
            {
                "name": monitor,
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.resource_monitors"
                    ".downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": most,
                },
            }
        ]
    }


def agent_bootstrap_json(settings: AgentSettings) -> bytes:
    """Return the bootstrap as the JSON text that `envoy -c FILE.json` reads."""
    return msgspec.json.format(msgspec.json.encode(agent_bootstrap(settings)), indent=2)


def envoy_arguments(settings: AgentSettings, config: Path, *, override: str = "") -> list[str]:
    """Return the arguments of Envoy; `override` is YAML or JSON that is merged over the file."""
    version = "v6" if all(":" in ip for ip in settings.pod.ips) else "v4"
    words = ["-c", str(config), "--disable-hot-restart", "--allow-unknown-static-fields"]
    words += ["--drain-time-s", str(max(1, settings.drain.envoy)), "--drain-strategy", "immediate"]
    words += ["--local-address-ip-version", version]
    words += ["--file-flush-interval-msec", str(settings.file_flush_milliseconds)]
    words += ["-l", settings.log_level]
    if settings.component_log_level:
        words += ["--component-log-level", settings.component_log_level]
    if settings.concurrency:
        words += ["--concurrency", str(settings.concurrency)]
    if override:
        words += ["--config-yaml", override]
    return words

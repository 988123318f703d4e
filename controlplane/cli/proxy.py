"""`pylot proxy`: the command line of the agent.

Owns how the arguments of every generation of pilot-agent are read. Must not know what they do.
Easy to break: an argument that means nothing any more is accepted with a warning, with its value
as the next word or after `=`; a pod template of an old installation must still start.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand

from controlplane.cli import proxy_flags as flag
from controlplane.cli.proxy_flags import OBSOLETE, REASONS

HELP: Final = """
Run an Envoy for a pod or a gateway: bootstrap, health, metrics, DNS, drain.

Takes the flags and the environment of pilot-agent: POD_NAME, POD_NAMESPACE, INSTANCE_IP,
SERVICE_ACCOUNT, ISTIO_META_*, ISTIO_METAJSON_*, PROXY_CONFIG, the files /etc/istio/pod/labels and
/etc/istio/pod/annotations. A flag wins over the annotation proxy.istio.io/config, that over
PROXY_CONFIG, that over the mesh config file.

\b
In a pod:
  pylot proxy sidecar --domain $(POD_NAMESPACE).svc.cluster.local
On any machine, against a control plane on the same one:
  POD_NAME=web POD_NAMESPACE=default INSTANCE_IP=127.0.0.1 \\
    pylot proxy sidecar --discoveryAddress 127.0.0.1:15010
See the bootstrap without running anything:
  pylot proxy sidecar --bootstrap-only

Envoy runs as user and group 1337 when the agent is root. SIGTERM drains: Envoy asks its clients to
go elsewhere, and ends when they are gone or the time (--drainDuration) is over.

Exit code 0: ended as told. 1: Envoy or a port could not be had. 2: an argument is wrong.
"""

WARNINGS: Final = "controlplane.proxy.warnings"
_TRUTH: Final = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_LEVELS: Final = {
    "debug": "debug",
    "info": "info",
    "warn": "warning",
    "warning": "warning",
    "error": "error",
    "fatal": "error",
    "none": "error",
}


class ProxyCommand(TyperCommand):
    """The command that takes leave of obsolete arguments before the others are read."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Drop what means nothing, and read truth values as Go writes them (`--flag=true`)."""
        kept, warnings = without_obsolete(args)
        ctx.meta[WARNINGS] = warnings
        switches = {
            name
            for parameter in self.params
            if getattr(parameter, "is_flag", False)
            for name in parameter.opts
        }
        return super().parse_args(ctx, plain_switches(kept, switches))


def without_obsolete(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments that have a meaning, and a warning for each other one."""
    kept: list[str] = []
    warnings: list[str] = []
    words = iter(args)
    for word in words:
        name, equals, _ = word.partition("=")
        if name not in OBSOLETE:
            kept.append(word)
            continue
        if OBSOLETE[name] and not equals:
            next(words, None)
        reason = REASONS.get(name)
        warnings.append(f"{name} has no effect" + (f": {reason}" if reason else ""))
    return kept, warnings


def plain_switches(args: Sequence[str], switches: set[str]) -> list[str]:
    """Return the arguments with `--switch=true` as `--switch`, and without `--switch=false`."""
    made: list[str] = []
    for word in args:
        name, equals, value = word.partition("=")
        if equals and name in switches and value.lower() in _TRUTH:
            made += [name] if _TRUTH[value.lower()] else []
        else:
            made.append(word)
    return made


def log_level(text: str) -> Any:
    """Return our log level of istio's `level` or `scope:level,default:level`.

    Raises UsageError when there is no such level.
    """
    from controlplane.errors import UsageError

    found = "info"
    for part in filter(None, text.split(",")):
        scope, colon, level = part.rpartition(":")
        if level not in _LEVELS:
            raise UsageError(f"--log_output_level: {level!r} is none of {', '.join(_LEVELS)}")
        if not colon or scope in ("default", "all"):
            found = _LEVELS[level]
    return found


def register(app: typer.Typer) -> None:
    """Add the command to a Typer application."""
    app.command(
        "proxy", cls=ProxyCommand, help=HELP, short_help="Run an Envoy for a pod or a gateway."
    )(proxy)


def proxy(
    ctx: typer.Context,
    role: Annotated[str, typer.Argument(help="sidecar or router.", metavar="ROLE")] = "sidecar",
    *,
    domain: flag.Domain = "",
    discovery_address: flag.DiscoveryAddress = "",
    service_cluster: flag.ServiceCluster = "",
    concurrency: flag.Concurrency = "",
    drain_duration: flag.DrainDuration = "",
    termination_drain_duration: flag.TerminationDrainDuration = "",
    proxy_admin_port: flag.ProxyAdminPort = "",
    proxy_admin_socket: flag.ProxyAdminSocket = "",
    status_port: flag.StatusPort = "",
    config_path: flag.ConfigPath = "",
    binary_path: flag.BinaryPath = "",
    custom_config_file: flag.CustomConfigFile = "",
    mesh_config: flag.MeshConfig = Path("./etc/istio/config/mesh"),
    proxy_log_level: flag.ProxyLogLevel = "",
    proxy_component_log_level: flag.ProxyComponentLogLevel = "",
    log_output_level: flag.LogOutputLevel = "",
    log_as_json: flag.LogAsJson = False,
    connect_timeout: flag.ConnectTimeout = "",
    dns_refresh_rate: flag.DnsRefreshRate = "",
    auth_policy: flag.AuthPolicy = "",
    instance_ip: flag.InstanceIp = "",
    instance_id: flag.InstanceId = "",
    proxy_uid: flag.ProxyUid = "",
    proxy_gid: flag.ProxyGid = "",
    sotw: flag.Sotw = False,
    pod_directory: flag.PodDirectory = Path("/etc/istio/pod"),
    bootstrap_only: flag.BootstrapOnly = False,
) -> None:
    """See HELP."""
    from controlplane.agent.agent_bootstrap import agent_bootstrap_json
    from controlplane.agent.identity import own_account
    from controlplane.agent.pod import read_pod
    from controlplane.agent.probes import parse_probers
    from controlplane.agent.settings import Flags, make_settings
    from controlplane.errors import UsageError
    from controlplane.logs import configure
    from controlplane.model.proxy import ProxyType

    if role not in (ProxyType.SIDECAR, ProxyType.ROUTER):
        raise UsageError(f"a proxy is a sidecar or a router, not {role!r}")
    level = log_level(log_output_level)
    flags = Flags(
        domain=domain,
        config_path=config_path,
        binary_path=binary_path,
        service_cluster=service_cluster,
        drain_duration=drain_duration,
        termination_drain_duration=termination_drain_duration,
        discovery_address=discovery_address,
        dns_refresh_rate=dns_refresh_rate,
        connect_timeout=connect_timeout,
        admin_port=proxy_admin_port,
        admin_socket=proxy_admin_socket,
        concurrency=concurrency,
        auth_policy=auth_policy,
        status_port=status_port,
        log_level=proxy_log_level,
        component_log_level=proxy_component_log_level,
        custom_config_file=custom_config_file,
        id=instance_id,
        uid=proxy_uid,
        gid=proxy_gid,
        sotw=sotw,
    )
    settings, warnings = make_settings(
        ProxyType(role),
        flags,
        pod=read_pod(os.environ, directory=pod_directory, ip=instance_ip),
        environment=os.environ,
        mesh_file=text_of(mesh_config),
        account=own_account(),
    )
    for warning in (*ctx.meta.get(WARNINGS, ()), *warnings):
        typer.echo(f"Warning: {warning}", err=True)
    parse_probers(settings.probers)
    if bootstrap_only:
        typer.echo(agent_bootstrap_json(settings))
        return
    import asyncio

    from controlplane.agent.run import run_agent

    configure(level, "json" if log_as_json else "console")
    asyncio.run(run_agent(settings))


def text_of(file: Path) -> str:
    """The text of a file that need not be there; raises UsageError when it cannot be read."""
    from controlplane.errors import UsageError

    try:
        return file.read_text("utf-8") if file.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--meshConfig: {file} cannot be read: {error}") from None

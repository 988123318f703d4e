"""`pylot proxy`: the command line of the agent.

Owns the arguments of every generation of pilot-agent. Must not know what they do.
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

# Arguments without a meaning today, and whether a value follows.
OBSOLETE: Final = {
    **dict.fromkeys(
        "--applicationPorts --availabilityZone --controlPlaneBootstrap --ctrlz_address "
        "--ctrlz_port --datadogAgentAddress --envoyAccessLogService --envoyMetricsService "
        "--discoveryRefreshDelay --kubeAppProberConfig --lightstepAccessToken "
        "--lightstepAddress --lightstepCacertPath "
        "--log_rotate --log_rotate_max_age --log_rotate_max_backups --log_rotate_max_size "
        "--log_stacktrace_level --log_target --mixerIdentity --outlierLogPath "
        "--parentShutdownDuration --pilotIdentity --proxyLogPath --registry --serviceregistry "
        "--statsdUdpAddress --stsPort --templateFile --tlsCertsToWatch --tokenManagerPlugin "
        "--trust-domain --tracingServiceName --vklog --zipkinAddress".split(),
        True,
    ),
    **dict.fromkeys(
        "--bootstrapv2 --disableInternalTelemetry --lightstepSecure --log_caller --profiling "
        "--proxyBootstrapTemplate".split(),
        False,
    ),
}
REASONS: Final = {
    "--parentShutdownDuration": "Envoy is not restarted hot",
    "--stsPort": "there is no token exchange",
    "--zipkinAddress": "tracing is a matter of the control plane",
    "--trust-domain": "this agent has no certificates yet",
    "--applicationPorts": "readiness no longer depends on the application's ports",
}
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


def option(name: str, about: str, *, metavar: str = "TEXT") -> Any:
    """An option with a value; the agent itself judges it, so that the sentence is ours."""
    return typer.Option(name, help=about, metavar=metavar, show_default=False)


def register(app: typer.Typer) -> None:
    """Add the command to a Typer application."""
    app.command(
        "proxy", cls=ProxyCommand, help=HELP, short_help="Run an Envoy for a pod or a gateway."
    )(proxy)


def proxy(
    ctx: typer.Context,
    role: Annotated[str, typer.Argument(help="sidecar or router.", metavar="ROLE")] = "sidecar",
    *,
    domain: Annotated[str, option("--domain", "DNS domain of the pod: NAMESPACE.svc.DOMAIN.")] = "",
    discovery_address: Annotated[
        str,
        option("--discoveryAddress", "The control plane.", metavar="HOST:PORT|unix:PATH"),
    ] = "",
    service_cluster: Annotated[
        str, option("--serviceCluster", "Name of the service in traces and statistics.")
    ] = "",
    concurrency: Annotated[
        str, option("--concurrency", "Worker threads; 0: one per processor.", metavar="NUMBER")
    ] = "",
    drain_duration: Annotated[
        str,
        option("--drainDuration", "How long connections may take to go.", metavar="DURATION"),
    ] = "",
    termination_drain_duration: Annotated[
        str,
        option("--terminationDrainDuration", "The same, for the agent alone.", metavar="DURATION"),
    ] = "",
    proxy_admin_port: Annotated[
        str, option("--proxyAdminPort", "Envoy's admin interface, 15000.", metavar="PORT")
    ] = "",
    proxy_admin_socket: Annotated[
        str, option("--proxyAdminSocket", "A unix socket for it instead.", metavar="PATH")
    ] = "",
    status_port: Annotated[
        str,
        option("--statusPort", "The agent's own port, 15020; 0: none.", metavar="PORT"),
    ] = "",
    config_path: Annotated[
        str, option("--configPath", "Directory for the bootstrap.", metavar="DIR")
    ] = "",
    binary_path: Annotated[str, option("--binaryPath", "Envoy's program.", metavar="FILE")] = "",
    custom_config_file: Annotated[
        str, option("--customConfigFile", "A bootstrap to use instead.", metavar="FILE")
    ] = "",
    mesh_config: Annotated[
        Path,
        typer.Option("--meshConfig", help="File with MeshConfig, read for its defaultConfig."),
    ] = Path("./etc/istio/config/mesh"),
    proxy_log_level: Annotated[
        str, option("--proxyLogLevel", "Envoy's log level.", metavar="LEVEL")
    ] = "",
    proxy_component_log_level: Annotated[
        str, option("--proxyComponentLogLevel", "The same by component: misc:error,...")
    ] = "",
    log_output_level: Annotated[
        str, option("--log_output_level", "The agent's log level.", metavar="LEVEL")
    ] = "",
    log_as_json: Annotated[
        bool, typer.Option("--log_as_json", help="The agent's log as JSON.")
    ] = False,
    connect_timeout: Annotated[
        str,
        option("--connectTimeout", "For the control plane's connection.", metavar="DURATION"),
    ] = "",
    dns_refresh_rate: Annotated[
        str,
        option("--dnsRefreshRate", "For the control plane's name.", metavar="DURATION"),
    ] = "",
    auth_policy: Annotated[
        str,
        option("--controlPlaneAuthPolicy", "NONE or MUTUAL_TLS.", metavar="POLICY"),
    ] = "",
    instance_ip: Annotated[
        str, option("--ip", "Address of the pod, for INSTANCE_IP.", metavar="IP")
    ] = "",
    instance_id: Annotated[
        str, option("--id", "Name in the node id, for POD_NAME.POD_NAMESPACE.")
    ] = "",
    proxy_uid: Annotated[
        str, option("--proxyUid", "User of Envoy when we are root, 1337.", metavar="UID")
    ] = "",
    proxy_gid: Annotated[
        str, option("--proxyGid", "Group of Envoy when we are root, 1337.", metavar="GID")
    ] = "",
    sotw: Annotated[
        bool, typer.Option("--sotw", help="State-of-the-world xDS in the place of delta.")
    ] = False,
    pod_directory: Annotated[
        Path, typer.Option("--pod-directory", help="Files of the downward API.", hidden=True)
    ] = Path("/etc/istio/pod"),
    bootstrap_only: Annotated[
        bool, typer.Option("--bootstrap-only", help="Print the bootstrap, and run nothing.")
    ] = False,
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

"""The flags of `pylot proxy`: those of today, one type for each, and those without a meaning.

Owns: the two tables. Must not know what a flag does.
Easy to break: the names are those of pilot-agent, and an argument of any generation stands in one
of the tables; a name that is dropped stops the pods of an old installation from starting.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

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


def option(name: str, about: str, *, metavar: str = "TEXT") -> Any:
    """An option with a value; the agent itself judges it, so that the sentence is ours."""
    return typer.Option(name, help=about, metavar=metavar, show_default=False)


Domain = Annotated[str, option("--domain", "DNS domain of the pod: NAMESPACE.svc.DOMAIN.")]
DiscoveryAddress = Annotated[
    str, option("--discoveryAddress", "The control plane.", metavar="HOST:PORT|unix:PATH")
]
ServiceCluster = Annotated[
    str, option("--serviceCluster", "Name of the service in traces and statistics.")
]
Concurrency = Annotated[
    str, option("--concurrency", "Worker threads; 0: one per processor.", metavar="NUMBER")
]
DrainDuration = Annotated[
    str, option("--drainDuration", "How long connections may take to go.", metavar="DURATION")
]
TerminationDrainDuration = Annotated[
    str, option("--terminationDrainDuration", "The same, for the agent alone.", metavar="DURATION")
]
ProxyAdminPort = Annotated[
    str, option("--proxyAdminPort", "Envoy's admin interface, 15000.", metavar="PORT")
]
ProxyAdminSocket = Annotated[
    str, option("--proxyAdminSocket", "A unix socket for it instead.", metavar="PATH")
]
StatusPort = Annotated[
    str, option("--statusPort", "The agent's own port, 15020; 0: none.", metavar="PORT")
]
ConfigPath = Annotated[str, option("--configPath", "Directory for the bootstrap.", metavar="DIR")]
BinaryPath = Annotated[str, option("--binaryPath", "Envoy's program.", metavar="FILE")]
CustomConfigFile = Annotated[
    str, option("--customConfigFile", "A bootstrap to use instead.", metavar="FILE")
]
MeshConfig = Annotated[
    Path, typer.Option("--meshConfig", help="File with MeshConfig, read for its defaultConfig.")
]
ProxyLogLevel = Annotated[str, option("--proxyLogLevel", "Envoy's log level.", metavar="LEVEL")]
ProxyComponentLogLevel = Annotated[
    str, option("--proxyComponentLogLevel", "The same by component: misc:error,...")
]
LogOutputLevel = Annotated[
    str, option("--log_output_level", "The agent's log level.", metavar="LEVEL")
]
LogAsJson = Annotated[bool, typer.Option("--log_as_json", help="The agent's log as JSON.")]
ConnectTimeout = Annotated[
    str, option("--connectTimeout", "For the control plane's connection.", metavar="DURATION")
]
DnsRefreshRate = Annotated[
    str, option("--dnsRefreshRate", "For the control plane's name.", metavar="DURATION")
]
AuthPolicy = Annotated[
    str, option("--controlPlaneAuthPolicy", "NONE or MUTUAL_TLS.", metavar="POLICY")
]
InstanceIp = Annotated[str, option("--ip", "Address of the pod, for INSTANCE_IP.", metavar="IP")]
InstanceId = Annotated[str, option("--id", "Name in the node id, for POD_NAME.POD_NAMESPACE.")]
ProxyUid = Annotated[
    str, option("--proxyUid", "User of Envoy when we are root, 1337.", metavar="UID")
]
ProxyGid = Annotated[
    str, option("--proxyGid", "Group of Envoy when we are root, 1337.", metavar="GID")
]
Sotw = Annotated[bool, typer.Option("--sotw", help="State-of-the-world xDS in the place of delta.")]
PodDirectory = Annotated[
    Path, typer.Option("--pod-directory", help="Files of the downward API.", hidden=True)
]
BootstrapOnly = Annotated[
    bool, typer.Option("--bootstrap-only", help="Print the bootstrap, and run nothing.")
]

"""The flags of `pylot iptables`, one type for each: its names, its variable, what it is for.

Owns: the table, in the order of the help page.
Must not know: what a flag does, nor its default, which stands at the command.
Easy to break: the names are those of istio-iptables, and pod templates use the short ones.
"""

from typing import Annotated

from controlplane.cli.iptables_options import (
    DNS,
    INBOUND,
    OUTBOUND,
    RUN,
    WHERE,
    switch_option,
    text_option,
)

# Where captured connections go.
EnvoyPort = Annotated[
    str,
    text_option(
        "-p",
        "--envoy-port",
        metavar="PORT",
        panel=WHERE,
        about="Port of the proxy's outbound listener.",
    ),
]
InboundCapturePort = Annotated[
    str,
    text_option(
        "-z",
        "--inbound-capture-port",
        metavar="PORT",
        panel=WHERE,
        env="INBOUND_CAPTURE_PORT",
        about="Port of the proxy's inbound listener; never that of -p.",
    ),
]
InboundTunnelPort = Annotated[
    str,
    text_option(
        "-e",
        "--inbound-tunnel-port",
        metavar="PORT",
        panel=WHERE,
        env="INBOUND_TUNNEL_PORT",
        about="Port of the proxy's tunnel (HBONE), which is reached directly.",
    ),
]
ProxyUid = Annotated[
    str,
    text_option(
        "-u",
        "--proxy-uid",
        metavar="USERS",
        panel=WHERE,
        env="PROXY_UID",
        about="The proxy's users, which are not captured: numbers or names, separated by "
        "commas. By default the user ENVOY_USER (istio-proxy), else 1337.",
    ),
]
ProxyGid = Annotated[
    str,
    text_option(
        "-g",
        "--proxy-gid",
        metavar="GROUPS",
        panel=WHERE,
        env="PROXY_GID",
        about="The proxy's groups, which are not captured; by default the numbers of -u.",
    ),
]
Mode = Annotated[
    str,
    text_option(
        "-m",
        "--istio-inbound-interception-mode",
        metavar="MODE",
        panel=WHERE,
        env="ISTIO_INBOUND_INTERCEPTION_MODE",
        about="REDIRECT changes the destination; TPROXY keeps the caller's address too, and "
        "needs a proxy with CAP_NET_ADMIN.",
    ),
]
TproxyMark = Annotated[
    str,
    text_option(
        "-t",
        "--istio-inbound-tproxy-mark",
        metavar="MARK",
        panel=WHERE,
        env="ISTIO_INBOUND_TPROXY_MARK",
        about="TPROXY: mark of captured packets.",
    ),
]
TproxyRouteTable = Annotated[
    str,
    text_option(
        "-r",
        "--istio-inbound-tproxy-route-table",
        metavar="TABLE",
        panel=WHERE,
        env="ISTIO_INBOUND_TPROXY_ROUTE_TABLE",
        about="TPROXY: routing table of captured packets.",
    ),
]

# Inbound.
InboundPorts = Annotated[
    str,
    text_option(
        "-b",
        "--istio-inbound-ports",
        metavar="PORTS",
        panel=INBOUND,
        env="ISTIO_INBOUND_PORTS",
        about="Inbound ports to capture: 8080,9000:9010 or '*' for all.",
    ),
]
ExcludeInboundPorts = Annotated[
    str,
    text_option(
        "-d",
        "--istio-local-exclude-ports",
        metavar="PORTS",
        panel=INBOUND,
        env="ISTIO_LOCAL_EXCLUDE_PORTS",
        about="With -b '*': inbound ports not to capture.",
    ),
]
ExcludeInterfaces = Annotated[
    str,
    text_option(
        "-c",
        "--istio-exclude-interfaces",
        metavar="NAMES",
        panel=INBOUND,
        env="ISTIO_EXCLUDE_INTERFACES",
        about="Network interfaces not to capture, inbound and outbound.",
    ),
]
VirtualInterfaces = Annotated[
    str,
    text_option(
        "-k",
        "--kube-virt-interfaces",
        metavar="NAMES",
        panel=INBOUND,
        env="KUBE_VIRT_INTERFACES",
        about="Interfaces of virtual machines inside the pod: what comes in from them is "
        "captured as outbound.",
    ),
]
DropInvalid = Annotated[
    bool,
    switch_option(
        "--drop-invalid",
        panel=INBOUND,
        env="INVALID_DROP",
        about="Drop packets that belong to no known connection, instead of having them "
        "answered with a reset.",
    ),
]

# Outbound.
OutboundRanges = Annotated[
    str,
    text_option(
        "-i",
        "--istio-service-cidr",
        metavar="RANGES",
        panel=OUTBOUND,
        env="ISTIO_SERVICE_CIDR",
        about="Outbound address ranges to capture: 10.0.0.0/8,fd00::/8 or '*' for all.",
    ),
]
ExcludeOutboundRanges = Annotated[
    str,
    text_option(
        "-x",
        "--istio-service-exclude-cidr",
        metavar="RANGES",
        panel=OUTBOUND,
        env="ISTIO_SERVICE_EXCLUDE_CIDR",
        about="Outbound address ranges not to capture; wins over -i and -q.",
    ),
]
OutboundPorts = Annotated[
    str,
    text_option(
        "-q",
        "--istio-outbound-ports",
        metavar="PORTS",
        panel=OUTBOUND,
        env="ISTIO_OUTBOUND_PORTS",
        about="Outbound ports to capture towards any address, beside what -i captures.",
    ),
]
ExcludeOutboundPorts = Annotated[
    str,
    text_option(
        "-o",
        "--istio-local-outbound-ports-exclude",
        metavar="PORTS",
        panel=OUTBOUND,
        env="ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE",
        about="Outbound ports not to capture; wins over everything.",
    ),
]
OwnerGroups = Annotated[
    str,
    text_option(
        "--outbound-owner-groups",
        metavar="GROUPS",
        panel=OUTBOUND,
        env="ISTIO_OUTBOUND_OWNER_GROUPS",
        about="Only the connections of these groups' processes are captured; '*' for all.",
    ),
]
ExcludeOwnerGroups = Annotated[
    str,
    text_option(
        "--outbound-owner-groups-exclude",
        metavar="GROUPS",
        panel=OUTBOUND,
        env="ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE",
        about="Groups whose processes' connections are not captured.",
    ),
]
LoopbackRange = Annotated[
    str,
    text_option(
        "--outbound-ipv4-loopback-cidr",
        metavar="RANGE",
        panel=OUTBOUND,
        env="ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR",
        about="IPv4 addresses that mean the application itself.",
    ),
]

# DNS.
RedirectDns = Annotated[
    bool,
    switch_option(
        "--redirect-dns",
        panel=DNS,
        env="ISTIO_META_DNS_CAPTURE",
        about="Send queries to the host's DNS servers (UDP and TCP) to the agent, port 15053.",
    ),
]
CaptureAllDns = Annotated[
    bool,
    switch_option(
        "--capture-all-dns",
        panel=DNS,
        env="CAPTURE_ALL_DNS",
        about="With --redirect-dns: queries to any server.",
    ),
]

# How it runs.
DualStack = Annotated[
    bool,
    switch_option(
        "--dual-stack",
        env="ISTIO_DUAL_STACK",
        about="Make IPv6 rules on a host that has IPv4 addresses too.",
    ),
]
DryRun = Annotated[
    bool,
    switch_option(
        "--dry-run",
        "-n",
        env="DRY_RUN",
        about="Change nothing; print the input of iptables-restore, '# ipv4' then '# ipv6', or "
        "with --native-nftables that of nft.",
    ),
]
CleanupOnly = Annotated[
    bool,
    switch_option(
        "--cleanup-only",
        env="CLEANUP_ONLY",
        about="Take away every rule and route of an earlier run, whatever its flags were.",
    ),
]
NetworkNamespace = Annotated[
    str,
    text_option(
        "--network-namespace",
        metavar="NAME",
        panel=RUN,
        env="NETWORK_NAMESPACE",
        about="Work in this network namespace: a name of `ip netns`, or a path.",
    ),
]
ForceIptablesBinary = Annotated[
    str,
    text_option(
        "--force-iptables-binary",
        metavar="VARIANT",
        panel=RUN,
        env="FORCE_IPTABLES_BINARY",
        about="nft or legacy: use iptables-nft or iptables-legacy, not the host's default.",
    ),
]
NativeNftables = Annotated[
    bool,
    switch_option(
        "--native-nftables",
        env="NATIVE_NFTABLES",
        about="Make tables of nftables with nft, in the place of rules of iptables.",
    ),
]
ForceApply = Annotated[
    bool,
    switch_option(
        "--force-apply", env="FORCE_APPLY", about="Load the rules even when they are in place."
    ),
]
SkipRuleApply = Annotated[
    bool, switch_option("--skip-rule-apply", env="SKIP_RULE_APPLY", about="Do not load rules.")
]
RunValidation = Annotated[
    bool,
    switch_option(
        "--run-validation",
        env="RUN_VALIDATION",
        about="Afterwards make a connection and see that it is captured.",
    ),
]
ProbePort = Annotated[
    str,
    text_option(
        "--iptables-probe-port",
        metavar="PORT",
        panel=RUN,
        env="IPTABLES_PROBE_PORT",
        about="Port that --run-validation connects to.",
    ),
]
ProbeTimeout = Annotated[
    str,
    text_option(
        "--probe-timeout",
        metavar="TIME",
        panel=RUN,
        env="PROBE_TIMEOUT",
        about="How long --run-validation waits, as 500ms, 5s or 1m.",
    ),
]
CniMode = Annotated[
    bool,
    switch_option(
        "--cni-mode",
        env="CNI_MODE",
        about="For a CNI plugin: do not wait for iptables of other pods on the host.",
    ),
]

# Of istio-iptables, without a meaning here.
Reconcile = Annotated[bool, switch_option("--reconcile", hidden=True, about="Always so.")]
RestoreFormat = Annotated[
    bool, switch_option("--restore-format", "-f", hidden=True, about="Always so.")
]
TraceLogging = Annotated[
    bool, switch_option("--iptables-trace-logging", hidden=True, about="Has no effect.")
]
HostNsenterExec = Annotated[
    bool, switch_option("--host-nsenter-exec", hidden=True, about="Always so.")
]
LogOutputLevel = Annotated[
    str, text_option("--log_output_level", panel=RUN, hidden=True, about="Has no effect.")
]
LogAsJson = Annotated[bool, switch_option("--log_as_json", hidden=True, about="Has no effect.")]

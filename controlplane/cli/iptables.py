"""`pylot iptables`: the command line of traffic capture.

Owns: the flags of istio-iptables by short and long name, their environment variables, and what is
printed.
Must not know: rules. Flags become text in `CaptureFlags`, and are judged in one place there.
Easy to break: flags are strings even where they are numbers, so that a wrong one is refused by our
own sentence, and all the wrong ones at once.
"""

import os
import pwd
import re
from typing import Annotated, Final, NoReturn

import typer

from controlplane.capture.apply import apply, clean, cleaning_texts
from controlplane.capture.config import (
    Accepted,
    CaptureFlags,
    CaptureSettings,
    Refused,
    parse_flags,
)
from controlplane.capture.errors import CaptureError
from controlplane.capture.facts import dns_servers, has_ipv6, reachable_addresses
from controlplane.capture.render import restore_text
from controlplane.capture.rules import Family, capture_rules
from controlplane.capture.shell import Shell, Variant
from controlplane.capture.validation import validate
from controlplane.cli.iptables_options import (
    DNS,
    HELP,
    INBOUND,
    OUTBOUND,
    RUN,
    SHORT_HELP,
    WHERE,
    IptablesCommand,
    switch_option,
    text_option,
)
from controlplane.errors import PylotError, UsageError

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0}


def register(app: typer.Typer) -> None:
    """Add the command to a Typer application."""
    app.command("iptables", cls=IptablesCommand, help=HELP, short_help=SHORT_HELP)(iptables)


def iptables(
    *,
    envoy_port: Annotated[
        str,
        text_option(
            "-p",
            "--envoy-port",
            metavar="PORT",
            panel=WHERE,
            about="Port of the proxy's outbound listener.",
        ),
    ] = "15001",
    inbound_capture_port: Annotated[
        str,
        text_option(
            "-z",
            "--inbound-capture-port",
            metavar="PORT",
            panel=WHERE,
            env="INBOUND_CAPTURE_PORT",
            about="Port of the proxy's inbound listener; never that of -p.",
        ),
    ] = "15006",
    inbound_tunnel_port: Annotated[
        str,
        text_option(
            "-e",
            "--inbound-tunnel-port",
            metavar="PORT",
            panel=WHERE,
            env="INBOUND_TUNNEL_PORT",
            about="Port of the proxy's tunnel (HBONE), which is reached directly.",
        ),
    ] = "15008",
    proxy_uid: Annotated[
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
    ] = "",
    proxy_gid: Annotated[
        str,
        text_option(
            "-g",
            "--proxy-gid",
            metavar="GROUPS",
            panel=WHERE,
            env="PROXY_GID",
            about="The proxy's groups, which are not captured; by default the numbers of -u.",
        ),
    ] = "",
    mode: Annotated[
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
    ] = "REDIRECT",
    tproxy_mark: Annotated[
        str,
        text_option(
            "-t",
            "--istio-inbound-tproxy-mark",
            metavar="MARK",
            panel=WHERE,
            env="ISTIO_INBOUND_TPROXY_MARK",
            about="TPROXY: mark of captured packets.",
        ),
    ] = "1337",
    tproxy_route_table: Annotated[
        str,
        text_option(
            "-r",
            "--istio-inbound-tproxy-route-table",
            metavar="TABLE",
            panel=WHERE,
            env="ISTIO_INBOUND_TPROXY_ROUTE_TABLE",
            about="TPROXY: routing table of captured packets.",
        ),
    ] = "133",
    inbound_ports: Annotated[
        str,
        text_option(
            "-b",
            "--istio-inbound-ports",
            metavar="PORTS",
            panel=INBOUND,
            env="ISTIO_INBOUND_PORTS",
            about="Inbound ports to capture: 8080,9000:9010 or '*' for all.",
        ),
    ] = "",
    exclude_inbound_ports: Annotated[
        str,
        text_option(
            "-d",
            "--istio-local-exclude-ports",
            metavar="PORTS",
            panel=INBOUND,
            env="ISTIO_LOCAL_EXCLUDE_PORTS",
            about="With -b '*': inbound ports not to capture.",
        ),
    ] = "",
    exclude_interfaces: Annotated[
        str,
        text_option(
            "-c",
            "--istio-exclude-interfaces",
            metavar="NAMES",
            panel=INBOUND,
            env="ISTIO_EXCLUDE_INTERFACES",
            about="Network interfaces not to capture, inbound and outbound.",
        ),
    ] = "",
    virtual_interfaces: Annotated[
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
    ] = "",
    drop_invalid: Annotated[
        bool,
        switch_option(
            "--drop-invalid",
            panel=INBOUND,
            env="INVALID_DROP",
            about="Drop packets that belong to no known connection, instead of having them "
            "answered with a reset.",
        ),
    ] = False,
    outbound_ranges: Annotated[
        str,
        text_option(
            "-i",
            "--istio-service-cidr",
            metavar="RANGES",
            panel=OUTBOUND,
            env="ISTIO_SERVICE_CIDR",
            about="Outbound address ranges to capture: 10.0.0.0/8,fd00::/8 or '*' for all.",
        ),
    ] = "",
    exclude_outbound_ranges: Annotated[
        str,
        text_option(
            "-x",
            "--istio-service-exclude-cidr",
            metavar="RANGES",
            panel=OUTBOUND,
            env="ISTIO_SERVICE_EXCLUDE_CIDR",
            about="Outbound address ranges not to capture; wins over -i and -q.",
        ),
    ] = "",
    outbound_ports: Annotated[
        str,
        text_option(
            "-q",
            "--istio-outbound-ports",
            metavar="PORTS",
            panel=OUTBOUND,
            env="ISTIO_OUTBOUND_PORTS",
            about="Outbound ports to capture towards any address, beside what -i captures.",
        ),
    ] = "",
    exclude_outbound_ports: Annotated[
        str,
        text_option(
            "-o",
            "--istio-local-outbound-ports-exclude",
            metavar="PORTS",
            panel=OUTBOUND,
            env="ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE",
            about="Outbound ports not to capture; wins over everything.",
        ),
    ] = "",
    owner_groups: Annotated[
        str,
        text_option(
            "--outbound-owner-groups",
            metavar="GROUPS",
            panel=OUTBOUND,
            env="ISTIO_OUTBOUND_OWNER_GROUPS",
            about="Only the connections of these groups' processes are captured; '*' for all.",
        ),
    ] = "*",
    exclude_owner_groups: Annotated[
        str,
        text_option(
            "--outbound-owner-groups-exclude",
            metavar="GROUPS",
            panel=OUTBOUND,
            env="ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE",
            about="Groups whose processes' connections are not captured.",
        ),
    ] = "",
    loopback_range: Annotated[
        str,
        text_option(
            "--outbound-ipv4-loopback-cidr",
            metavar="RANGE",
            panel=OUTBOUND,
            env="ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR",
            about="IPv4 addresses that mean the application itself.",
        ),
    ] = "127.0.0.1/32",
    redirect_dns: Annotated[
        bool,
        switch_option(
            "--redirect-dns",
            panel=DNS,
            env="ISTIO_META_DNS_CAPTURE",
            about="Send queries to the host's DNS servers (UDP and TCP) to the agent, port 15053.",
        ),
    ] = False,
    capture_all_dns: Annotated[
        bool,
        switch_option(
            "--capture-all-dns",
            panel=DNS,
            env="CAPTURE_ALL_DNS",
            about="With --redirect-dns: queries to any server.",
        ),
    ] = False,
    dual_stack: Annotated[
        bool,
        switch_option(
            "--dual-stack",
            env="ISTIO_DUAL_STACK",
            about="Make IPv6 rules on a host that has IPv4 addresses too.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        switch_option(
            "--dry-run",
            "-n",
            env="DRY_RUN",
            about="Change nothing; print the input of iptables-restore, '# ipv4' then '# ipv6'.",
        ),
    ] = False,
    cleanup_only: Annotated[
        bool,
        switch_option(
            "--cleanup-only",
            env="CLEANUP_ONLY",
            about="Take away every rule and route of an earlier run, whatever its flags were.",
        ),
    ] = False,
    network_namespace: Annotated[
        str,
        text_option(
            "--network-namespace",
            metavar="NAME",
            panel=RUN,
            env="NETWORK_NAMESPACE",
            about="Work in this network namespace: a name of `ip netns`, or a path.",
        ),
    ] = "",
    force_iptables_binary: Annotated[
        str,
        text_option(
            "--force-iptables-binary",
            metavar="VARIANT",
            panel=RUN,
            env="FORCE_IPTABLES_BINARY",
            about="nft or legacy: use iptables-nft or iptables-legacy, not the host's default.",
        ),
    ] = "",
    force_apply: Annotated[
        bool,
        switch_option(
            "--force-apply", env="FORCE_APPLY", about="Load the rules even when they are in place."
        ),
    ] = False,
    skip_rule_apply: Annotated[
        bool,
        switch_option("--skip-rule-apply", env="SKIP_RULE_APPLY", about="Do not load rules."),
    ] = False,
    run_validation: Annotated[
        bool,
        switch_option(
            "--run-validation",
            env="RUN_VALIDATION",
            about="Afterwards make a connection and see that it is captured.",
        ),
    ] = False,
    probe_port: Annotated[
        str,
        text_option(
            "--iptables-probe-port",
            metavar="PORT",
            panel=RUN,
            env="IPTABLES_PROBE_PORT",
            about="Port that --run-validation connects to.",
        ),
    ] = "15002",
    probe_timeout: Annotated[
        str,
        text_option(
            "--probe-timeout",
            metavar="TIME",
            panel=RUN,
            env="PROBE_TIMEOUT",
            about="How long --run-validation waits, as 500ms, 5s or 1m.",
        ),
    ] = "5s",
    cni_mode: Annotated[
        bool,
        switch_option(
            "--cni-mode",
            env="CNI_MODE",
            about="For a CNI plugin: do not wait for iptables of other pods on the host.",
        ),
    ] = False,
    reconcile: Annotated[
        bool,
        switch_option("--reconcile", hidden=True, about="Always so."),
    ] = True,
    restore_format: Annotated[
        bool, switch_option("--restore-format", "-f", hidden=True, about="Always so.")
    ] = True,
    trace_logging: Annotated[
        bool,
        switch_option("--iptables-trace-logging", hidden=True, about="Has no effect."),
    ] = False,
    host_nsenter_exec: Annotated[
        bool, switch_option("--host-nsenter-exec", hidden=True, about="Always so.")
    ] = False,
    native_nftables: Annotated[
        bool, switch_option("--native-nftables", hidden=True, about="Not available.")
    ] = False,
    log_output_level: Annotated[
        str, text_option("--log_output_level", panel=RUN, hidden=True, about="Has no effect.")
    ] = "",
    log_as_json: Annotated[
        bool, switch_option("--log_as_json", hidden=True, about="Has no effect.")
    ] = False,
) -> None:
    """Send a pod's connections through its sidecar, by iptables."""
    try:
        if native_nftables:
            raise UsageError(
                "--native-nftables is not available; leave it out, iptables-nft makes nftables "
                "rules too"
            )
        if trace_logging:
            _warn("--iptables-trace-logging has no effect any more")
        shell = Shell(
            namespace=network_namespace,
            variant=_variant(force_iptables_binary),
            own_xtables_lock=cni_mode,
        )
        if cleanup_only:
            _clean(shell, dry_run=dry_run)
            return
        flags = CaptureFlags(
            envoy_port=envoy_port,
            inbound_capture_port=inbound_capture_port,
            inbound_tunnel_port=inbound_tunnel_port,
            proxy_uid=proxy_uid or _default_user(),
            proxy_gid=proxy_gid,
            mode=mode,
            tproxy_mark=tproxy_mark,
            tproxy_route_table=tproxy_route_table,
            inbound_ports=inbound_ports,
            exclude_inbound_ports=exclude_inbound_ports,
            outbound_ports=outbound_ports,
            exclude_outbound_ports=exclude_outbound_ports,
            outbound_ranges=outbound_ranges,
            exclude_outbound_ranges=exclude_outbound_ranges,
            exclude_interfaces=exclude_interfaces,
            virtual_interfaces=virtual_interfaces,
            owner_groups=owner_groups,
            exclude_owner_groups=exclude_owner_groups,
            loopback_range=loopback_range,
            redirect_dns=redirect_dns,
            capture_all_dns=capture_all_dns,
            drop_invalid=drop_invalid,
            ipv6=has_ipv6(os.environ, shell, dual_stack=dual_stack),
            dns_servers=dns_servers(os.environ) if redirect_dns and not capture_all_dns else (),
        )
        settings = _accepted(flags)
        probe = _probe(probe_port, probe_timeout)
        if run_validation and network_namespace:
            raise UsageError("--run-validation works in this process's own namespace only")
        if dry_run:
            for family in Family:
                _show(family, restore_text(capture_rules(settings, family)))
            return
        if not skip_rule_apply:
            outcome = apply(settings, shell, force=force_apply)
            families = "IPv4 and IPv6" if settings.ipv6 else "IPv4"
            typer.echo(
                f"capture rules loaded ({families})"
                if outcome.changed
                else f"capture rules already in place ({families})"
            )
        if run_validation:
            _validate(settings, shell, *probe)
    except UsageError as error:
        _fail(str(error), code=2)
    except PylotError as error:
        _fail(str(error), code=1)


def _accepted(flags: CaptureFlags) -> CaptureSettings:
    match parse_flags(flags):
        case Accepted(settings, warnings):
            for warning in warnings:
                _warn(warning)
            return settings
        case Refused(problems):
            for problem in problems[:-1]:
                _complain(problem)
            _fail(problems[-1], code=2)


def _clean(shell: Shell, *, dry_run: bool) -> None:
    if dry_run:
        for family, text in cleaning_texts(shell).items():
            _show(family, text)
        return
    outcome = clean(shell)
    typer.echo("capture rules removed" if outcome.changed else "there are no capture rules")


def _validate(settings: CaptureSettings, shell: Shell, port: int, timeout: float) -> None:
    addresses = reachable_addresses(shell)
    if not settings.ipv6:
        addresses = [address for address in addresses if ":" not in address]
    if not addresses:
        raise CaptureError("validation needs an address other than that of the loopback interface")
    validate(settings, addresses[0], port=port, timeout=timeout)
    typer.echo(f"capture works: a connection to {addresses[0]} arrived at the proxy's port")


def _variant(text: str) -> Variant:
    match text:
        case "" | "nft" | "legacy":
            return text
        case "iptables-nft":
            return "nft"
        case "iptables-legacy":
            return "legacy"
        case _:
            raise UsageError(f"--force-iptables-binary: {text!r} is neither nft nor legacy")


def _probe(port: str, timeout: str) -> tuple[int, float]:
    found = _DURATION.fullmatch(timeout)
    if found is None:
        raise UsageError(f"--probe-timeout: {timeout!r} is not a time; use 500ms, 5s or 1m")
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise UsageError(
            f"--iptables-probe-port: {port!r} is not a port; use a number from 1 to 65535"
        )
    return int(port), float(found[1]) * _SECONDS[found[2]]


def _default_user() -> str:
    try:
        return str(pwd.getpwnam(os.environ.get("ENVOY_USER") or "istio-proxy").pw_uid)
    except KeyError:
        return "1337"


def _show(family: Family, text: str) -> None:
    typer.echo(f"# {family.value}\n{text}", nl=False)


def _warn(sentence: str) -> None:
    typer.echo(f"pylot iptables: warning: {sentence}", err=True)


def _complain(sentence: str) -> None:
    typer.echo(f"pylot iptables: {sentence}", err=True)


def _fail(sentence: str, *, code: int) -> NoReturn:
    _complain(sentence)
    raise typer.Exit(code)

"""`pylot iptables`: the command line of traffic capture.

Owns: the defaults of the flags, what is printed and the exit code.
Must not know: rules. Flags become text in `CaptureFlags`, and are judged in one place there.
Easy to break: flags are strings even where they are numbers, so that a wrong one is refused by our
own sentence, and all the wrong ones at once.
"""

import os
import pwd
import re
from typing import Final, NoReturn

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
from controlplane.capture.nftables import native_text
from controlplane.capture.render import restore_text
from controlplane.capture.rules import Family, capture_rules
from controlplane.capture.shell import Shell, Variant
from controlplane.capture.validation import validate
from controlplane.cli import iptables_flags as flag
from controlplane.cli.iptables_options import HELP, SHORT_HELP, IptablesCommand
from controlplane.errors import PylotError, UsageError

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)")
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0}


def register(app: typer.Typer) -> None:
    """Add the command to a Typer application."""
    app.command("iptables", cls=IptablesCommand, help=HELP, short_help=SHORT_HELP)(iptables)


def iptables(
    *,
    envoy_port: flag.EnvoyPort = "15001",
    inbound_capture_port: flag.InboundCapturePort = "15006",
    inbound_tunnel_port: flag.InboundTunnelPort = "15008",
    proxy_uid: flag.ProxyUid = "",
    proxy_gid: flag.ProxyGid = "",
    mode: flag.Mode = "REDIRECT",
    tproxy_mark: flag.TproxyMark = "1337",
    tproxy_route_table: flag.TproxyRouteTable = "133",
    inbound_ports: flag.InboundPorts = "",
    exclude_inbound_ports: flag.ExcludeInboundPorts = "",
    exclude_interfaces: flag.ExcludeInterfaces = "",
    virtual_interfaces: flag.VirtualInterfaces = "",
    drop_invalid: flag.DropInvalid = False,
    outbound_ranges: flag.OutboundRanges = "",
    exclude_outbound_ranges: flag.ExcludeOutboundRanges = "",
    outbound_ports: flag.OutboundPorts = "",
    exclude_outbound_ports: flag.ExcludeOutboundPorts = "",
    owner_groups: flag.OwnerGroups = "*",
    exclude_owner_groups: flag.ExcludeOwnerGroups = "",
    loopback_range: flag.LoopbackRange = "127.0.0.1/32",
    redirect_dns: flag.RedirectDns = False,
    capture_all_dns: flag.CaptureAllDns = False,
    dual_stack: flag.DualStack = False,
    dry_run: flag.DryRun = False,
    cleanup_only: flag.CleanupOnly = False,
    network_namespace: flag.NetworkNamespace = "",
    force_iptables_binary: flag.ForceIptablesBinary = "",
    native_nftables: flag.NativeNftables = False,
    force_apply: flag.ForceApply = False,
    skip_rule_apply: flag.SkipRuleApply = False,
    run_validation: flag.RunValidation = False,
    probe_port: flag.ProbePort = "15002",
    probe_timeout: flag.ProbeTimeout = "5s",
    cni_mode: flag.CniMode = False,
    reconcile: flag.Reconcile = True,
    restore_format: flag.RestoreFormat = True,
    trace_logging: flag.TraceLogging = False,
    host_nsenter_exec: flag.HostNsenterExec = False,
    log_output_level: flag.LogOutputLevel = "",
    log_as_json: flag.LogAsJson = False,
) -> None:
    """Send a pod's connections through its sidecar, by iptables."""
    try:
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
            rules = {family: capture_rules(settings, family) for family in Family}
            if native_nftables:
                _show("nftables", native_text(rules, marked=settings.ipv6))
                return
            for family, listed in rules.items():
                _show(family.value, restore_text(listed))
            return
        if not skip_rule_apply:
            outcome = apply(settings, shell, force=force_apply, native=native_nftables)
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
        texts, native = cleaning_texts(shell)
        for family, text in texts.items():
            _show(family.value, text)
        if native:
            _show("nftables", native)
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


def _show(what: str, text: str) -> None:
    typer.echo(f"# {what}\n{text}", nl=False)


def _warn(sentence: str) -> None:
    typer.echo(f"pylot iptables: warning: {sentence}", err=True)


def _complain(sentence: str) -> None:
    typer.echo(f"pylot iptables: {sentence}", err=True)


def _fail(sentence: str, *, code: int) -> NoReturn:
    _complain(sentence)
    raise typer.Exit(code)

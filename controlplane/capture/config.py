"""The settings of traffic capture, and how the flags' text becomes one.

Owns: every flag of istio-iptables as a frozen value, and the sentence for each wrong one.
Must not know: iptables, processes, the environment (the command line hands over host facts).
Easy to break: a list that is empty means "nothing", the wildcard `*` means "everything", and
the two are different types here, so that no caller can mistake one for the other.
"""

import enum
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Final

import msgspec

from controlplane.capture.values import (
    PortRange,
    Problems,
    parse_cidrs,
    parse_groups,
    parse_interfaces,
    parse_number,
    parse_port,
    parse_ports,
    parse_server,
    parse_users,
)

OUTBOUND_MARK: Final = 1338
"""Mark of the proxy's own calls to its pod's address in TPROXY mode (Istio's constant)."""

DNS_PORT: Final = 53
AGENT_DNS_PORT: Final = 15053

MAX_OWNER_GROUPS: Final = 64
"""istio-iptables refuses longer lists: all of them are matched in one rule."""

_RESERVED_ROUTE_TABLES: Final = frozenset({253, 254, 255})


class InterceptionMode(enum.Enum):
    """How inbound connections reach the proxy."""

    REDIRECT = "REDIRECT"
    TPROXY = "TPROXY"


class All(msgspec.Struct, frozen=True):
    """The wildcard `*`: every port, address or group."""


class NoDns(msgspec.Struct, frozen=True):
    """DNS queries are not captured."""


class AllDns(msgspec.Struct, frozen=True):
    """Every query to port 53 is captured, whatever the server."""


class DnsServers(msgspec.Struct, frozen=True):
    """Queries to these servers are captured; others pass."""

    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()


Ports = All | tuple[PortRange, ...]
Ranges = All | tuple[IPv4Network | IPv6Network, ...]
DnsCapture = NoDns | AllDns | DnsServers


class CaptureSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is captured, and where it goes; every field is already checked."""

    outbound_port: int = 15001
    inbound_port: int = 15006
    tunnel_port: int = 15008
    proxy_uids: tuple[int, ...] = (1337,)
    proxy_gids: tuple[int, ...] = (1337,)
    mode: InterceptionMode = InterceptionMode.REDIRECT
    tproxy_mark: int = 1337
    tproxy_route_table: int = 133
    inbound_ports: Ports = ()
    inbound_ports_excluded: tuple[PortRange, ...] = ()
    outbound_ports: tuple[PortRange, ...] = ()
    outbound_ports_excluded: tuple[PortRange, ...] = ()
    outbound_ranges: Ranges = ()
    outbound_ranges_excluded: tuple[IPv4Network | IPv6Network, ...] = ()
    excluded_interfaces: tuple[str, ...] = ()
    virtual_interfaces: tuple[str, ...] = ()
    owner_groups: All | tuple[int, ...] = All()
    owner_groups_excluded: tuple[int, ...] = ()
    dns: DnsCapture = NoDns()
    drop_invalid: bool = False
    loopback_range: IPv4Network = IPv4Network("127.0.0.1/32")
    ipv6: bool = False

    @property
    def captures_inbound_by_tproxy(self) -> bool:
        """Whether TPROXY rules and routes are needed at all."""
        return self.mode is InterceptionMode.TPROXY and self.inbound_ports != ()


class CaptureFlags(msgspec.Struct, frozen=True, kw_only=True):
    """The flags as text, as a command line or a pod template holds them.

    `ipv6` and `dns_servers` are facts of the host, not wishes of the user.
    """

    envoy_port: str = "15001"
    inbound_capture_port: str = "15006"
    inbound_tunnel_port: str = "15008"
    proxy_uid: str = "1337"
    proxy_gid: str = ""
    mode: str = "REDIRECT"
    tproxy_mark: str = "1337"
    tproxy_route_table: str = "133"
    inbound_ports: str = ""
    exclude_inbound_ports: str = ""
    outbound_ports: str = ""
    exclude_outbound_ports: str = ""
    outbound_ranges: str = ""
    exclude_outbound_ranges: str = ""
    exclude_interfaces: str = ""
    virtual_interfaces: str = ""
    owner_groups: str = "*"
    exclude_owner_groups: str = ""
    loopback_range: str = "127.0.0.1/32"
    redirect_dns: bool = False
    capture_all_dns: bool = False
    drop_invalid: bool = False
    ipv6: bool = False
    dns_servers: tuple[str, ...] = ()


class Accepted(msgspec.Struct, frozen=True):
    """The flags are right; `warnings` are sentences the user should still see."""

    settings: CaptureSettings
    warnings: tuple[str, ...] = ()


class Refused(msgspec.Struct, frozen=True):
    """The flags are wrong: one sentence for each mistake, in the order of the flags."""

    problems: tuple[str, ...]


def parse_flags(flags: CaptureFlags) -> Accepted | Refused:
    """Check all flags and return the settings, or every mistake in them.

    Names of users and groups are looked up here, because iptables-save shows numbers and the
    rules could otherwise not be compared with what is installed.
    """
    problems: Problems = []
    outbound_port = parse_port("-p/--envoy-port", flags.envoy_port, problems)
    inbound_port = parse_port("-z/--inbound-capture-port", flags.inbound_capture_port, problems)
    tunnel_port = parse_port("-e/--inbound-tunnel-port", flags.inbound_tunnel_port, problems)
    uids = parse_users("-u/--proxy-uid", flags.proxy_uid, problems)
    mode = _parse_mode(flags.mode, problems)
    mark, table = _parse_tproxy(flags, problems)
    settings = CaptureSettings(
        outbound_port=outbound_port,
        inbound_port=inbound_port,
        tunnel_port=tunnel_port,
        proxy_uids=uids,
        # istio-iptables takes the numbers of -u for -g when that is not given.
        proxy_gids=parse_groups("-g/--proxy-gid", flags.proxy_gid, problems)
        if flags.proxy_gid
        else uids,
        mode=mode,
        tproxy_mark=mark,
        tproxy_route_table=table,
        inbound_ports=_ports_or_all("-b/--istio-inbound-ports", flags.inbound_ports, problems),
        inbound_ports_excluded=parse_ports(
            "-d/--istio-local-exclude-ports", flags.exclude_inbound_ports, problems
        ),
        outbound_ports=parse_ports("-q/--istio-outbound-ports", flags.outbound_ports, problems),
        outbound_ports_excluded=parse_ports(
            "-o/--istio-local-outbound-ports-exclude", flags.exclude_outbound_ports, problems
        ),
        outbound_ranges=_ranges_or_all("-i/--istio-service-cidr", flags.outbound_ranges, problems),
        outbound_ranges_excluded=parse_cidrs(
            "-x/--istio-service-exclude-cidr", flags.exclude_outbound_ranges, problems
        ),
        excluded_interfaces=parse_interfaces(
            "-c/--istio-exclude-interfaces", flags.exclude_interfaces, problems
        ),
        virtual_interfaces=parse_interfaces(
            "-k/--kube-virt-interfaces", flags.virtual_interfaces, problems
        ),
        owner_groups=_groups_or_all(flags.owner_groups, problems),
        owner_groups_excluded=parse_groups(
            "--outbound-owner-groups-exclude", flags.exclude_owner_groups, problems
        ),
        dns=_parse_dns(flags, problems),
        drop_invalid=flags.drop_invalid,
        loopback_range=_parse_loopback(flags.loopback_range, problems),
        ipv6=flags.ipv6,
    )
    problems.extend(_contradictions(settings))
    if problems:
        return Refused(tuple(problems))
    return Accepted(settings, tuple(_warnings(flags, settings)))


def _parse_mode(text: str, problems: Problems) -> InterceptionMode:
    # An empty mode is REDIRECT: istio-iptables compares with TPROXY only.
    if text.upper() in ("", "REDIRECT"):
        return InterceptionMode.REDIRECT
    if text.upper() == "TPROXY":
        return InterceptionMode.TPROXY
    problems.append(
        f"-m/--istio-inbound-interception-mode: {text!r} is not a mode; use REDIRECT or TPROXY"
    )
    return InterceptionMode.REDIRECT


def _parse_tproxy(flags: CaptureFlags, problems: Problems) -> tuple[int, int]:
    mark = parse_number("-t/--istio-inbound-tproxy-mark", flags.tproxy_mark, problems)
    table = parse_number(
        "-r/--istio-inbound-tproxy-route-table", flags.tproxy_route_table, problems
    )
    if table in _RESERVED_ROUTE_TABLES:
        problems.append(
            f"-r/--istio-inbound-tproxy-route-table: {table} is one of the kernel's own tables "
            "(253 default, 254 main, 255 local); use another number"
        )
    return mark, table


def _ports_or_all(flag: str, text: str, problems: Problems) -> Ports:
    return All() if text.strip() == "*" else parse_ports(flag, text, problems)


def _ranges_or_all(flag: str, text: str, problems: Problems) -> Ranges:
    return All() if text.strip() == "*" else parse_cidrs(flag, text, problems)


def _groups_or_all(text: str, problems: Problems) -> All | tuple[int, ...]:
    if text.strip() == "*":
        return All()
    return parse_groups("--outbound-owner-groups", text, problems)


def _parse_dns(flags: CaptureFlags, problems: Problems) -> DnsCapture:
    if not flags.redirect_dns:
        return NoDns()
    if flags.capture_all_dns:
        return AllDns()
    ipv4: list[str] = []
    ipv6: list[str] = []
    for text in flags.dns_servers:
        match parse_server(text, problems):
            case (4, address):
                ipv4.append(address)
            case (6, address):
                ipv6.append(address)
            case _:
                pass
    if not ipv4 and not ipv6:
        return NoDns()
    return DnsServers(tuple(dict.fromkeys(ipv4)), tuple(dict.fromkeys(ipv6)))


def _parse_loopback(text: str, problems: Problems) -> IPv4Network:
    default = IPv4Network("127.0.0.1/32")
    parsed = parse_cidrs("--outbound-ipv4-loopback-cidr", text, problems)
    match parsed:
        case (IPv4Network() as network,) if network.is_loopback:
            return network
        case () if problems:
            return default
        case _:
            problems.append(
                f"--outbound-ipv4-loopback-cidr: {text!r} is not one IPv4 loopback range; "
                "use for example 127.0.0.1/32 or 127.0.0.0/8"
            )
            return default


def _contradictions(settings: CaptureSettings) -> Sequence[str]:
    found: list[str] = []
    if settings.outbound_port == settings.inbound_port:
        found.append(
            f"-z/--inbound-capture-port: {settings.inbound_port} is also the port of "
            "-p/--envoy-port, so inbound connections would be handed to the outbound listeners "
            "and loop; use two ports (15001 and 15006 by default)"
        )
    if settings.tproxy_mark == OUTBOUND_MARK:
        found.append(
            f"-t/--istio-inbound-tproxy-mark: {OUTBOUND_MARK} is the mark of the proxy's own "
            "outbound connections; use another number (1337 by default)"
        )
    groups = settings.owner_groups
    if not isinstance(groups, All):
        if settings.owner_groups_excluded:
            found.append(
                "--outbound-owner-groups and --outbound-owner-groups-exclude cannot both be given; "
                "name the groups that are captured, or those that are not"
            )
        if len(groups) > MAX_OWNER_GROUPS:
            found.append(
                f"--outbound-owner-groups: {len(groups)} groups are too many; the limit is "
                f"{MAX_OWNER_GROUPS}"
            )
    return found


def _warnings(flags: CaptureFlags, settings: CaptureSettings) -> Sequence[str]:
    found: list[str] = []
    if flags.redirect_dns and isinstance(settings.dns, NoDns):
        found.append(
            "--redirect-dns captures nothing, because no DNS server is known; give "
            "PYLOT_IPTABLES_DNS_SERVERS or --capture-all-dns"
        )
    if flags.capture_all_dns and not flags.redirect_dns:
        found.append("--capture-all-dns has no effect without --redirect-dns")
    if settings.inbound_ports_excluded and not isinstance(settings.inbound_ports, All):
        captured = _overlap(settings.inbound_ports, settings.inbound_ports_excluded)
        if captured:
            found.append(
                f"-d/--istio-local-exclude-ports: {captured} is captured all the same, because "
                "-b names it; exclusions count only with -b '*'"
            )
    return found


def _overlap(included: tuple[PortRange, ...], excluded: tuple[PortRange, ...]) -> str:
    return ",".join(
        other.text
        for other in excluded
        if any(one.first <= other.last and other.first <= one.last for one in included)
    )

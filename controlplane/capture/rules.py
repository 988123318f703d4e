"""From settings to rules: what is captured, as plain values.

Owns: the content and the order of every rule of one address family.
Must not know: how rules are written down, compared or loaded, and what is installed.
Easy to break: the first rule that matches decides, so an exemption must stand before the capture
it exempts from, and the exemption of the proxy itself before anything that redirects to it.

The chains and their names are those of istio-iptables. Three fates differ, on purpose: the tunnel
port is left alone in TPROXY mode too, TPROXY leaves traffic from virtual interfaces to the outbound
listener as REDIRECT does, and DNS over TCP of a proxy known by its group alone is never sent
through the inbound listener.
"""

import enum
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import Final, assert_never

import msgspec

from controlplane.capture.config import (
    AGENT_DNS_PORT,
    DNS_PORT,
    OUTBOUND_MARK,
    All,
    AllDns,
    CaptureSettings,
    DnsServers,
    NoDns,
)

INBOUND: Final = "ISTIO_INBOUND"
IN_REDIRECT: Final = "ISTIO_IN_REDIRECT"
REDIRECT: Final = "ISTIO_REDIRECT"
OUTPUT: Final = "ISTIO_OUTPUT"
OUTPUT_DNS: Final = "ISTIO_OUTPUT_DNS"
DIVERT: Final = "ISTIO_DIVERT"
TPROXY: Final = "ISTIO_TPROXY"
DROP: Final = "ISTIO_DROP"

CHAINS: Final = frozenset(
    {INBOUND, IN_REDIRECT, REDIRECT, OUTPUT, OUTPUT_DNS, DIVERT, TPROXY, DROP}
)
"""The chains that capture makes; everything else in the tables belongs to somebody else."""

_PROXY_TO_SERVER_ZONE: Final = "1"
_APPLICATION_TO_PROXY_ZONE: Final = "2"


class Family(enum.Enum):
    """An address family, with what differs between the two."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"

    @property
    def inbound_source(self) -> str:
        """Source address of the proxy's connections to its own application."""
        return "127.0.0.6/32" if self is Family.IPV4 else "::6/128"

    @property
    def host_length(self) -> int:
        """Prefix length of a single address."""
        return 32 if self is Family.IPV4 else 128


class Table(enum.Enum):
    """The tables that capture uses, in the order they are written."""

    MANGLE = "mangle"
    NAT = "nat"
    RAW = "raw"


class Rule(msgspec.Struct, frozen=True):
    """One rule: where it stands, what it matches and what it does.

    `first` puts it in front of everything in its chain, also of rules that came before it in
    this list; only built-in chains need that, because others may have written there.
    """

    table: Table
    chain: str
    args: tuple[str, ...]
    first: bool = False

    @property
    def target(self) -> str:
        """The chain or action after `-j`."""
        return self.args[self.args.index("-j") + 1]


def capture_rules(settings: CaptureSettings, family: Family) -> tuple[Rule, ...]:
    """Return the rules of one family in the order they take effect within each chain.

    IPv6 has none unless the settings say that the host has IPv6.
    """
    if family is Family.IPV6 and not settings.ipv6:
        return ()
    rules: list[Rule] = []
    rules += _excluded_interfaces(settings)
    rules += _virtual_interfaces_are_not_inbound(settings)
    rules += _drop_invalid(settings)
    rules += _redirections(settings)
    rules += _inbound(settings, family)
    rules += _outbound_exemptions(settings, family)
    rules += _dns(settings, family)
    rules += _outbound(settings, family)
    rules += _tproxy_marks(settings, family)
    return tuple(rules)


def _rule(table: Table, chain: str, args: str, *, first: bool = False) -> Rule:
    return Rule(table, chain, tuple(args.split()), first)


def _nat(chain: str, args: str, *, first: bool = False) -> Rule:
    return _rule(Table.NAT, chain, args, first=first)


def _mangle(chain: str, args: str, *, first: bool = False) -> Rule:
    return _rule(Table.MANGLE, chain, args, first=first)


def _raw(chain: str, args: str) -> Rule:
    return _rule(Table.RAW, chain, args)


def _loopback(settings: CaptureSettings, family: Family) -> str:
    return str(settings.loopback_range) if family is Family.IPV4 else "::1/128"


def _of_family(
    networks: tuple[IPv4Network | IPv6Network, ...], family: Family
) -> Iterator[IPv4Network | IPv6Network]:
    version = 4 if family is Family.IPV4 else 6
    return (network for network in networks if network.version == version)


def _excluded_interfaces(settings: CaptureSettings) -> Iterator[Rule]:
    tables = [Table.NAT]
    if settings.captures_inbound_by_tproxy:
        tables.append(Table.MANGLE)
    for table in tables:
        for name in settings.excluded_interfaces:
            yield _rule(table, "PREROUTING", f"-i {name} -j RETURN")
            yield _rule(table, "OUTPUT", f"-o {name} -j RETURN")


def _virtual_interfaces_are_not_inbound(settings: CaptureSettings) -> Iterator[Rule]:
    for name in settings.virtual_interfaces:
        yield _nat("PREROUTING", f"-i {name} -j RETURN", first=True)
        if settings.captures_inbound_by_tproxy:
            yield _mangle("PREROUTING", f"-i {name} -j RETURN", first=True)


def _drop_invalid(settings: CaptureSettings) -> Iterator[Rule]:
    # A packet outside the window would otherwise reach the pod without its address translated,
    # and be answered with a reset that ends the connection.
    if settings.drop_invalid:
        yield _mangle("PREROUTING", f"-m conntrack --ctstate INVALID -j {DROP}")
        yield _mangle(DROP, "-j DROP")


def _redirections(settings: CaptureSettings) -> Iterator[Rule]:
    yield _nat(INBOUND, f"-p tcp --dport {settings.tunnel_port} -j RETURN")
    yield _nat(REDIRECT, f"-p tcp -j REDIRECT --to-ports {settings.outbound_port}")
    yield _nat(IN_REDIRECT, f"-p tcp -j REDIRECT --to-ports {settings.inbound_port}")


def _inbound(settings: CaptureSettings, family: Family) -> Iterator[Rule]:
    if settings.inbound_ports == ():
        return
    tproxy = settings.captures_inbound_by_tproxy
    if tproxy:
        yield from _tproxy_chains(settings, family)
    table = Table.MANGLE if tproxy else Table.NAT
    yield _rule(table, "PREROUTING", f"-p tcp -j {INBOUND}")
    if tproxy:
        yield from _tproxy_exemptions(settings, family)
    match settings.inbound_ports:
        case All():
            for port in settings.inbound_ports_excluded:
                yield _rule(table, INBOUND, f"-p tcp --dport {port.text} -j RETURN")
            matches = ["-p tcp"]
        case ports:
            matches = [f"-p tcp --dport {port.text}" for port in ports]
    for match in matches:
        if tproxy:
            # What belongs to a connection already taken over needs only the route to it.
            yield _mangle(
                INBOUND, f"{match} -m conntrack --ctstate RELATED,ESTABLISHED -j {DIVERT}"
            )
            yield _mangle(INBOUND, f"{match} -j {TPROXY}")
        else:
            yield _nat(INBOUND, f"{match} -j {IN_REDIRECT}")


def _tproxy_chains(settings: CaptureSettings, family: Family) -> Iterator[Rule]:
    mark = settings.tproxy_mark
    yield _mangle(DIVERT, f"-j MARK --set-mark {mark}")
    yield _mangle(DIVERT, "-j ACCEPT")
    yield _mangle(
        TPROXY,
        f"! -d {_loopback(settings, family)} -p tcp -j TPROXY "
        f"--tproxy-mark {mark}/0xffffffff --on-port {settings.inbound_port}",
    )


def _tproxy_exemptions(settings: CaptureSettings, family: Family) -> Iterator[Rule]:
    # The proxy's connections to the application, which carry the caller's address and the mark.
    yield _mangle(INBOUND, f"-p tcp -m mark --mark {settings.tproxy_mark} -j RETURN")
    # The inbound passthrough cluster's connections to the application.
    yield _mangle(INBOUND, f"-p tcp -s {family.inbound_source} -i lo -j RETURN")
    # The application calling itself; the proxy calling its own pod bears the outbound mark.
    yield _mangle(INBOUND, f"-p tcp -i lo -m mark ! --mark {OUTBOUND_MARK} -j RETURN")
    yield _mangle(INBOUND, f"-p tcp --dport {settings.tunnel_port} -j RETURN")


def _outbound_exemptions(settings: CaptureSettings, family: Family) -> Iterator[Rule]:
    yield _nat("OUTPUT", f"-j {OUTPUT}")
    for port in settings.outbound_ports_excluded:
        yield _nat(OUTPUT, f"-p tcp --dport {port.text} -j RETURN")
        yield _nat(OUTPUT, f"-p udp --dport {port.text} -j RETURN")
    yield _nat(OUTPUT, f"-o lo -s {family.inbound_source} -j RETURN")
    for uid in settings.proxy_uids:
        yield from _proxy(settings, family, f"--uid-owner {uid}")
    for gid in settings.proxy_gids:
        yield from _proxy(settings, family, f"--gid-owner {gid}")
    match settings.owner_groups:
        case All():
            for gid in settings.owner_groups_excluded:
                yield _nat(OUTPUT, f"-m owner --gid-owner {gid} -j RETURN")
        case gids:
            none_of = " ".join(f"-m owner ! --gid-owner {gid}" for gid in gids)
            yield _nat(OUTPUT, f"{none_of} -j RETURN".lstrip())


def _proxy(settings: CaptureSettings, family: Family, owner: str) -> Iterator[Rule]:
    captures_dns = not isinstance(settings.dns, NoDns)
    loopback = _loopback(settings, family)
    ports = (
        f"-m multiport ! --dports {DNS_PORT},{settings.tunnel_port}"
        if captures_dns
        else f"! --dport {settings.tunnel_port}"
    )
    # A service that calls itself leaves through the outbound half and returns through the
    # inbound one: application, outbound listener, inbound listener, application.
    yield _nat(OUTPUT, f"-o lo ! -d {loopback} -p tcp {ports} -m owner {owner} -j {IN_REDIRECT}")
    if not _captures_loopback(settings):
        # Between containers of one pod nothing is captured, except TCP queries to a DNS server
        # on the loopback interface, which the rules for DNS decide about.
        tcp_not_dns = f" -p tcp ! --dport {DNS_PORT}" if captures_dns else ""
        yield _nat(OUTPUT, f"-o lo{tcp_not_dns} -m owner ! {owner} -j RETURN")
    yield _nat(OUTPUT, f"-m owner {owner} -j RETURN")


def _captures_loopback(settings: CaptureSettings) -> bool:
    match settings.outbound_ranges:
        case All():
            return False
        case ranges:
            return any(network.network_address.is_loopback for network in ranges)


def _dns(settings: CaptureSettings, family: Family) -> Iterator[Rule]:
    match settings.dns:
        case NoDns():
            return
        case AllDns():
            to_servers, from_servers = [""], [""]
        case DnsServers() as servers:
            addresses = servers.ipv4 if family is Family.IPV4 else servers.ipv6
            to_servers = [f" -d {address}/{family.host_length}" for address in addresses]
            from_servers = [f" -s {address}/{family.host_length}" for address in addresses]
        case _ as unreachable:
            assert_never(unreachable)
    if to_servers:
        yield _nat(OUTPUT, f"-j {OUTPUT_DNS}")
    for protocol in ("tcp", "udp"):
        for to_server in to_servers:
            yield _nat(
                OUTPUT_DNS,
                f"-p {protocol} --dport {DNS_PORT}{to_server} "
                f"-j REDIRECT --to-ports {AGENT_DNS_PORT}",
            )
    yield from _dns_zones(settings, to_servers, from_servers)


def _dns_zones(
    settings: CaptureSettings, to_servers: list[str], from_servers: list[str]
) -> Iterator[Rule]:
    # The agent asks a server from a port that the application may have used towards the same
    # server. In one conntrack zone the two UDP flows would collide and lose packets.
    yield _raw("OUTPUT", f"-j {OUTPUT_DNS}")
    owners = [f"--uid-owner {uid}" for uid in settings.proxy_uids]
    owners += [f"--gid-owner {gid}" for gid in settings.proxy_gids]
    for owner in owners:
        yield _raw(
            OUTPUT_DNS,
            f"-p udp --dport {DNS_PORT} -m owner {owner} -j CT --zone {_PROXY_TO_SERVER_ZONE}",
        )
        yield _raw(
            OUTPUT_DNS,
            f"-p udp --sport {AGENT_DNS_PORT} -m owner {owner} "
            f"-j CT --zone {_APPLICATION_TO_PROXY_ZONE}",
        )
    if from_servers:
        yield _raw("PREROUTING", f"-j {INBOUND}")
    for to_server, from_server in zip(to_servers, from_servers, strict=True):
        yield _raw(
            OUTPUT_DNS,
            f"-p udp --dport {DNS_PORT}{to_server} -j CT --zone {_APPLICATION_TO_PROXY_ZONE}",
        )
        yield _raw(
            INBOUND, f"-p udp --sport {DNS_PORT}{from_server} -j CT --zone {_PROXY_TO_SERVER_ZONE}"
        )


def _outbound(settings: CaptureSettings, family: Family) -> Iterator[Rule]:
    yield _nat(OUTPUT, f"-d {_loopback(settings, family)} -j RETURN")
    for network in _of_family(settings.outbound_ranges_excluded, family):
        yield _nat(OUTPUT, f"-d {network} -j RETURN")
    for port in settings.outbound_ports:
        yield _nat(OUTPUT, f"-p tcp --dport {port.text} -j {REDIRECT}")
    match settings.outbound_ranges:
        case All():
            destinations = [""]
        case ranges:
            destinations = [f"-d {network} " for network in _of_family(ranges, family)]
    for destination in destinations:
        yield _nat(OUTPUT, f"{destination}-j {REDIRECT}")
        for name in settings.virtual_interfaces:
            yield _nat("PREROUTING", f"-i {name} {destination}-j {REDIRECT}", first=True)


def _tproxy_marks(settings: CaptureSettings, family: Family) -> Iterator[Rule]:
    if not settings.captures_inbound_by_tproxy:
        return
    mark = settings.tproxy_mark
    # The proxy's connection to the application bears the caller's address: its answers must
    # find back to the proxy, so the mark of the first packet is kept with the connection.
    yield _mangle("PREROUTING", f"-p tcp -m mark --mark {mark} -j CONNMARK --save-mark")
    yield _mangle("OUTPUT", f"-p tcp -o lo -m mark --mark {mark} -j RETURN")
    owners = [f"--uid-owner {uid}" for uid in settings.proxy_uids]
    owners += [f"--gid-owner {gid}" for gid in settings.proxy_gids]
    for owner in owners:
        yield _mangle(
            "OUTPUT",
            f"! -d {_loopback(settings, family)} -p tcp -o lo -m owner {owner} "
            f"-j MARK --set-mark {OUTBOUND_MARK}",
        )
    yield _mangle("OUTPUT", f"-p tcp -m connmark --mark {mark} -j CONNMARK --restore-mark")

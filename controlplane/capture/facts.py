"""What the rules need to know of the host: whether it has IPv6, and its DNS servers.

Owns: asking the host, and the environment variables that answer in its place.
Must not know: flags or rules.
Easy to break: a pod with addresses of both families gets IPv6 rules only with --dual-stack, because
its proxy listens on IPv4 alone otherwise, and captured IPv6 connections would be refused.
"""

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import msgspec

from controlplane.capture.errors import CaptureError
from controlplane.capture.rules import Family
from controlplane.capture.shell import Host
from controlplane.errors import UsageError

IPV6_VARIABLE: Final = "PYLOT_IPTABLES_IPV6"
DNS_VARIABLE: Final = "PYLOT_IPTABLES_DNS_SERVERS"

_IF_INET6: Final = Path("/proc/net/if_inet6")
_RESOLV_CONF: Final = Path("/etc/resolv.conf")


class _Address(msgspec.Struct):
    local: str = ""
    scope: str = ""


class _Link(msgspec.Struct):
    addr_info: list[_Address] = []


def has_ipv6(environment: Mapping[str, str], host: Host, *, dual_stack: bool) -> bool:
    """Whether IPv6 is captured; raises UsageError when the variable is neither true nor false.

    As in istio-iptables: with an IPv6 address and no IPv4 address. With `dual_stack` it is enough
    that the kernel has IPv6, because the addresses may come after the rules.
    """
    answer = environment.get(IPV6_VARIABLE, "").strip().lower()
    if answer in ("true", "1"):
        return True
    if answer in ("false", "0"):
        return False
    if answer:
        raise UsageError(f"{IPV6_VARIABLE}: {answer!r} is neither true nor false")
    if dual_stack:
        return _IF_INET6.exists()
    versions = {ip_address(text).version for text in reachable_addresses(host)}
    return versions == {6}


def dns_servers(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the DNS servers of the variable, else those of /etc/resolv.conf."""
    given = environment.get(DNS_VARIABLE)
    if given is not None:
        return tuple(part.strip() for part in given.split(",") if part.strip())
    try:
        lines = _RESOLV_CONF.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise CaptureError(
            f"{_RESOLV_CONF} cannot be read ({error.strerror}); give {DNS_VARIABLE}"
        ) from error
    words = [line.split() for line in lines]
    return tuple(line[1] for line in words if len(line) > 1 and line[0] == "nameserver")


def reachable_addresses(host: Host) -> list[str]:
    """Return the addresses that other hosts can reach, IPv4 first.

    Without iproute2 the answer is empty, as on a host without a network.
    """
    if not host.has_ip():
        return []
    found: list[str] = []
    for family in Family:
        try:
            text = host.ip(family, "-j", "addr", "show")
        except CaptureError:
            continue
        for link in msgspec.json.decode(text.strip() or "[]", type=list[_Link]):
            found += [
                shown.local
                for shown in link.addr_info
                if shown.scope == "global" and shown.local != "::6"
            ]
    return found

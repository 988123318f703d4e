"""The small values inside the flags of traffic capture: ports, ranges, interfaces, owners.

Owns: reading one comma-separated list and the sentence that refuses one entry of it.
Must not know: what the values are for.
Easy to break: every parser appends to `problems` and still returns a value, so that all the
mistakes of a command line are reported at once.
"""

import grp
import ipaddress
import pwd
import re
from collections.abc import Callable
from typing import Final, Literal

import msgspec

Problems = list[str]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_INTERFACE: Final = re.compile(r"[A-Za-z0-9_.@:-]{1,15}|[A-Za-z0-9_.@:-]{1,14}\+")
_MAX_U32: Final = 0xFFFFFFFF
_MAX_ID: Final = 0xFFFFFFFE


class PortRange(msgspec.Struct, frozen=True):
    """One port, or a range of ports with both ends included."""

    first: int
    last: int

    @property
    def text(self) -> str:
        """The form iptables reads: `80` or `80:90`."""
        return str(self.first) if self.first == self.last else f"{self.first}:{self.last}"

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last


def entries(text: str) -> list[str]:
    """Return the entries of a comma-separated list, without empty ones and repetitions."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def parse_port(flag: str, text: str, problems: Problems) -> int:
    """Return one port from 1 to 65535, or 0 with a problem."""
    if text.isascii() and text.isdigit() and 1 <= int(text) <= 65535:
        return int(text)
    problems.append(f"{flag}: {text!r} is not a port; use a number from 1 to 65535")
    return 0


def parse_ports(flag: str, text: str, problems: Problems) -> tuple[PortRange, ...]:
    """Return the ports and ranges (`8000:8010`) of a list; `*` is a problem here."""
    ports: list[PortRange] = []
    for entry in entries(text):
        if entry == "*":
            problems.append(_stray_wildcard(flag, text))
            continue
        first, colon, last = entry.partition(":")
        noted = len(problems)
        low = parse_port(flag, first, problems)
        high = parse_port(flag, last, problems) if colon else low
        if len(problems) > noted:
            # One sentence an entry, about the entry as the user wrote it.
            problems[noted:] = [
                f"{flag}: {entry!r} is not a port; use a number from 1 to 65535"
                + (" (or FIRST:LAST)" if colon else "")
            ]
        elif low > high:
            problems.append(f"{flag}: the range {entry!r} ends before it begins")
        else:
            ports.append(PortRange(low, high))
    return tuple(dict.fromkeys(ports))


def parse_cidrs(flag: str, text: str, problems: Problems) -> tuple[Network, ...]:
    """Return the address ranges of a list, host bits cleared; `*` is a problem here.

    An address without a prefix length is refused, because it is as likely a forgotten mask as
    a single host. istio-iptables prints a line and goes on without the range.
    """
    networks: list[Network] = []
    for entry in entries(text):
        if entry == "*":
            problems.append(_stray_wildcard(flag, text))
            continue
        try:
            network = ipaddress.ip_network(entry, strict=False)
        except ValueError:
            problems.append(
                f"{flag}: {entry!r} is not an address range; use for example 10.0.0.0/8 or fd00::/8"
            )
            continue
        if re.search(r"/\d+$", entry):
            networks.append(network)
        else:
            length = network.max_prefixlen
            problems.append(
                f"{flag}: {entry!r} has no prefix length; write {network.network_address}/{length} "
                "for this one address"
            )
    return tuple(dict.fromkeys(networks))


def parse_interfaces(flag: str, text: str, problems: Problems) -> tuple[str, ...]:
    """Return the interface names of a list; a final `+` matches every name that begins so."""
    names: list[str] = []
    for entry in entries(text):
        if _INTERFACE.fullmatch(entry):
            names.append(entry)
        else:
            problems.append(
                f"{flag}: {entry!r} is not the name of an interface (at most 15 letters, digits "
                "and . _ - : @, with + at the end for every name that begins so)"
            )
    return tuple(names)


def parse_users(flag: str, text: str, problems: Problems) -> tuple[int, ...]:
    """Return the uids of a list of numbers and user names; an empty list is a problem."""
    return _parse_ids(flag, text, "user", lambda name: pwd.getpwnam(name).pw_uid, problems)


def parse_groups(flag: str, text: str, problems: Problems) -> tuple[int, ...]:
    """Return the gids of a list of numbers and group names."""
    return _parse_ids(flag, text, "group", lambda name: grp.getgrnam(name).gr_gid, problems)


def _parse_ids(
    flag: str,
    text: str,
    kind: Literal["user", "group"],
    lookup: Callable[[str], int],
    problems: Problems,
) -> tuple[int, ...]:
    ids: list[int] = []
    for entry in entries(text):
        if entry == "*":
            problems.append(_stray_wildcard(flag, text))
        elif entry.isascii() and entry.isdigit():
            if int(entry) <= _MAX_ID:
                ids.append(int(entry))
            else:
                problems.append(f"{flag}: {entry} is not a {kind} id; the largest is {_MAX_ID}")
        else:
            try:
                ids.append(lookup(entry))
            except (KeyError, ValueError):
                problems.append(f"{flag}: there is no {kind} {entry!r}; use a name or a number")
    if not ids and kind == "user" and not entries(text):
        problems.append(f"{flag}: a proxy that is not exempt would capture itself; name its user")
    return tuple(dict.fromkeys(ids))


def parse_number(flag: str, text: str, problems: Problems) -> int:
    """Return a number from 1 to 2^32-1, decimal or with 0x."""
    try:
        number = int(text, 0)
    except ValueError:
        number = 0
    if not 1 <= number <= _MAX_U32:
        problems.append(f"{flag}: {text!r} is not a number from 1 to {_MAX_U32}")
        return 0
    return number


def parse_server(text: str, problems: Problems) -> tuple[int, str] | None:
    """Return the family (4 or 6) and the address of a DNS server; a zone (`%eth0`) is dropped."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        problems.append(f"the DNS server {text!r} is not an IP address")
        return None
    return address.version, str(address)


def _stray_wildcard(flag: str, text: str) -> str:
    if text.strip() == "*":
        return f"{flag}: '*' is not possible here; list what is meant"
    return f"{flag}: '*' stands alone; {text!r} mixes it with other entries"

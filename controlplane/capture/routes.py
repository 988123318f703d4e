"""The routes and the address that some rules need beside the tables.

Owns: the policy route of TPROXY (packets with the mark are delivered locally, whatever their
address) and the address ::6 on the loopback interface, from which the proxy calls its own
application in IPv6 (for IPv4 the whole of 127.0.0.0/8 is there already).
Must not know: how rules look.
Easy to break: only what bears our routing protocol number may be removed, so that a route of the
same shape that somebody else made survives.
"""

from collections.abc import Iterator
from typing import Final, TypeVar

import msgspec

from controlplane.capture.config import CaptureSettings
from controlplane.capture.errors import CaptureError
from controlplane.capture.rules import Family
from controlplane.capture.shell import Host

PROTOCOL: Final = "137"
"""Marks routes and routing rules as ours; free in /etc/iproute2/rt_protos."""

_ADDRESS: Final = "::6"

_Shown = TypeVar("_Shown")


class PolicyRoute(msgspec.Struct, frozen=True, order=True):
    """Packets with this mark are routed by this table."""

    family: str
    mark: int
    table: int


class LocalRoute(msgspec.Struct, frozen=True, order=True):
    """A table in which every address is local."""

    family: str
    table: int


class Routes(msgspec.Struct, frozen=True):
    """Routing that is ours; `address` tells whether ::6 is on the loopback interface at all."""

    policies: frozenset[PolicyRoute] = frozenset()
    locals: frozenset[LocalRoute] = frozenset()
    address: bool = False


class Step(msgspec.Struct, frozen=True):
    """One `ip` command and the one that takes it back."""

    family: Family
    do: tuple[str, ...]
    undo: tuple[str, ...]


def wanted_routes(settings: CaptureSettings) -> Routes:
    """Return the routing that the settings need."""
    families = [Family.IPV4, Family.IPV6] if settings.ipv6 else [Family.IPV4]
    if not settings.captures_inbound_by_tproxy:
        return Routes(address=settings.ipv6)
    table = settings.tproxy_route_table
    return Routes(
        frozenset(PolicyRoute(one.value, settings.tproxy_mark, table) for one in families),
        frozenset(LocalRoute(one.value, table) for one in families),
        settings.ipv6,
    )


def read_routes(host: Host) -> Routes:
    """Return the routing of ours that is in place; without iproute2 there can be none."""
    if not host.has_ip():
        return Routes()
    policies: set[PolicyRoute] = set()
    local: set[LocalRoute] = set()
    address = False
    for family in Family:
        try:
            shown_policies = host.ip(family, "-j", "-N", "rule", "show")
            shown_routes = host.ip(
                family, "-j", "-N", "route", "show", "table", "all", "proto", PROTOCOL
            )
            shown_links = host.ip(family, "-j", "addr", "show", "dev", "lo")
        except CaptureError:
            # A kernel without IPv6 holds nothing of ours in it.
            if family is Family.IPV4:
                raise
            continue
        for policy in _decode(shown_policies, list[_ShownPolicy]):
            if str(policy.protocol) == PROTOCOL and policy.fwmark:
                mark = int(policy.fwmark, 0)
                policies.add(PolicyRoute(family.value, mark, int(policy.table)))
        local.update(
            LocalRoute(family.value, int(route.table))
            for route in _decode(shown_routes, list[_ShownRoute])
        )
        address |= any(
            shown.local == _ADDRESS
            for link in _decode(shown_links, list[_ShownLink])
            for shown in link.addr_info
        )
    return Routes(frozenset(policies), frozenset(local), address)


def route_steps(before: Routes, after: Routes, *, address_is_ours: bool) -> tuple[Step, ...]:
    """Return the commands that lead from one routing to the other, additions first.

    The address is only removed when it is ours.
    """
    return tuple(_steps(before, after, address_is_ours))


def _steps(before: Routes, after: Routes, address_is_ours: bool) -> Iterator[Step]:
    if after.address and not before.address:
        yield _address("add", "del")
    for route in sorted(after.locals - before.locals):
        yield _local(route, "add", "del")
    for policy in sorted(after.policies - before.policies):
        yield _policy(policy, "add", "del")
    for policy in sorted(before.policies - after.policies):
        yield _policy(policy, "del", "add")
    for route in sorted(before.locals - after.locals):
        yield _local(route, "del", "add")
    if before.address and not after.address and address_is_ours:
        yield _address("del", "add")


def _address(do: str, undo: str) -> Step:
    def command(verb: str) -> tuple[str, ...]:
        return ("addr", verb, f"{_ADDRESS}/128", "dev", "lo")

    return Step(Family.IPV6, command(do), command(undo))


def _local(route: LocalRoute, do: str, undo: str) -> Step:
    def command(verb: str) -> tuple[str, ...]:
        words = f"route {verb} local default dev lo table {route.table} proto {PROTOCOL}"
        return tuple(words.split())

    return Step(Family(route.family), command(do), command(undo))


def _policy(policy: PolicyRoute, do: str, undo: str) -> Step:
    def command(verb: str) -> tuple[str, ...]:
        words = f"rule {verb} fwmark {policy.mark} lookup {policy.table} protocol {PROTOCOL}"
        return tuple(words.split())

    return Step(Family(policy.family), command(do), command(undo))


class _ShownPolicy(msgspec.Struct):
    table: str | int = 0
    fwmark: str = ""
    protocol: str | int = ""


class _ShownRoute(msgspec.Struct):
    table: str | int = 0


class _ShownAddress(msgspec.Struct):
    local: str = ""


class _ShownLink(msgspec.Struct):
    addr_info: list[_ShownAddress] = []


def _decode(text: str, kind: type[_Shown]) -> _Shown:
    return msgspec.json.decode(text.strip() or "[]", type=kind)

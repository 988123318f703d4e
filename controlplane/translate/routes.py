"""Route configurations: what a name asks for, and the join of virtual hosts into bytes.

Owns RouteInput, the envelope of a route configuration and the choice between a sidecar's and a
gateway's routes. Must not know how a virtual host is built. The rule that is easy to break: the
join concatenates cached bytes, and must parse to what a serialised message would parse to.

A change mostly concerns one of a thousand virtual hosts. What a configuration is made of is
therefore told from what it was made of before by comparing references: those that are the same
are not even read, since a thousand of them are nowhere near the processor by then.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import is_
from typing import Final, Self

from controlplane.model.base import Model
from controlplane.model.diagnostics import Diagnostic
from controlplane.model.names import RouteName
from controlplane.model.snapshot import Snapshot
from controlplane.translate import envoy
from controlplane.translate.gateway_routes import gateway_virtual_hosts
from controlplane.translate.resources import (
    DIGEST_SIZE,
    Joined,
    Resource,
    ResourceType,
    Translated,
    noted,
    serialise,
)
from controlplane.translate.route_action import MAX_BODY
from controlplane.translate.scope import OutboundClass
from controlplane.translate.sidecar_routes import HTTP_PROXY, SidecarRoutes
from controlplane.translate.virtual_hosts import VirtualHostBytes, VirtualHostInput


class RouteInput(Model):
    """A route configuration: its virtual hosts in final order, and its envelope.

    `known` is false for a name that nobody should ask for: it gets an empty configuration.
    """

    name: RouteName
    virtual_hosts: tuple[VirtualHostInput, ...] = ()
    known: bool = True
    ignore_port: bool = True
    diagnostics: tuple[Diagnostic, ...] = ()


def route_input(
    snapshot: Snapshot, cls: OutboundClass, name: str, routes: SidecarRoutes | None = None
) -> RouteInput:
    """Return what the route configuration of a name is made of, for one proxy class.

    `routes` are those of the class in this snapshot, for a caller that asks for many names.
    """
    if cls.is_router:
        hosts = gateway_virtual_hosts(snapshot, cls, name)
        if hosts is None:
            return RouteInput(name=RouteName(name), known=False)
        return RouteInput(name=RouteName(name), virtual_hosts=hosts)
    routes = routes or SidecarRoutes(snapshot, cls)
    if name == HTTP_PROXY:
        # The domains carry ports here, one listener serving all of them; Envoy must not drop
        # the port of a request before it looks for one.
        return RouteInput(
            name=RouteName(name),
            virtual_hosts=(*routes.all_ports(), routes.catch_all()),
            ignore_port=False,
            diagnostics=routes.diagnostics,
        )
    host, separator, text = name.rpartition(":")
    port = int(text) if text.isascii() and text.isdigit() else 0
    if not 0 < port <= _MAX_PORT:
        return RouteInput(name=RouteName(name), known=False)
    if separator:
        return RouteInput(name=RouteName(name), virtual_hosts=routes.sniffed(host, port))
    return RouteInput(
        name=RouteName(name),
        virtual_hosts=(*routes.port(port), routes.catch_all()),
        diagnostics=routes.diagnostics,
    )


class RouteParts:
    """What a route configuration is joined from: its envelope, and the bytes of virtual hosts.

    `virtual_hosts` follow those of `value`, `digests` are theirs, one after the other. Equal to
    another when it makes the same configuration, with the same origins.
    """

    __slots__ = ("_hash", "diagnostics", "digests", "value", "virtual_hosts")

    def __init__(
        self,
        value: RouteInput,
        virtual_hosts: tuple[VirtualHostBytes, ...],
        digests: bytes,
        diagnostics: tuple[Diagnostic, ...],
    ) -> None:
        """`diagnostics` are those of the virtual hosts."""
        self.value: Final = value
        self.virtual_hosts: Final = virtual_hosts
        self.digests: Final = digests
        self.diagnostics: Final = diagnostics
        self._hash: Final = hash((value.name, digests))

    @classmethod
    def of(cls, value: RouteInput, virtual_hosts: tuple[VirtualHostBytes, ...]) -> Self:
        """Return the parts when all virtual hosts are made."""
        return cls(
            value,
            virtual_hosts,
            b"".join([host.digest for host in virtual_hosts]),
            tuple(
                found for host in virtual_hosts if host.diagnostics for found in host.diagnostics
            ),
        )

    def renewed(
        self, value: RouteInput, make: Callable[[VirtualHostInput], VirtualHostBytes]
    ) -> Self | None:
        """Return the parts of another input, looking only at virtual hosts that are others.

        None when there is something to say about them.
        """
        before = self.value.virtual_hosts
        if self.diagnostics:
            return None
        if len(before) != len(value.virtual_hosts):
            return self._spliced(value, make)
        same = map(is_, before, value.virtual_hosts)
        virtual_hosts, digests = list(self.virtual_hosts), bytearray(self.digests)
        for at in [at for at, known in enumerate(same) if not known]:
            made = virtual_hosts[at] = make(value.virtual_hosts[at])
            if made.diagnostics:
                return None
            digests[at * DIGEST_SIZE : (at + 1) * DIGEST_SIZE] = made.digest
        return type(self)(value, tuple(virtual_hosts), bytes(digests), ())

    def _spliced(
        self, value: RouteInput, make: Callable[[VirtualHostInput], VirtualHostBytes]
    ) -> Self | None:
        """Return the parts of an input with more or fewer virtual hosts in one place."""
        before, after = self.value.virtual_hosts, value.virtual_hosts
        shorter = min(len(before), len(after))
        start = next((at for at in range(shorter) if before[at] is not after[at]), shorter)
        end = next(
            (at for at in range(shorter - start) if before[-1 - at] is not after[-1 - at]),
            shorter - start,
        )
        made = [make(host) for host in after[start : len(after) - end]]
        if any(host.diagnostics for host in made):
            return None
        rest = len(before) - end
        return type(self)(
            value,
            (*self.virtual_hosts[:start], *made, *self.virtual_hosts[rest:]),
            b"".join(
                (
                    self.digests[: start * DIGEST_SIZE],
                    *[host.digest for host in made],
                    self.digests[rest * DIGEST_SIZE :],
                )
            ),
            (),
        )

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RouteParts):
            return NotImplemented
        mine, its = self.value, other.value
        return (
            mine.name == its.name
            and mine.known == its.known
            and mine.ignore_port == its.ignore_port
            and mine.diagnostics == its.diagnostics
            and self.digests == other.digests
            and self.virtual_hosts == other.virtual_hosts
        )

    def join(self) -> Translated:
        """Return the route configuration.

        Fields of a protobuf message may stand in any order and repeated fields concatenate, so
        joining serialised parts gives the message that serialising the whole would give.
        """
        value = self.value
        head, tail = serialise(envoy.RouteConfiguration(name=value.name)), _tail(value)
        joined = Joined(head, self.virtual_hosts, tail, self.digests)
        resource = Resource.of(ResourceType.ROUTE, value.name, joined)
        return noted(resource, (*value.diagnostics, *self.diagnostics))


def join_route(value: RouteInput, virtual_hosts: tuple[VirtualHostBytes, ...]) -> Translated:
    """Return the route configuration of these virtual hosts, which follow `value.virtual_hosts`."""
    return RouteParts.of(value, virtual_hosts).join()


def _tail(value: RouteInput) -> bytes:
    message = envoy.RouteConfiguration(validate_clusters=envoy.BoolValue(value=False))
    if value.known:
        message.max_direct_response_body_size_bytes.value = MAX_BODY
        message.ignore_port_in_host_matching = value.ignore_port
    return serialise(message)


_MAX_PORT: Final = 65535

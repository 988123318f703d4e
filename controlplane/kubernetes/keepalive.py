"""Sockets of which the kernel notices by itself that nobody is at the other end any more.

A client that speaks HTTP/2 sends pings (client-go: after 30 s of silence, with 15 s for the
answer); HTTP/1.1 has none, and TCP's own are off unless they are asked for. The rule that is easy
to break: probes are sent only while nothing waits for an acknowledgement, so a request into a
network that swallows packets needs a limit of its own (`TCP_USER_TIMEOUT`, RFC 5482).
"""

from __future__ import annotations

import socket
from typing import Any, Final, NamedTuple

# Both are Linux's names; elsewhere the system's own intervals count.
_INTERVALS: Final = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
_USER_TIMEOUT: Final = "TCP_USER_TIMEOUT"


class Keepalive(NamedTuple):
    """After `idle` seconds of silence so many probes, `interval` seconds apart."""

    idle: int = 15
    interval: int = 5
    probes: int = 3

    @property
    def seconds(self) -> int:
        """How long a connection may be dead before that is noticed."""
        return self.idle + self.interval * self.probes

    def make_socket(self, address: tuple[Any, ...]) -> socket.socket:
        """Return a socket for an address as `getaddrinfo` gives it."""
        family, kind, protocol, *_ = address
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in zip(_INTERVALS, self, strict=True):
                if hasattr(socket, name):
                    made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            if hasattr(socket, _USER_TIMEOUT):
                limit = self.seconds * 1000
                made.setsockopt(socket.IPPROTO_TCP, getattr(socket, _USER_TIMEOUT), limit)
        except OSError:
            made.close()
            raise
        return made

"""Finds addresses to listen on, and says in one sentence what stands in the way.

Owns: asking the kernel whether an address can be bound.
Easy to break: Envoy binds with SO_REUSEPORT, so a second Envoy would take half of another's
connections without an error; the question here is asked without it.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterable
from typing import Final

from controlplane.agent.bootstrap import SocketAddress
from controlplane.demo.layout import FILE_SERVICE_PORT, LOOPBACK, Layout
from controlplane.demo.namespaces import NODE_ADDRESS, POD_PREFIX
from controlplane.errors import OutsideError, UsageError

# Below the range from which systems take the ports of outgoing connections.
FIRST_PORT: Final = 20000
LAST_PORT: Final = 32000


def bind_error(address: SocketAddress) -> OSError | None:
    """Why nothing can listen there; None when it can."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As every server does: a connection that is still winding down is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
            probe.listen(1)
        except OSError as error:
            return error
    return None


def is_free(address: SocketAddress) -> bool:
    """Whether something could listen there now."""
    return bind_error(address) is None


def choose_layout(gateway_port: int) -> Layout:
    """Return where everything will listen: the usual places as far as they are free.

    Raises UsageError when the gateway's port is taken, OutsideError when the machine lacks the
    loopback addresses.
    """
    must_be_free(SocketAddress(host="0.0.0.0", port=gateway_port))
    taken = {gateway_port}
    service_port = choose_service_port(taken)
    taken.add(service_port)
    usual = Layout()
    return Layout(
        gateway_port=gateway_port,
        service_port=service_port,
        grpc=choose_loopback(usual.grpc.port, taken),
        http=choose_loopback(usual.http.port, taken),
        monitoring=choose_loopback(usual.monitoring.port, taken),
        gateway_admin=choose_loopback(usual.gateway_admin.port, taken),
        sidecar_admin=choose_loopback(usual.sidecar_admin.port, taken),
    )


def choose_namespace_layout(published: int) -> Layout:
    """Return where everything is when each pod has a namespace, which gives it all ports.

    Only the ports of this machine have to be free. Raises UsageError when `published` is taken.
    """
    must_be_free(SocketAddress(host=LOOPBACK, port=published))
    taken = {published}
    usual = Layout()
    return Layout(
        prefix=POD_PREFIX,
        grpc=SocketAddress(host=NODE_ADDRESS, port=usual.grpc.port),
        http=choose_loopback(usual.http.port, taken),
        monitoring=choose_loopback(usual.monitoring.port, taken),
        gateway_admin=choose_loopback(usual.gateway_admin.port, taken),
        sidecar_admin=choose_loopback(usual.sidecar_admin.port, taken),
        published=published,
    )


def must_be_free(address: SocketAddress) -> None:
    """Raise UsageError unless the gateway can have its address."""
    if not 1 <= address.port <= 65535:
        raise UsageError(f"--port: {address.port} is not a port: 1 to 65535")
    error = bind_error(address)
    if error is not None:
        raise UsageError(refusal(address.port, error))


def refusal(port: int, error: OSError) -> str:
    """The sentence for a gateway port that cannot be had."""
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {port} is in use; choose another one with --port"
        case errno.EACCES:
            return f"port {port} needs more rights than yours; choose one above 1023 with --port"
        case _:
            return f"nothing can listen on port {port}: {error.strerror}"


def choose_service_port(taken: Iterable[int]) -> int:
    """A port that is free on the sidecar's and every application's address; 9080 at best.

    Raises OutsideError when one of the addresses does not exist.
    """
    for port in range(FILE_SERVICE_PORT, FILE_SERVICE_PORT + 1000, 10):
        if port in taken:
            continue
        needed = Layout(service_port=port).needed()
        errors = {address: bind_error(address) for address in needed}
        if not any(errors.values()):
            return port
        missing = [
            address.host
            for address, error in errors.items()
            if error is not None and error.errno == errno.EADDRNOTAVAIL
        ]
        if missing:
            raise OutsideError(missing_addresses(missing))
    raise OutsideError(
        f"the applications find no port that is free on all their addresses, from "
        f"{FILE_SERVICE_PORT} on: is another demo running?"
    )


def missing_addresses(hosts: Iterable[str], *, platform: str = sys.platform) -> str:
    """The sentence for loopback addresses that this machine does not have."""
    names = list(hosts)
    if platform == "darwin":
        commands = "; ".join(f"sudo ifconfig lo0 alias {host}" for host in names)
        return f"macOS has only 127.0.0.1 until you add the others. Run: {commands}"
    return f"this machine has no address {', '.join(names)} on its loopback interface"


def choose_loopback(wanted: int, taken: set[int]) -> SocketAddress:
    """127.0.0.1 at `wanted` when that is free, else at the next free port from 20000 on.

    The port is added to `taken`. Raises OutsideError when every port is in use.
    """
    for port in (wanted, *range(FIRST_PORT, LAST_PORT)):
        address = SocketAddress(host=LOOPBACK, port=port)
        if port not in taken and is_free(address):
            taken.add(port)
            return address
    raise OutsideError(f"no port of {LOOPBACK} from {FIRST_PORT} to {LAST_PORT} is free")

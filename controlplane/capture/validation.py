"""Proof that capture works: a connection of the proxy's user must arrive at the proxy's port.

Owns: the probe behind --run-validation.
Must not know: which rules make it work.
Easy to break: the owner of a socket, which the rules look at, is the user of the process at the
moment the socket is made; the effective user is changed for that moment only.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

from controlplane.capture.config import CaptureSettings
from controlplane.capture.errors import CaptureError

_SO_ORIGINAL_DST: Final = 80


def validate(settings: CaptureSettings, address: str, *, port: int, timeout: float) -> None:
    """Connect as the proxy's user to `address` and `port`, and see where that arrives.

    Raises CaptureError when the inbound port is in use, or when the connection does not arrive
    there with its original destination. `timeout` is in seconds.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listener = socket.create_server(
            ("" if family == socket.AF_INET else "::", settings.inbound_port), family=family
        )
    except OSError as error:
        raise CaptureError(
            f"validation needs port {settings.inbound_port}, which cannot be listened on: "
            f"{os.strerror(error.errno or 0)}"
        ) from error
    with listener:
        listener.settimeout(timeout)
        with _as_user(settings.proxy_uids[0]):
            client = socket.socket(family, socket.SOCK_STREAM)
        with client:
            client.settimeout(timeout)
            try:
                client.connect((address, port))
                server, _ = listener.accept()
            except OSError as error:
                raise CaptureError(
                    f"validation failed: a connection to {address} port {port} did not arrive at "
                    f"port {settings.inbound_port} ({error.strerror or 'no answer in time'})"
                ) from error
            with server:
                found = original_destination(server)
    if found[1] != port:
        raise CaptureError(
            f"validation failed: a connection to port {port} arrived as one to port {found[1]}"
        )


def original_destination(connection: socket.socket) -> tuple[str, int]:
    """Return the address and port the connection was made to, before it was redirected."""
    if connection.family == socket.AF_INET:
        raw = connection.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)
        return socket.inet_ntop(socket.AF_INET, raw[4:8]), int(struct.unpack("!H", raw[2:4])[0])
    raw = connection.getsockopt(socket.IPPROTO_IPV6, _SO_ORIGINAL_DST, 28)
    return socket.inet_ntop(socket.AF_INET6, raw[8:24]), int(struct.unpack("!H", raw[2:4])[0])


@contextlib.contextmanager
def _as_user(uid: int) -> Iterator[None]:
    before = os.geteuid()
    if before != 0:
        yield
        return
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(before)

"""Sockets in network namespaces, for a process that stays outside.

Owns the thread that entered a namespace. Must not know what the sockets are used for.
Easy to break: a socket keeps the namespace and the user it was made with for its whole life, so
only the making happens on the thread; entering a namespace is a matter of one thread alone.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, TypeVar

from controlplane.agent.bootstrap import SocketAddress
from controlplane.demo.namespaces import NAMES
from controlplane.errors import OutsideError

_CLONE_NEWNET: Final = 0x40000000
_Result = TypeVar("_Result")


class Visitor:
    """A thread inside a namespace of `ip netns`; close it."""

    def __init__(self, namespace: str) -> None:
        """Raises OutsideError when there is no such namespace."""
        libc: Any = ctypes.CDLL(None, use_errno=True)
        try:
            descriptor = os.open(NAMES / namespace, os.O_RDONLY)
        except OSError as error:
            raise OutsideError(f"there is no namespace {namespace}: {error.strerror}") from error

        def enter() -> int:
            code: int = libc.setns(descriptor, _CLONE_NEWNET)
            return ctypes.get_errno() if code else 0

        self._libc = libc
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"in-{namespace}")
        try:
            problem = self.do(enter)
        finally:
            os.close(descriptor)
        if problem:
            self.close()
            raise OutsideError(f"{namespace} cannot be entered: {os.strerror(problem)}")

    def __enter__(self) -> Visitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def do(self, task: Callable[[], _Result]) -> _Result:
        """Run something short inside the namespace and return its result."""
        return self._pool.submit(task).result()

    def socket(
        self,
        family: int = socket.AF_INET,
        kind: int = socket.SOCK_STREAM,
        *,
        uid: int = 0,
        gid: int = 0,
    ) -> socket.socket:
        """Return a socket of the namespace that belongs to a user and a group."""

        def make() -> socket.socket:
            self._libc.setfsgid(gid)
            self._libc.setfsuid(uid)
            try:
                return socket.socket(family, kind)
            finally:
                self._libc.setfsuid(0)
                self._libc.setfsgid(0)

        return self.do(make)

    async def connect(
        self, address: SocketAddress, *, uid: int = 0, gid: int = 0
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection from inside the namespace; raises OSError."""
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        made = self.socket(family, uid=uid, gid=gid)
        try:
            made.setblocking(False)
            await asyncio.get_running_loop().sock_connect(made, (address.host, address.port))
            return await asyncio.open_connection(sock=made)
        except BaseException:
            made.close()
            raise

    def close(self) -> None:
        """End the thread; sockets stay as they are."""
        self._pool.shutdown()

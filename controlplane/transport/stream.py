"""One gRPC call on a connection, and how whoever serves it sees it.

Owns what belongs to a single stream. Must not know sockets. The rule that is easy to break:
`Handler.on_end` is called exactly once for each call that was taken, whatever way it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from controlplane.transport.headers import StatusCode
from controlplane.transport.messages import Assembler, Outgoing

if TYPE_CHECKING:
    from controlplane.transport.connection import ServerConnection

LARGEST_MESSAGE: Final = 4 * 1024 * 1024  # bytes that are taken, as istiod


class Handler(Protocol):
    """What serves one call. Nothing is called after `on_end`."""

    def on_message(self, payload: bytes, /) -> None:
        """The client sent a message."""
        ...

    def on_half_close(self) -> None:
        """The client sends no more messages."""
        ...

    def on_writable(self) -> None:
        """The response for which `send` returned False is gone; the next one may be sent."""
        ...

    def on_end(self, reason: str, /) -> None:
        """The call is over, whoever ended it."""
        ...


class Call(Protocol):
    """What a handler does with its call."""

    @property
    def peer(self) -> str:
        """The client's address."""
        ...

    def send(self, payload: bytes, /) -> bool:
        """Send a message; return whether the next one may be sent at once.

        When False, `on_writable` says when. No message may be sent before that.
        """
        ...

    def end(self, code: StatusCode, message: str = "", /) -> None:
        """End the call with a status. What has not been written of a message is dropped."""
        ...

    def hold(self) -> None:
        """Let the client send no more than one default window (64 kB) until `resume`."""
        ...

    def resume(self) -> None:
        """Take messages of any allowed size, the usual state."""
        ...


Serve = Callable[[Call], Handler]
"""Takes a call and returns its handler, which may not end the call before it is returned."""


class Stream:
    """The state of one call. Windows are in bytes; `window` is negative when the peer says so."""

    __slots__ = (
        "_connection",
        "allowance",
        "assembler",
        "begun",
        "ended",
        "handler",
        "holding",
        "number",
        "outgoing",
        "window",
    )

    def __init__(
        self, connection: ServerConnection, number: int, *, window: int, allowance: int
    ) -> None:
        self._connection: Final = connection
        self.number: Final = number
        self.handler: Handler | None = None
        self.assembler: Final = Assembler(LARGEST_MESSAGE)
        self.window = window  # what we may send
        self.allowance = allowance  # what the client may send
        self.holding = False
        self.begun = False  # whether the response's headers were sent
        self.ended = False
        self.outgoing: Outgoing | None = None

    @property
    def peer(self) -> str:
        """The client's address."""
        return self._connection.peer

    def send(self, payload: bytes) -> bool:
        """Send a message; see `Call`."""
        return self._connection.send(self, payload)

    def end(self, code: StatusCode, message: str = "") -> None:
        """End the call with a status; see `Call`."""
        self._connection.end(self, code, message)

    def hold(self) -> None:
        """Take one default window and no more; see `Call`."""
        self.holding = True

    def resume(self) -> None:
        """Take everything again; see `Call`."""
        self.holding = False
        self._connection.resume(self)

"""A stream of bytes as lines: what a watch sends, one JSON document each.

The rule that is easy to break: a line that lacks its newline is no line. The end of a stream may
fall anywhere, and half an event looks like a shorter, valid one only by luck.
"""

from __future__ import annotations

from typing import Final

LONGEST_LINE: Final = 64 * 1024 * 1024
"""Bytes; etcd refuses objects beyond 1.5 MB, so this only bounds a server gone mad."""


class LineTooLongError(Exception):
    """A line grew beyond the bound."""


class Lines:
    """Splits chunks into lines, in time that grows with the bytes, however they are cut."""

    def __init__(self, *, longest: int = LONGEST_LINE) -> None:
        self._longest: Final = longest
        self._parts: list[bytes] = []  # of the line that is not complete
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that this chunk completes, without newlines and without empty ones.

        Raises LineTooLongError.
        """
        first, newline, rest = chunk.partition(b"\n")
        if not newline:
            self._keep(chunk)
            return []
        self._keep(first)
        lines = [b"".join(self._parts)]
        *whole, last = rest.split(b"\n")
        lines += whole
        self._parts, self._size = [], 0
        self._keep(last)
        return [line for line in lines if line]

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._longest:
            raise LineTooLongError(f"a line of more than {self._longest} bytes")
        if part:
            self._parts.append(part)

    @property
    def truncated(self) -> bool:
        """Whether the stream stands in the middle of a line."""
        return self._size > 0

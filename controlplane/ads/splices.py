"""The bytes of a joined message, taken out of those of the one before it.

A route configuration has a thousand virtual hosts, of which a change concerns one. Their bytes
lie scattered over the memory, and to read them is most of what it takes to join them; those of the
response before lie in one stretch. Must not know responses. The rule that is easy to break: a
part that is not the very same object may have changed in length, and what follows it has moved.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from operator import is_
from typing import Final, Self

from controlplane.translate.resources import Joined

_MOST: Final = 16  # parts that may differ: beyond, joining is as good

Piece = bytes | memoryview


class Splice:
    """A joined message, how long its parts are, and what to join it from now."""

    __slots__ = ("_joined", "_sizes", "pieces")

    def __init__(self, joined: Joined, sizes: array[int], pieces: Sequence[Piece]) -> None:
        self._joined: Final = joined
        self._sizes: Final = sizes
        self.pieces: Sequence[Piece] = pieces

    @classmethod
    def of(cls, joined: Joined) -> Self:
        """Return a message with its pieces one by one."""
        sizes = array("I", [len(part.beginning) + len(part.tail) for part in joined.parts])
        return cls(joined, sizes, joined.pieces)

    def then(self, joined: Joined, response: bytes) -> Self | None:
        """Return the message that takes the place of this one, with which a response ends.

        Its pieces are stretches of the response, and what differs. None when that is too much.
        """
        known, parts = self._joined.parts, joined.parts
        envelope = joined.head == self._joined.head and joined.tail == self._joined.tail
        if not envelope or len(known) != len(parts):
            return None
        changed = [at for at, same in enumerate(map(is_, known, parts)) if not same]
        if len(changed) > _MOST:
            return None
        sizes, view = self._sizes[:], memoryview(response)
        start = len(response) - len(joined.tail) - sum(sizes)  # of the first part
        copied = start - len(joined.head)
        pieces: list[Piece] = []
        for at in changed:
            part = parts[at]
            position = start + sum(self._sizes[:at])
            pieces += (view[copied:position], part.beginning, part.tail)
            copied = position + self._sizes[at]
            sizes[at] = len(part.beginning) + len(part.tail)
        pieces.append(view[copied:])
        return type(self)(joined, sizes, pieces)

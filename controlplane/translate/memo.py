"""A memory of what inputs became: the cache whose key is the whole input (rule 3).

Must not know what it remembers. The rule that is easy to break: a result may depend on nothing
but the key, so nothing here is ever invalidated; it is only forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar, cast

Input = TypeVar("Input", bound=Hashable)
Output = TypeVar("Output")


class Memo(Generic[Input, Output]):
    """Remembers the results of one function, forgetting what has not been asked for lately.

    Two generations: what is found in the old one moves to the young one. `breathe` is called
    between two passes over the mesh; when the young one then holds twice what one pass asked
    for, the old one is dropped. Never within a pass: what a pass asks for is in use, however
    much it is. Memory is therefore bounded by a small multiple of what is in use, or of
    `minimum`, which is to be small where one result is large.
    """

    __slots__ = ("_function", "_limit", "_minimum", "_old", "_turned", "_young")

    def __init__(self, function: Callable[[Input], Output], *, minimum: int = 1024) -> None:
        self._function = function
        self._young: dict[Input, Output] = {}
        self._old: dict[Input, Output] = {}
        self._minimum = minimum
        self._limit = minimum
        self._turned = True  # whether the young generation began with the pass before

    def __call__(self, value: Input) -> Output:
        """Return the function's result for this input, computed at most once while in use."""
        young = self._young
        try:
            return young[value]
        except KeyError:
            pass
        found = self._old.pop(value, None)
        if found is None:
            found = self._function(value)
        young[value] = found
        return found

    def each(self, values: tuple[Input, ...]) -> tuple[Output, ...]:
        """Return the results for many inputs, in their order."""
        found = tuple(map(self._young.get, values))  # of a thousand that are asked for again
        return tuple(map(self, values)) if None in found else cast("tuple[Output, ...]", found)

    def breathe(self) -> bool:
        """Say that a pass over the mesh is over and another may begin.

        Returns whether the generations turned: what is in use without being asked for each time
        has to be asked for once now.
        """
        if self._turned:
            self._limit = max(self._minimum, 2 * len(self._young))
            self._turned = False
        elif len(self._young) > self._limit:
            # What was used since the last turn survives one more turn.
            self._old, self._young = self._young, {}
            self._turned = True
        return self._turned

    def results(self) -> tuple[Output, ...]:
        """Return everything that is remembered."""
        return (*self._young.values(), *self._old.values())

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

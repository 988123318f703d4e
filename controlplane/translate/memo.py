"""A memory of what inputs became: the cache whose key is the whole input (rule 3).

Must not know what it remembers. The rule that is easy to break: a result may depend on nothing
but the key, so nothing here is ever invalidated; it is only forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Input = TypeVar("Input", bound=Hashable)
Output = TypeVar("Output")

_MINIMUM = 4096


class Memo(Generic[Input, Output]):
    """Remembers the results of one function, forgetting what has not been asked for lately.

    Two generations: what is found in the old one moves to the young one, and when the young
    one holds twice what the last turn left, the old one is dropped. Memory is therefore
    bounded by a small multiple of what is in use.
    """

    __slots__ = ("_function", "_limit", "_old", "_young")

    def __init__(self, function: Callable[[Input], Output]) -> None:
        self._function = function
        self._young: dict[Input, Output] = {}
        self._old: dict[Input, Output] = {}
        self._limit = _MINIMUM

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
        if len(young) > self._limit:
            # What was used since the last turn survives one more turn.
            self._limit = max(_MINIMUM, 2 * len(young))
            self._old, self._young = young, {}
        return found

    def results(self) -> tuple[Output, ...]:
        """Return everything that is remembered."""
        return (*self._young.values(), *self._old.values())

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

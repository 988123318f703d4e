"""What a memo keeps, and that it does not grow with the number of changes."""

from __future__ import annotations

from controlplane.translate.memo import Memo


class Counting:
    """A function that counts how often it is called."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, value: tuple[int, int]) -> str:
        """Remember the call."""
        self.calls.append(value)
        return str(value)


def test_the_same_input_is_computed_once() -> None:
    function = Counting()
    memo = Memo(function)
    assert memo((1, 1)) == memo((1, 1)) == "(1, 1)"
    assert function.calls == [(1, 1)]


def test_a_pass_never_forgets_what_it_asked_for() -> None:
    function = Counting()
    memo = Memo(function, minimum=4)
    for _ in range(5):
        for key in range(1000):
            memo((key, 0))
        memo.breathe()
    assert len(function.calls) == 1000


def test_memory_stays_a_small_multiple_of_what_is_in_use() -> None:
    function = Counting()
    memo = Memo(function, minimum=4)
    sizes = []
    for change in range(5000):
        for key in range(10):
            memo((key, change if key == 0 else 0))
        memo.breathe()
        sizes.append(len(memo))
    assert max(sizes) <= 10 * 6
    # What does not change is not computed again.
    assert len(function.calls) == 9 + 5000


def test_single_changes_between_passes_do_not_pile_up() -> None:
    memo = Memo(Counting(), minimum=16)
    for change in range(5000):
        memo((1, change))
        memo.breathe()
    assert len(memo) <= 3 * 16


def test_what_is_in_use_comes_back_from_the_old_generation() -> None:
    function = Counting()
    memo = Memo(function, minimum=4)
    for change in range(100):
        memo((0, 0))
        for key in range(1, 6):
            memo((key, change))
        memo.breathe()
    assert function.calls.count((0, 0)) == 1
    assert "(0, 0)" in memo.results()


def test_many_inputs_at_once_are_remembered_like_one_by_one() -> None:
    function = Counting()
    memo = Memo(function, minimum=4)
    values = tuple((key, 0) for key in range(20))
    for _ in range(8):  # through turns of the generations
        assert memo.each(values) == tuple(map(str, values))
        memo.breathe()
    assert memo.each((*values, (99, 9))) == (*map(str, values), "(99, 9)")
    assert function.calls == [*values, (99, 9)]

"""Keys of one or several values read as a mapping to tuples would."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from controlplane.model.several import Several

STEPS = st.lists(
    st.tuples(st.sampled_from("ab"), st.lists(st.integers(0, 3), max_size=3).map(tuple)),
    max_size=8,
)


@given(STEPS)
def test_values_are_those_that_were_put_last(steps: list[tuple[str, tuple[int, ...]]]) -> None:
    kept: Several[str, int] = Several()
    expected: dict[str, tuple[int, ...]] = {}
    for key, values in steps:
        kept.put(key, values)
        expected[key] = values
    there = {key: values for key, values in expected.items() if values}
    assert {key: kept.get(key) for key in kept} == there
    assert Counter(kept.items()) == Counter(
        (key, value) for key, values in there.items() for value in values
    )
    for key, values in expected.items():
        assert kept.pop(key) == values
        assert kept.get(key) == ()
    assert list(kept) == []

"""Columns give back what was put into them."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from controlplane.model.columns import beginning, column, joined, length, split, spread

ADDRESSES = st.lists(st.text("ab.:1", min_size=1, max_size=5), max_size=6)


@given(st.lists(st.sampled_from(("a", "b", None)), max_size=6))
def test_a_column_spreads_to_its_values(values: list[str | None]) -> None:
    kept = column(values)
    assert list(islice(spread(kept), len(values))) == values
    assert len(kept) == (len(values) if len(set(values)) > 1 else bool(values))


@given(st.lists(st.integers(0, 3), max_size=4))
def test_equal_columns_are_one_object(values: list[int]) -> None:
    assert column(values) is column(list(values))


@given(ADDRESSES)
def test_joined_texts_come_apart_again(texts: list[str]) -> None:
    text = joined(texts)
    assert split(text) == texts
    assert length(text) == len(texts)


@given(ADDRESSES, st.text("ab.:1", max_size=2))
def test_texts_are_found_by_how_they_begin(texts: list[str], start: str) -> None:
    found = list(beginning(joined(texts), start))
    assert found == [text for text in texts if text.startswith(start)]

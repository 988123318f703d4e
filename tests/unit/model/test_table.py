"""Tables: what they publish is what they were then, and stays so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.model.table import Layered, Table, changed_keys

KEYS = st.integers(0, 30)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS),
        st.tuples(st.just("drop"), KEYS),
        st.tuples(st.just("publish"), st.just(0)),
    ),
    max_size=80,
)


@given(size=st.integers(0, 25), steps=STEPS)
def test_what_was_published_is_what_a_dict_was_then(
    size: int, steps: list[tuple[str, int]]
) -> None:
    table: Table[int, str] = Table()
    plain: dict[int, str] = {}
    for key in range(size):
        plain[key] = f"first-{key}"
        table.put(key, plain[key])
    published = [(table.publish(), dict(plain))]
    for number, (step, key) in enumerate(steps):
        match step:
            case "put":
                plain[key] = f"{number}"
                table.put(key, plain[key])
            case "drop":
                plain.pop(key, None)
                table.drop(key)
            case _:
                published.append((table.publish(), dict(plain)))
        assert len(table) == len(plain)
        assert table.get(key) == plain.get(key)
        assert (key in table) is (key in plain)
        assert table.read == plain
    for found, expected in published:
        assert dict(found) == expected
        assert found == expected
        assert len(found) == len(expected)
        for other, _ in published:
            assert changed_keys(other, found) == {
                key for key in range(32) if other.get(key) is not found.get(key)
            }
        for key in range(-1, 32):
            assert found.get(key) == expected.get(key)
            assert found.get(key, "x") == expected.get(key, "x")
            assert (key in found) is (key in expected)


def test_a_small_change_of_a_large_table_is_a_layer_over_it() -> None:
    table: Table[int, int] = Table()
    for key in range(100):
        table.put(key, key)
    first = table.publish()
    assert type(first) is dict
    table.put(5, 50)
    table.drop(6)
    second = table.publish()
    assert isinstance(second, Layered)
    assert (first[5], second[5]) == (5, 50)
    with pytest.raises(KeyError):
        second[6]
    for key in range(20):
        table.put(key, 0)
    third = table.publish()
    assert type(third) is dict
    assert (first[5], second[5], second[7], third[7]) == (5, 50, 7, 0)

"""Columns give back what was put into them."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from controlplane.model.columns import (
    column,
    differing,
    has_network,
    joined,
    length,
    may_hold,
    network_of,
    networks,
    split,
    spread,
)

IPV4 = st.sampled_from(("1.1.1.1", "1.1.1.11", "11.1.1.1", "0.0.0.0", "255.255.255.255"))
OTHER = st.text("ab.:1", min_size=1, max_size=5) | st.sampled_from(("1.1", "1.1.1.01", "1"))
ADDRESSES = st.lists(IPV4, max_size=6) | st.lists(IPV4 | OTHER, max_size=6)


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


@given(ADDRESSES, ADDRESSES)
def test_what_differs_is_what_only_one_joined(texts: list[str], others: list[str]) -> None:
    assert differing(joined(texts), joined(others)) == set(texts) ^ set(others)


@given(ADDRESSES, IPV4 | OTHER)
def test_a_network_is_had_when_an_address_is_in_it(texts: list[str], other: str) -> None:
    network = network_of(other)
    assert has_network(joined(texts), network) == (network in map(network_of, texts))


def test_a_network_begins_where_an_address_does() -> None:
    assert not has_network(joined(["1.10.0.0", "1.2.3.4"]), "10.0.0")
    assert has_network(joined(["1.10.0.0", "10.0.0.4"]), "10.0.0")


@given(ADDRESSES, IPV4 | OTHER)
def test_what_was_joined_may_be_held(texts: list[str], other: str) -> None:
    text = joined(texts)
    assert all(may_hold(text, found) for found in texts)
    assert may_hold(text, other) or other not in texts


def test_ipv4_addresses_take_four_bytes_each() -> None:
    assert joined(["10.0.0.1", "10.0.0.2"]) == b"\x0a\x00\x00\x01\x0a\x00\x00\x02"
    assert joined(["10.0.0.1", "fd00::1"]) == "10.0.0.1\0fd00::1"
    assert not may_hold(joined(["10.0.0.1", "10.0.0.2"]), "10.0.0.3")


@given(ADDRESSES)
def test_the_networks_of_joined_addresses_are_those_of_each(texts: list[str]) -> None:
    assert networks(joined(texts)) == {network_of(text) for text in texts}

"""Hand-made protobuf framing is what protobuf itself writes."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from controlplane.translate import envoy
from controlplane.translate.resources import serialise, varint


@given(st.integers(1, 2**64 - 1))
@example(127)
@example(128)
@example(0x3FFF)
@example(0x4000)
def test_a_varint_is_the_one_of_protobuf(value: int) -> None:
    assert b"\x08" + varint(value) == serialise(envoy.UInt64Value(value=value))

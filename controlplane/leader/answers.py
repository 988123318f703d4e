"""Reading what an API server answers.

The rule that is easy to break: an answer that makes no sense is an API server that cannot be
used now, never an exception that ends the control plane.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from controlplane.kubernetes.errors import UnavailableError

T = TypeVar("T")


def read_answer(data: bytes, kind: type[T]) -> T:
    """Return the answer as a value of this type; raises UnavailableError."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnavailableError(f"the answer of the API server cannot be read: {error}") from None

"""Reading what an API server answers.

The rule that is easy to break: an answer that makes no sense is an API server that cannot be
used now, never an exception that ends the control plane.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from controlplane.kubernetes.errors import UnavailableError
from controlplane.sources.kubernetes.depth import cut_depth

T = TypeVar("T")


def read_answer(data: bytes, kind: type[T]) -> T:
    """Return the answer as a value of this type; raises UnavailableError.

    What a user nests deeper than a decoder goes is cut back.
    """
    try:
        try:
            return msgspec.json.decode(data, type=kind)
        except RecursionError:
            return msgspec.json.decode(cut_depth(data), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnavailableError(f"the answer of the API server cannot be read: {error}") from None

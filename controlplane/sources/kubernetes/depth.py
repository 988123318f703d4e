"""JSON that is nested deeper than anybody's decoder goes, cut back without one.

An API server takes 10,000 levels in fields without a schema, Python's decoders a tenth of that.
The rule that is easy to break: one such object must not take its whole list with it.
"""

from __future__ import annotations

import re
from typing import Final

DEEPEST: Final = 200
"""Levels that are kept; no field that the mesh reads is half as deep."""

CUT: Final = b'"\\u0000nested too deeply\\u0000"'
"""What stands in place of what was cut; no name or address can hold it."""

_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def cut_depth(data: bytes) -> bytes:
    """Return the text with everything below DEEPEST levels replaced by CUT."""
    kept: list[bytes] = []
    depth = begin = 0
    for token in _TOKEN.finditer(data):
        match data[token.start()]:
            case 0x5B | 0x7B:  # [ {
                depth += 1
                if depth == DEEPEST + 1:
                    kept += (data[begin : token.start()], CUT)
            case 0x5D | 0x7D:  # ] }
                if depth == DEEPEST + 1:
                    begin = token.end()
                depth -= 1
            case _:
                pass
    kept.append(data[begin:])
    return b"".join(kept)

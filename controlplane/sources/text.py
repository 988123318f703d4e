"""Bytes as text, and text as a row of JSON documents.

The rule that is easy to break: line numbers count from 1 and from the beginning of the file,
also for the second JSON document of a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec


class UnreadableError(Exception):
    """The text is not YAML or JSON: `line` is where, the text is a sentence."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def decode_text(data: bytes) -> str:
    """Return UTF-8 bytes as text without a byte order mark; raises UnreadableError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnreadableError(line, f"byte {error.start} is not UTF-8") from None


_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_BLANK: Final = re.compile(rb"[ \t\r\n]*")
_REASON: Final = re.compile(r"^(?:JSON is malformed: )?(.*?)(?: \(byte (\d+)\))?$")


def json_parts(data: bytes) -> Iterator[tuple[memoryview, int]]:
    """Yield each of the JSON documents that stand one after the other, with its first line.

    Raises UnreadableError at the first place that is not JSON, after the documents before it.
    """
    view = memoryview(data)
    line = 1
    at = len(_BYTE_ORDER_MARK) if data.startswith(_BYTE_ORDER_MARK) else 0
    while True:
        blank = _BLANK.match(data, at)
        begin = blank.end() if blank else at
        line += data.count(b"\n", at, begin)
        if begin == len(data):
            return
        at = begin + _json_end(view[begin:], line)
        yield view[begin:at], line
        line += data.count(b"\n", begin, at)


def _json_end(data: memoryview, line: int) -> int:
    """Return where the first JSON document of `data` ends."""
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except msgspec.DecodeError as error:
        found = _REASON.match(str(error))
        # msgspec counts from 1 what it has read, the offending byte included.
        at = int(found[2]) - 1 if found and found[2] else len(data)
        if "trailing characters" in str(error):
            return at
        reason = found[1] if found else str(error)
        place = line + bytes(data[:at]).count(b"\n")
        raise UnreadableError(place, f"not JSON: {reason}") from None
    except RecursionError:
        raise UnreadableError(line, "too many levels deep") from None
    return len(data)

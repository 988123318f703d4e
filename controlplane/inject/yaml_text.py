"""YAML as text: cutting a file into its documents, and writing data that every reader reads alike.

Owns where a document begins and which strings need quotes. Must not know objects. The rule that
is easy to break: Kubernetes reads YAML with a Go library that takes more words for numbers and
truth values (`1e3`, `0o17`, `y`) than ours does, so such a string is always quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import yaml

_LINE: Final = re.compile(r"[^\n]*\n|[^\n]+")
_SEPARATOR: Final = re.compile(r"---(?:[ \t\r\n]|$)")
_END: Final = re.compile(r"\.\.\.(?:[ \t\r\n]|$)")
_DOUBTFUL: Final = re.compile(r"[-+.\d].*|[yYnN]|[oO](?:n|ff|N|FF)|~", re.DOTALL)
_WIDTH: Final = 1_000_000


def cut(text: str) -> Iterator[tuple[str, int]]:
    """Yield each document with its separator in front, and its first line, counted from 1.

    Joined they are the text again. A separator begins a line, which nothing inside of a document
    can: a block of text is indented.
    """
    begin = 1
    chunk: list[str] = []
    for number, line in enumerate(_LINE.findall(text), start=1):
        if _SEPARATOR.match(line) and chunk and not _is_directives(chunk):
            yield "".join(chunk), begin
            begin, chunk = number, []
        chunk.append(line)
        if _END.match(line):
            yield "".join(chunk), begin
            begin, chunk = number + 1, []
    if chunk:
        yield "".join(chunk), begin


def _is_directives(lines: list[str]) -> bool:
    """Whether these lines (`%YAML 1.2`) belong to the document behind the next separator."""
    return any(line.startswith("%") for line in lines) and all(
        line.startswith(("%", "#")) or not line.strip() for line in lines
    )


def dump(value: Any) -> str:
    """Return data as a YAML document, in the order of its keys, ending with a line end."""
    return yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=_WIDTH,
    )


class _Dumper(yaml.SafeDumper):
    """Quotes what could be taken for something else, and repeats instead of using aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """Say yes: manifests are read by people."""
        del data
        return True


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if "\n" in text and text.rstrip(" \n") != "":
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|")
    style = "'" if _DOUBTFUL.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _string)

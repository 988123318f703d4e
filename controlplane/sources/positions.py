"""YAML and JSON text as plain data, together with the line of every part.

Owns how text becomes data: which words are booleans and numbers, what an alias may cost, how
deep a document may be. Must not know kinds. The rule that is easy to break: the reader is built
on parse events with a stack of its own, because composing nodes recurses in C and a file of
nothing but brackets would end the process.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import yaml

from controlplane.model.schema import Mistake, Path
from controlplane.sources.text import UnreadableError

MAX_DEPTH: Final = 100
MAX_ALIASED: Final = 100_000
"""How many values the aliases of one document may stand for, together."""


class Tree:
    """Where a value stands, and the same for its parts."""

    __slots__ = ("children", "line")

    def __init__(self, line: int) -> None:
        self.line = line
        self.children: dict[str | int, Tree] = {}

    def locate(self, path: Path) -> int:
        """Return the line of the part at `path`, or of the nearest part above it."""
        tree = self
        for part in path:
            below = tree.children.get(part)
            if below is None:
                break
            tree = below
        return tree.line


class Document(NamedTuple):
    """One document: its data, its lines, and what is wrong with it as text."""

    value: Any
    tree: Tree
    problems: tuple[Mistake, ...] = ()


class _Frame:
    """A mapping or a list that is being read."""

    __slots__ = ("anchor", "key", "key_line", "merges", "size", "tree", "value")

    def __init__(self, value: Any, *, line: int, anchor: str | None) -> None:
        self.value = value
        self.tree = Tree(line)
        self.anchor = anchor
        self.key: str | None = None  # the key whose value comes next
        self.key_line = line
        self.merges: list[tuple[Any, Tree]] = []
        self.size = 1


class _Builder:
    """Builds one document out of the events between its start and its end."""

    def __init__(self) -> None:
        self.stack: list[_Frame] = []
        self.anchors: dict[str, tuple[Any, Tree, int]] = {}
        self.aliased = 0
        self.result: tuple[Any, Tree] | None = None
        self.problems: list[Mistake] = []

    def open(self, value: Any, event: Any) -> None:
        """Begin a mapping or list."""
        line = event.start_mark.line + 1
        if self._awaits_key():
            raise UnreadableError(line, "a key must be a word, not a list or an object")
        if len(self.stack) >= MAX_DEPTH:
            raise UnreadableError(line, f"more than {MAX_DEPTH} levels deep")
        self.stack.append(_Frame(value, line=line, anchor=event.anchor))

    def close(self) -> None:
        """End the innermost mapping or list."""
        frame = self.stack.pop()
        for value, tree in frame.merges:
            for key, entry in value.items():
                if key not in frame.value:
                    frame.value[key] = entry
                    frame.tree.children[key] = tree.children[key]
        if frame.anchor:
            self.anchors[frame.anchor] = (frame.value, frame.tree, frame.size)
        self._add(frame.value, frame.tree, frame.size)

    def scalar(self, event: Any) -> None:
        """Take a word: a key or a value."""
        line = event.start_mark.line + 1
        if self._awaits_key():
            self._key(event, line)
            return
        value = _scalar(event, line)
        tree = Tree(line)
        if event.anchor:
            self.anchors[event.anchor] = (value, tree, 1)
        self._add(value, tree, 1)

    def alias(self, event: Any) -> None:
        """Take what an anchor stands for; an anchor that is still open is not there yet."""
        line = event.start_mark.line + 1
        found = self.anchors.get(event.anchor)
        if found is None:
            raise UnreadableError(line, f"the alias *{event.anchor} has no anchor before it")
        value, tree, size = found
        if self._awaits_key():
            raise UnreadableError(line, "an alias cannot be a key")
        self.aliased += size
        if self.aliased > MAX_ALIASED:
            raise UnreadableError(line, f"aliases stand for more than {MAX_ALIASED} values")
        self._add(value, tree, size)

    def _awaits_key(self) -> bool:
        if not self.stack:
            return False
        top = self.stack[-1]
        return isinstance(top.value, dict) and top.key is None

    def _key(self, event: Any, line: int) -> None:
        top = self.stack[-1]
        key = sys.intern(_key_text(event, line))
        if key in top.tree.children and key != "<<":
            self.problems.append(Mistake((*self._path(), key), f"{key!r} is there twice"))
        top.key = key
        top.key_line = line

    def _path(self) -> Path:
        parts: list[str | int] = []
        for frame in self.stack[:-1]:
            parts.append(len(frame.value) if isinstance(frame.value, list) else frame.key or "")
        return tuple(parts)

    def _add(self, value: Any, tree: Tree, size: int) -> None:
        if not self.stack:
            self.result = (value, tree)
            return
        top = self.stack[-1]
        top.size += size
        if isinstance(top.value, list):
            top.tree.children[len(top.value)] = tree
            top.value.append(value)
            return
        key = top.key or ""
        top.key = None
        if key == "<<":
            self._merge(top, value, tree)
            return
        top.value[key] = value
        if tree.line != top.key_line:
            # The line of a field is that of its key; a shared (aliased) tree stays as it is.
            own = Tree(top.key_line)
            own.children = tree.children
            tree = own
        top.tree.children[key] = tree

    def _merge(self, top: _Frame, value: Any, tree: Tree) -> None:
        entries = (
            [(entry, tree.children[index]) for index, entry in enumerate(value)]
            if isinstance(value, list)
            else [(value, tree)]
        )
        for entry, below in entries:
            if not isinstance(entry, dict):
                raise UnreadableError(top.key_line, "`<<` takes an object or a list of objects")
            top.merges.append((entry, below))


def yaml_documents(text: str) -> Iterator[Document]:
    """Yield the documents of a YAML text; an empty document has the value None.

    Raises UnreadableError at the first place that is not YAML, after the documents before it.
    """
    builder = _Builder()
    try:
        for event in yaml.parse(text, yaml.CSafeLoader):
            match event:
                case yaml.ScalarEvent():
                    builder.scalar(event)
                case yaml.MappingStartEvent():
                    builder.open({}, event)
                case yaml.SequenceStartEvent():
                    builder.open([], event)
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    builder.close()
                case yaml.AliasEvent():
                    builder.alias(event)
                case yaml.DocumentStartEvent():
                    builder = _Builder()
                case yaml.DocumentEndEvent():
                    mark: Any = event.start_mark  # open in the stubs, always there
                    value, tree = builder.result or (None, Tree(mark.line + 1))
                    yield Document(value, tree, tuple(builder.problems))
    except yaml.MarkedYAMLError as error:
        place = error.problem_mark or error.context_mark
        reason = error.problem or error.context or "not YAML"
        raise UnreadableError(1 if place is None else place.line + 1, reason) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 1
        raise UnreadableError(line, str(error.reason)) from None


_TRUE: Final = frozenset("y Y yes Yes YES true True TRUE on On ON".split())
_FALSE: Final = frozenset("n N no No NO false False FALSE off Off OFF".split())
_NULL: Final = frozenset(["", "~", "null", "Null", "NULL"])
_INTEGER: Final = re.compile(r"[-+]?(0[xX][0-9a-fA-F_]+|0[oO]?[0-7_]*|0[bB][01_]+|[1-9][0-9_]*)")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MAYBE_SPECIAL: Final = frozenset("0123456789+-.~nNyYtTfFoO")
_TAG: Final = "tag:yaml.org,2002:"


def resolve(text: str, line: int = 0) -> Any:
    """Return what an unquoted word means: YAML 1.1 as Kubernetes reads it.

    No timestamps and no numbers in base 60; a leading 0 is octal. Raises UnreadableError for
    numbers that JSON does not have.
    """
    if not text:
        return None
    if text[0] not in _MAYBE_SPECIAL:
        return text
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if text in _NULL:
        return None
    if _INTEGER.fullmatch(text):
        return _integer(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        raise UnreadableError(line, f"{text} is not a number that JSON has")
    return text


def _integer(text: str) -> int | float | str:
    sign = -1 if text[0] == "-" else 1
    digits = text.lstrip("+-")
    if digits[:1] == "0" and len(digits) > 1 and digits[1:].isdigit():
        digits = f"0o{digits[1:]}"
    try:
        value = sign * int(digits, 0)
    except ValueError:  # 0x without digits, or more digits than Python reads
        return text
    # Beyond 64 bits Go has floats only.
    return value if -(2**63) <= value < 2**64 else float(value)


def _scalar(event: Any, line: int) -> Any:
    tag = event.tag
    if tag is None or tag == "!":
        return resolve(event.value, line) if event.implicit[0] and tag is None else event.value
    match tag.removeprefix(_TAG):
        case "str" | "binary" | "timestamp":
            return event.value
        case "int" | "bool" | "float" | "null" as name:
            value = resolve(event.value, line)
            if name == "float" and type(value) is int:
                return float(value)
            if type(value).__name__ == ("NoneType" if name == "null" else name):
                return value
            raise UnreadableError(line, f"{event.value!r} is not of type !!{name}")
        case _:
            raise UnreadableError(line, f"the tag {tag} is not known")


def _key_text(event: Any, line: int) -> str:
    value = _scalar(event, line)
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case None:
            return "null"
        case _:
            return str(event.value)


_SPACE: Final = re.compile(r"[ \t\r\n]*")
_WORD: Final = re.compile(r"[-+.0-9a-zA-Z]+")
_STRINGS: Final = json.JSONDecoder()


def json_tree(text: str, *, first_line: int = 1) -> Document:
    """Return valid JSON text as data with its lines; repeated keys are among the problems.

    Raises UnreadableError when it is deeper than MAX_DEPTH.
    """
    reader = _JsonReader(text, first_line)
    value, tree = reader.read(())
    return Document(value, tree, tuple(reader.problems))


class _JsonReader:
    """Reads text that is known to be valid JSON, keeping count of lines."""

    def __init__(self, text: str, first_line: int) -> None:
        self.text = text
        self.at = 0
        self.counted = 0
        self.line = first_line
        self.problems: list[Mistake] = []

    def read(self, path: Path) -> tuple[Any, Tree]:
        self._skip()
        if len(path) > MAX_DEPTH:
            raise UnreadableError(self.line, f"more than {MAX_DEPTH} levels deep")
        tree = Tree(self.line)
        match self.text[self.at]:
            case "{":
                return self._object(path, tree), tree
            case "[":
                return self._array(path, tree), tree
            case '"':
                return self._string(), tree
            case _:
                found = _WORD.match(self.text, self.at)
                end = found.end() if found else len(self.text)
                word, self.at = self.text[self.at : end], end
                return json.loads(word), tree

    def _object(self, path: Path, tree: Tree) -> dict[str, Any]:
        value: dict[str, Any] = {}
        self.at += 1
        while self._next("}"):
            line = self.line
            key = self._string()
            if key in value:
                self.problems.append(Mistake((*path, key), f"{key!r} is there twice"))
            self._skip()
            self.at += 1  # the colon
            value[key], below = self.read((*path, key))
            below.line = line
            tree.children[key] = below
        return value

    def _array(self, path: Path, tree: Tree) -> list[Any]:
        value: list[Any] = []
        self.at += 1
        while self._next("]"):
            index = len(value)
            entry, tree.children[index] = self.read((*path, index))
            value.append(entry)
        return value

    def _next(self, end: str) -> bool:
        """Go to the next entry; False, and past the end, when there is none."""
        self._skip()
        if self.text[self.at] == ",":
            self.at += 1
            self._skip()
        if self.text[self.at] == end:
            self.at += 1
            return False
        return True

    def _string(self) -> str:
        value: str
        value, self.at = _STRINGS.raw_decode(self.text, self.at)
        return value

    def _skip(self) -> None:
        found = _SPACE.match(self.text, self.at)
        if found:
            self.at = found.end()
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = self.at

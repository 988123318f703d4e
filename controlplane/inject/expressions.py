"""The small language inside `${...}` of an injection template.

    annotations["sidecar.istio.io/logLevel"] | values.global.proxy.logLevel | "warning"
    capture.mode == "TPROXY" and not pod.hostIPC

Owns parsing and evaluating. Must not know pods or templates. The rule that is easy to break: an
expression only looks things up. It calls nothing, loops over nothing and reaches no attribute of
a Python object, so a template from anywhere is safe to evaluate.

Grammar, loosest first: `or`, `and`, `not`, `==` `!=`, `|` (the left side, or the right one when
the left does not exist), then a literal, a path or parentheses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

MAX_LENGTH: Final = 1000
MAX_DEPTH: Final = 30
"""How deep parentheses and `not` may nest."""

_TOKEN: Final = re.compile(
    r"""\s*(?:
        (?P<text>"[^"\\]*"|'[^'\\]*')
      | (?P<number>-?\d+(?:\.\d+)?)
      | (?P<word>[A-Za-z_][A-Za-z0-9_-]*)
      | (?P<sign>==|!=|[|().\[\]])
    )""",
    re.VERBOSE,
)
_LITERALS: Final = {"true": True, "false": False, "null": None}
_WORDS: Final = frozenset({"and", "or", "not", *_LITERALS})


class ExpressionError(Exception):
    """The expression is malformed, or names something that does not exist."""


class _Missing:
    """What a path gives that leads nowhere; `name` is the path as far as it was written."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


def evaluate(text: str, scope: Mapping[str, Any]) -> Any:
    """Return what the expression says in this scope.

    Raises ExpressionError when it is malformed or when a name in it does not exist and no `|`
    follows.
    """
    return _known(_Parser(text, scope).whole())


def truth(text: str, scope: Mapping[str, Any]) -> bool:
    """Return whether the expression holds; a name that does not exist counts as false."""
    value = _Parser(text, scope).whole()
    return not isinstance(value, _Missing) and bool(value)


def check(text: str) -> None:
    """Raise ExpressionError when the expression is malformed, whatever the scope."""
    # With nothing in scope every path leads nowhere, and that is no mistake of syntax.
    _Parser(text, {}).whole()


class _Parser:
    """Evaluates while it parses: both sides of every operator are pure, so nothing is lost."""

    def __init__(self, text: str, scope: Mapping[str, Any]) -> None:
        if len(text) > MAX_LENGTH:
            raise ExpressionError(f"an expression of {len(text)} characters is too long")
        self.text = text
        self.scope = scope
        self.tokens = list(_tokens(text))
        self.at = 0
        self.depth = 0

    def whole(self) -> Any:
        value = self._or()
        if self.at < len(self.tokens):
            raise self._wrong(f"{self.tokens[self.at][1]!r} does not fit there")
        return value

    def _or(self) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._wrong("it nests too deep")
        value = self._and()
        while self._take("word", "or"):
            right = self._and()
            value = _is_true(value) or _is_true(right)
        self.depth -= 1
        return value

    def _and(self) -> Any:
        value = self._not()
        while self._take("word", "and"):
            right = self._not()
            value = _is_true(value) and _is_true(right)
        return value

    def _not(self) -> Any:
        negations = 0
        while self._take("word", "not"):
            negations += 1
        value = self._comparison()
        if negations:
            return _is_true(value) is (negations % 2 == 0)
        return value

    def _comparison(self) -> Any:
        left = self._fallback()
        for sign in ("==", "!="):
            if self._take("sign", sign):
                right = self._fallback()
                # A name that does not exist equals nothing, so that a condition may ask for it.
                same = (
                    not isinstance(left, _Missing)
                    and not isinstance(right, _Missing)
                    and left == right
                )
                return same is (sign == "==")
        return left

    def _fallback(self) -> Any:
        value = self._operand()
        while self._take("sign", "|"):
            right = self._operand()
            if isinstance(value, _Missing):
                value = right
        return value

    def _operand(self) -> Any:
        if self.at == len(self.tokens):
            raise self._wrong("it ends too early")
        kind, text = self.tokens[self.at]
        self.at += 1
        if kind == "text":
            return text[1:-1]
        if kind == "number":
            return float(text) if "." in text else int(text)
        if text in _LITERALS:
            return _LITERALS[text]
        if text == "(":
            value = self._or()
            self._need(")")
            return value
        if kind == "word" and text not in _WORDS:
            return self._path(text)
        raise self._wrong(f"{text!r} does not fit there")

    def _path(self, root: str) -> Any:
        value = self.scope.get(root, _Missing(root))
        name = root
        while True:
            if self._take("sign", "."):
                kind, key = self._next()
                if kind != "word":
                    raise self._wrong(f"{key!r} is no name; write [{key!r}]")
                name = f"{name}.{key}"
            elif self._take("sign", "["):
                kind, quoted = self._next()
                if kind != "text":
                    raise self._wrong(f"{quoted!r} must be a text in quotes")
                key = quoted[1:-1]
                name = f"{name}[{quoted}]"
                self._need("]")
            else:
                return value
            found = isinstance(value, Mapping) and key in value
            value = value[key] if found else _Missing(name)

    def _next(self) -> tuple[str, str]:
        if self.at == len(self.tokens):
            raise self._wrong("it ends too early")
        self.at += 1
        return self.tokens[self.at - 1]

    def _take(self, kind: str, text: str) -> bool:
        if self.at < len(self.tokens) and self.tokens[self.at] == (kind, text):
            self.at += 1
            return True
        return False

    def _need(self, sign: str) -> None:
        if not self._take("sign", sign):
            raise self._wrong(f"{sign!r} is missing")

    def _wrong(self, reason: str) -> ExpressionError:
        return ExpressionError(f"${{{self.text}}} cannot be read: {reason}")


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at = 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise ExpressionError(f"${{{text}}} cannot be read: {text[at:].strip()[:20]!r}")
        found.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return found


def _is_true(value: Any) -> bool:
    return not isinstance(value, _Missing) and bool(value)


def _known(value: Any) -> Any:
    if isinstance(value, _Missing):
        raise ExpressionError(f"there is no value {value.name}")
    return value

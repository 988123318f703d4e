"""The conditions of a VirtualService match as an Envoy RouteMatch.

Owns what each condition means. Must not know actions or proxies: conditions on the caller
(port, gateways, sourceLabels, sourceNamespace) are decided before. The rule that is easy to
break: a condition that cannot be expressed makes the whole match impossible, because leaving
out only the condition would send the route more traffic than its author asked for.
"""

from __future__ import annotations

import re
import warnings
from typing import Any, Final

from controlplane.model.matching import StringMatch
from controlplane.model.virtual_service import HTTPMatchRequest
from controlplane.translate.envoy import (
    BoolValue,
    HeaderMatcher,
    QueryParameterMatcher,
    RegexMatcher,
    RouteMatch,
    StringMatcher,
)

CLAIM_PREFIX: Final = "@request.auth.claims"
MAX_QUERY_NAME: Final = 1024
# RE2 has no lookaround, no back-references, no conditionals, no atomic groups, and refuses a
# repetition of more than 1000; Python's own parser accepts all of them.
_NOT_RE2: Final = re.compile(
    r"(?<!\\)(?:\\\\)*(\(\?(?:=|!|<=|<!|\(|>|#|P=)|\\[1-9]|[*+?]\+|\{\d+(?:,\d*)?\}\+)"
)
_REGEX_PART: Final = re.compile(r"\\.|[()]|\{(\d+)(?:,(\d*))?\}|.", re.DOTALL)
_MAX_REPETITION: Final = 1000
# What RE2 has and Python's parser refuses; such an expression is left to Envoy to judge.
_RE2_ONLY: Final = re.compile(r"\\[pPQCzE]|\[\[:|\(\?[a-zA-Z-]+[:)]|\(\?P?<")


class UnexpressibleError(Exception):
    """A condition that Envoy would refuse or has no words for; its text names field and reason."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field: Final = field
        self.reason: Final = reason


def build_match(match: HTTPMatchRequest | None) -> Any:
    """Return the RouteMatch of one match block; None stands for "every request".

    Raises UnexpressibleError when a condition cannot be said to Envoy.
    """
    if match is None:
        return RouteMatch(prefix="/")
    out = RouteMatch(case_sensitive=BoolValue(value=not match.ignore_uri_case))
    _set_path(out, match.uri)
    named = [(name, False, value) for name, value in (match.headers or {}).items()]
    named += [(name, True, value) for name, value in (match.without_headers or {}).items()]
    for name, inverted, value in sorted(named, key=lambda entry: (entry[0], entry[1])):
        field = "withoutHeaders" if inverted else "headers"
        out.headers.append(_header(f"{field}[{name}]", name, value, inverted=inverted))
    for name, pseudo in (
        (":method", match.method),
        (":authority", match.authority),
        (":scheme", match.scheme),
    ):
        if pseudo is not None:
            out.headers.append(_header(name[1:], name, pseudo))
    for name, value in sorted((match.query_params or {}).items()):
        out.query_parameters.append(_query_parameter(name, value))
    return out


def is_catch_all(match: Any) -> bool:
    """Whether a RouteMatch takes every request, so that no later route can be reached.

    Source: Istio's route.IsCatchAllRoute.
    """
    path = match.WhichOneof("path_specifier")
    everywhere = (path == "prefix" and match.prefix == "/") or (
        path == "safe_regex" and match.safe_regex.regex == ".*"
    )
    return everywhere and not match.headers and not match.query_parameters


def path_of(match: Any) -> str:
    """Return the path of a RouteMatch as trace operations write it."""
    match match.WhichOneof("path_specifier"):
        case "prefix":
            return f"{match.prefix}*"
        case "path":
            path: str = match.path
            return path
        case "safe_regex":
            regex: str = match.safe_regex.regex
            return regex
        case _:
            return "/*"


def string_matcher(value: StringMatch, field: str) -> Any:
    """Return the StringMatcher of a match that has a value; raises UnexpressibleError."""
    if value.exact is not None:
        return StringMatcher(exact=value.exact)
    if value.prefix:
        return StringMatcher(prefix=value.prefix)
    if value.regex:
        return StringMatcher(safe_regex=regex_matcher(value.regex, f"{field}.regex"))
    raise UnexpressibleError(field, "says nothing to compare with")


def regex_matcher(text: str, field: str) -> Any:
    """Return the RegexMatcher of an RE2 expression; raises UnexpressibleError."""
    problem = regex_problem(text)
    if problem is not None:
        raise UnexpressibleError(field, problem)
    return RegexMatcher(regex=text)


def one_line(text: str, field: str) -> str:
    """Return a text that Envoy takes as part of a header; raises UnexpressibleError."""
    if any(character in text for character in "\0\r\n"):
        raise UnexpressibleError(field, f"{text!r} is not a single line")
    return text


def regex_problem(text: str) -> str | None:
    """Return why RE2 would refuse an expression, None when nothing speaks against it.

    There is no RE2 here, so this is a lower bound: what it names is surely refused, and one
    refused expression would cost the whole route configuration.
    """
    if not text:
        return "the expression is empty"
    outside = re.sub(r"\[\^?\]?(?:\\.|[^\]\\])*\]", "[x]", text)
    found = _NOT_RE2.search(outside)
    if found is not None:
        return f"{found.group(1)!r} is not part of the RE2 syntax"
    if _most_repetitions(outside) > _MAX_REPETITION:
        return f"RE2 repeats at most {_MAX_REPETITION} times, nested repetitions multiplied"
    if _RE2_ONLY.search(text):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(text)
    except re.error as error:
        return f"not a regular expression: {error}"
    return None


def _most_repetitions(expression: str) -> int:
    """Return how often the most repeated part may be repeated: nested counts are multiplied.

    The expression has no character classes any more. `*`, `+` and `?` do not count in RE2.
    """
    most = last = 1
    enclosing: list[int] = []
    for part in _REGEX_PART.finditer(expression):
        low, high = part.groups()
        if low is not None:
            last *= max(int(low), int(high or 0), 1)
        elif part[0] == "(":
            enclosing.append(most)
            most = last = 1
        elif part[0] == ")":
            last = most
            most = max(most, enclosing.pop()) if enclosing else most
        elif part[0] not in "*+?":
            last = 1
        most = max(most, last)
    return most


def _set_path(out: Any, uri: StringMatch | None) -> None:
    if uri is None or (uri.exact is None and uri.prefix is None and uri.regex is None):
        out.prefix = "/"
    elif uri.exact is not None:
        out.path = uri.exact
    elif uri.prefix is not None:
        out.prefix = uri.prefix
    elif uri.regex is not None:
        out.safe_regex.CopyFrom(regex_matcher(uri.regex, "uri.regex"))


def _means_present(value: StringMatch) -> bool:
    """Whether any value will do. `*` is no RE2 expression, but Istio users write it for "any"."""
    if value.exact is not None:
        return False
    return value.regex == "*" or not (value.prefix or value.regex)


def _header(field: str, name: str, value: StringMatch, *, inverted: bool = False) -> Any:
    if name.startswith(CLAIM_PREFIX):
        raise UnexpressibleError(field, "matching on JWT claims is not supported")
    if not name:
        raise UnexpressibleError(field, "a header needs a name")
    one_line(name, field)
    if _means_present(value):
        return HeaderMatcher(name=name, present_match=True, invert_match=inverted)
    return HeaderMatcher(
        name=name,
        string_match=string_matcher(value, field),
        invert_match=inverted,
        treat_missing_header_as_empty=inverted,
    )


def _query_parameter(name: str, value: StringMatch) -> Any:
    field = f"queryParams[{name}]"
    if not 0 < len(name) <= MAX_QUERY_NAME:
        raise UnexpressibleError(field, f"a parameter's name has 1 to {MAX_QUERY_NAME} bytes")
    if _means_present(value):
        return QueryParameterMatcher(name=name, present_match=True)
    return QueryParameterMatcher(name=name, string_match=string_matcher(value, field))

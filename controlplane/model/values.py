"""Rules for single values that several kinds share: hosts, addresses, times, patterns, headers.

Each function yields findings at the path it is given. Source of the rules: Istio's
pkg/config/validation. Must not know kinds.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator
from typing import Final

from controlplane.model.base import Duration
from controlplane.model.diagnostics import Level
from controlplane.model.matching import StringMatch
from controlplane.model.re2 import re2_problem
from controlplane.model.schema import Finding, Path

INVALID: Final = "IST0106"  # Istio's SchemaValidationError
DOUBTFUL: Final = "IST0133"  # Istio's SchemaWarning
DEPRECATED: Final = "IST0002"
MILLISECOND: Final = 1_000_000

_LABEL: Final = r"[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?"
_HOST: Final = re.compile(rf"(?=.{{1,255}}$){_LABEL}(\.{_LABEL})*\.?")
_DNS_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_HEADER: Final = re.compile(r":?[-!#$%&'*+.^_`|~0-9A-Za-z]+")


def error(path: Path, message: str) -> Finding:
    """Return a finding that keeps the object out."""
    return Finding(Level.ERROR, INVALID, path, message)


def warning(path: Path, message: str, code: str = DOUBTFUL) -> Finding:
    """Return a finding that the object survives."""
    return Finding(Level.WARNING, code, path, message)


def is_ip(text: str) -> bool:
    """Whether the text is an IPv4 or IPv6 address."""
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError):  # ValueError: a NUL character, or no ASCII
        return False
    return True


def is_address_range(text: str) -> bool:
    """Whether the text is an address or a CIDR."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def is_host(text: str) -> bool:
    """Whether the text is a DNS name; underscores are let through, as Istio does."""
    return _HOST.fullmatch(text) is not None


def is_dns_label(text: str) -> bool:
    """Whether the text is one lower-case label of at most 63 characters."""
    return _DNS_LABEL.fullmatch(text) is not None


def host(
    path: Path, text: str, *, wildcard: bool = True, address: bool = True
) -> Iterator[Finding]:
    """A DNS name, by permission with `*` as its whole first label, or an IP address."""
    if not text:
        yield error(path, "must not be empty")
        return
    named = is_host(text.removeprefix("*.")) or text == "*" if wildcard else is_host(text)
    if not named and not (address and is_ip(text)):
        yield error(path, f"{text!r} is not a valid host name")


def export_to(path: Path, entries: tuple[str, ...]) -> Iterator[Finding]:
    """`.`, `*`, `~` or namespaces; `*` and `~` say everything alone."""
    seen: set[str] = set()
    for index, entry in enumerate(entries):
        if entry in seen:
            yield error((*path, index), f"{entry!r} is there twice")
        elif entry not in (".", "*", "~") and not is_dns_label(entry):
            yield error(
                (*path, index), f"{entry!r} is neither a namespace nor one of `.`, `*`, `~`"
            )
        elif entry in ("*", "~") and len(entries) > 1:
            yield error((*path, index), f"{entry!r} cannot be combined with other values")
        seen.add(entry)


def duration(
    path: Path, value: Duration | None, *, least: int = MILLISECOND, zero: bool = False
) -> Iterator[Finding]:
    """At least `least` nanoseconds and, as in Istio, in whole milliseconds."""
    if value is None or (zero and value == 0):
        return
    if value < least:
        yield error(path, f"{value} is too short, it must be at least {Duration(least)}")
    elif value % MILLISECOND:
        yield error(path, f"{value} is finer than a millisecond")


def regex(path: Path, pattern: str) -> Iterator[Finding]:
    """A pattern of RE2, as far as that can be told without RE2."""
    problem = re2_problem(pattern)
    if problem:
        yield error(path, f"the pattern {problem}")


def string_match(
    path: Path, value: StringMatch | None, *, presence: bool = False
) -> Iterator[Finding]:
    """Exactly one of exact, prefix and regex; none of them only where that means "present"."""
    if value is None:
        return
    kinds = {"exact": value.exact, "prefix": value.prefix, "regex": value.regex}
    given = [name for name, text in kinds.items() if text is not None]
    if len(given) > 1:
        yield error(path, f"only one of {', '.join(given)} may be set")
        return
    if not given:
        if not presence:
            yield error(path, "one of exact, prefix and regex must be set")
        return
    if value.regex is not None:
        # In Istio an empty or `*` pattern of a header means that it is there.
        if presence and value.regex in ("", "*"):
            return
        if not value.regex:
            yield error((*path, "regex"), "must not be empty")
        else:
            yield from regex((*path, "regex"), value.regex)
    elif value.prefix == "":
        yield error((*path, "prefix"), "must not be empty")


def header_name(path: Path, name: str, *, operation: bool = False) -> Iterator[Finding]:
    """A name that a header can have; an operation may not touch what Envoy owns."""
    if not name:
        yield error(path, "a header name must not be empty")
    elif _HEADER.fullmatch(name) is None:
        yield error(path, f"{name!r} is not a header name")
    elif operation and name.startswith(":") and name.lower() != ":authority":
        yield error(path, f"{name!r} cannot be changed")


def unique(path: Path, names: Iterable[str], what: str) -> Iterator[Finding]:
    """No name twice; empty ones do not count. `path` is that of the list's entries' parent."""
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        if not name:
            continue
        if name in seen:
            yield error((*path, index), f"{what} {name!r} is already taken by entry {seen[name]}")
        else:
            seen[name] = index


def at_most_one(path: Path, given: Iterable[tuple[str, object]]) -> Iterator[Finding]:
    """At most one of the named fields is set."""
    names = [name for name, value in given if value]
    if len(names) > 1:
        yield error(path, f"only one of {', '.join(names)} may be set")


def labels(path: Path, values: Iterable[tuple[str, str]] | None) -> Iterator[Finding]:
    """Label keys are not empty; values have the form of Kubernetes."""
    for key, value in values or ():
        if not key:
            yield error(path, "a label key must not be empty")
        elif len(value) > 63 or (value and not _LABEL_VALUE.fullmatch(value)):
            yield error((*path, key), f"{value!r} is not a label value")


_LABEL_VALUE: Final = re.compile(r"[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?")

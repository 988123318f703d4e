"""The annotations of a pod: which are wrong, and what the wrong one should be.

Owns one sentence for every mistake. Must not know templates. The rule that is easy to break: a
wrong annotation is never ignored. A port that is not excluded, or a probe that is not rewritten,
would show much later and somewhere else.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from controlplane.capture.values import parse_cidrs, parse_interfaces, parse_ports
from controlplane.inject import names
from controlplane.inject.shape import container_problems
from controlplane.model.base import Model, dec_hook, enc_hook
from controlplane.model.mesh import ProxyConfig
from controlplane.model.schema import format_path, mistakes, without_nulls
from controlplane.sources.positions import yaml_documents
from controlplane.sources.text import UnreadableError

Check = Callable[[str, str], str | None]
"""Takes the annotation's name and value, returns what is wrong with it."""

TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})
"""The words of Go's ParseBool, which Istio reads annotations with."""

_QUANTITY: Final = re.compile(r"\+?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+|m|k|[KMGTPE]i?|[nu])?")
_LEVELS: Final = ("trace", "debug", "info", "warning", "warn", "error", "critical", "off")
_COMPONENTS: Final = re.compile(r"[a-z0-9_]+:(?:" + "|".join(_LEVELS) + r")")
_IMAGE: Final = re.compile(r"[\w][\w.:/@-]*")
_PREFIXES: Final = (
    "sidecar.istio.io/",
    "traffic.sidecar.istio.io/",
    "readiness.status.sidecar.istio.io/",
    "status.sidecar.istio.io/",
    "proxy.istio.io/",
    "inject.istio.io/",
)


def problems(annotations: Mapping[str, str]) -> list[str]:
    """Return a sentence for each annotation that cannot be followed, in the order of names."""
    found = []
    for name in sorted(annotations):
        check = _CHECKS.get(name)
        wrong = check(f"annotation {name}", annotations[name]) if check else None
        if wrong is not None:
            found.append(wrong)
    return found


def warnings(annotations: Mapping[str, str]) -> list[str]:
    """Return a sentence for each annotation that looks like one of ours and has no effect."""
    found = []
    for name in sorted(annotations):
        if name in names.OBSOLETE_ANNOTATIONS:
            instead = names.OBSOLETE_ANNOTATIONS[name]
            found.append(f"annotation {name} has no effect any more: {instead}")
        elif name.startswith(_PREFIXES) and name not in names.KNOWN_ANNOTATIONS:
            near = difflib.get_close_matches(name, sorted(names.KNOWN_ANNOTATIONS), n=1, cutoff=0.8)
            hint = f"; did you mean {near[0]}?" if near else ""
            found.append(f"annotation {name} is not known and has no effect{hint}")
    return found


def is_true(annotations: Mapping[str, str], name: str, *, default: bool) -> bool:
    """Return the truth value of a checked annotation."""
    value = annotations.get(name)
    return default if value is None else value in TRUE


def proxy_config(annotations: Mapping[str, str], base: ProxyConfig) -> ProxyConfig:
    """Return the settings of this pod's proxy: `proxy.istio.io/config` over the mesh's.

    A field replaces the mesh's, only proxyMetadata is merged key by key (Istio's
    mesh.ApplyProxyConfig). The annotation must have been checked.
    """
    text = annotations.get(names.PROXY_CONFIG)
    fields = _config_fields(text) if text is not None else {}
    if not fields:
        return base
    merged = {**to_plain(base), **fields}
    metadata = {**(base.proxy_metadata or {}), **(fields.get("proxyMetadata") or {})}
    if metadata:
        merged["proxyMetadata"] = metadata
    return msgspec.convert(merged, ProxyConfig, dec_hook=dec_hook)


def to_plain(value: Model) -> dict[str, Any]:
    """Return a model value as plain data, without the fields that have their defaults."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value, enc_hook=enc_hook))
    return found


def json_map(text: str) -> dict[str, dict[str, Any]]:
    """Return the mapping of mappings that a checked JSON annotation holds."""
    return msgspec.json.decode(text, type=dict[str, dict[str, Any]])


def _config_fields(text: str) -> dict[str, Any]:
    documents = [document for document in yaml_documents(text) if document.value is not None]
    if len(documents) > 1:
        raise UnreadableError(documents[1].tree.line, "it must be one document")
    if not documents:
        return {}
    if documents[0].problems:
        problem = documents[0].problems[0]
        raise UnreadableError(documents[0].tree.locate(problem.path), problem.message)
    value = documents[0].value
    if not isinstance(value, dict):
        raise UnreadableError(1, "it must be the fields of a ProxyConfig")
    plain: dict[str, Any] = without_nulls(value)
    return plain


def _check_config(label: str, text: str) -> str | None:
    try:
        fields = _config_fields(text)
    except UnreadableError as error:
        return f"{label}: line {error.line}: {error}"
    for mistake in mistakes(fields, ProxyConfig):
        return f"{label}: {format_path(mistake.path)}: {mistake.message}"
    port = fields.get("statusPort", 15020)
    if not 0 <= port <= 65535:
        return f"{label}: statusPort: {port} is not a port; use a number from 0 to 65535"
    return None


def _listed(parse: Callable[[str, str, list[str]], Any], *, wildcard: bool) -> Check:
    def check(label: str, text: str) -> str | None:
        found: list[str] = []
        if not (wildcard and text.strip() == "*"):
            parse(label, text, found)
        return found[0] if found else None

    return check


def _one_of(*words: str) -> Check:
    def check(label: str, text: str) -> str | None:
        if text in words:
            return None
        return f"{label}: {text!r} is not one of {', '.join(words)}"

    return check


def _matching(pattern: re.Pattern[str], wanted: str) -> Check:
    def check(label: str, text: str) -> str | None:
        return None if pattern.fullmatch(text) else f"{label}: {text!r} is not {wanted}"

    return check


def _number(maximum: int) -> Check:
    def check(label: str, text: str) -> str | None:
        if text.isascii() and text.isdigit() and int(text) <= maximum:
            return None
        return f"{label}: {text!r} is not a number from 0 to {maximum}"

    return check


def _boolean(label: str, text: str) -> str | None:
    return None if text in TRUE | FALSE else f"{label}: {text!r} is neither true nor false"


def _component_levels(label: str, text: str) -> str | None:
    for part in text.split(","):
        if text and not _COMPONENTS.fullmatch(part.strip()):
            return f"{label}: {part.strip()!r} is not of the form COMPONENT:LEVEL"
    return None


def _json_mapping(label: str, text: str) -> str | None:
    try:
        json_map(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f'{label}: it must be JSON such as {{"NAME": {{...}}}}'
    return None


def _overrides(label: str, text: str) -> str | None:
    try:
        found = msgspec.json.decode(text, type=dict[str, list[dict[str, Any]]])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f'{label}: it must be JSON such as {{"containers": [{{...}}]}}'
    for group, containers in found.items():
        for index, container in enumerate(containers):
            for problem in container_problems(container, f"{group}[{index}]"):
                return f"{label}: {problem}"
    return None


_LEVEL: Final = _one_of(*_LEVELS)
_AMOUNT: Final = _matching(_QUANTITY, "an amount such as 100m, 0.5 or 128Mi")
_UINT32: Final = _number(4294967295)
_CHECKS: Final[Mapping[str, Check]] = {
    names.INTERCEPTION_MODE: _one_of("REDIRECT", "TPROXY", "NONE"),
    names.STATUS_PORT: _number(65535),
    names.READINESS_INITIAL_DELAY: _UINT32,
    names.READINESS_PERIOD: _UINT32,
    names.READINESS_FAILURE_THRESHOLD: _UINT32,
    names.INCLUDE_OUTBOUND_RANGES: _listed(parse_cidrs, wildcard=True),
    names.EXCLUDE_OUTBOUND_RANGES: _listed(parse_cidrs, wildcard=False),
    names.INCLUDE_INBOUND_PORTS: _listed(parse_ports, wildcard=True),
    names.EXCLUDE_INBOUND_PORTS: _listed(parse_ports, wildcard=False),
    names.INCLUDE_OUTBOUND_PORTS: _listed(parse_ports, wildcard=False),
    names.EXCLUDE_OUTBOUND_PORTS: _listed(parse_ports, wildcard=False),
    names.EXCLUDE_INTERFACES: _listed(parse_interfaces, wildcard=False),
    names.KUBEVIRT_INTERFACES: _listed(parse_interfaces, wildcard=False),
    names.MERGE_METRICS: _boolean,
    names.REWRITE_PROBES: _boolean,
    names.NATIVE_SIDECAR: _boolean,
    names.CAP_NET_BIND_SERVICE: _boolean,
    names.PROXY_CPU: _AMOUNT,
    names.PROXY_CPU_LIMIT: _AMOUNT,
    names.PROXY_MEMORY: _AMOUNT,
    names.PROXY_MEMORY_LIMIT: _AMOUNT,
    names.PROXY_IMAGE: _matching(_IMAGE, "the name of an image"),
    names.PROXY_IMAGE_TYPE: _one_of("default", "distroless", "debug"),
    names.LOG_LEVEL: _LEVEL,
    names.COMPONENT_LOG_LEVEL: _component_levels,
    names.USER_VOLUME: _json_mapping,
    names.USER_VOLUME_MOUNT: _json_mapping,
    names.PROXY_CONFIG: _check_config,
    names.OVERRIDES: _overrides,
}

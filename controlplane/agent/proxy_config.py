"""ProxyConfig as one pod has it: the mesh's defaults, PROXY_CONFIG and the annotation together.

Owns the order in which they win. Must not know what the fields do.
Easy to break: what is merged is the text as it was written, so that "said" and "default" can still
be told apart afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import yaml

from controlplane.errors import UsageError
from controlplane.model.base import dec_hook
from controlplane.model.mesh import ProxyConfig

CONFIG_ANNOTATION: Final = "proxy.istio.io/config"


def effective_config(
    mesh_file: str, proxy_config: str, annotation: str
) -> tuple[dict[str, Any], ProxyConfig]:
    """Return the ProxyConfig that three YAML texts make together, as written and decoded.

    The later wins field by field; maps are merged. Raises UsageError naming the text.
    """
    raw: dict[str, Any] = {}
    for name, text in (
        ("the mesh config's defaultConfig", mesh_file),
        ("PROXY_CONFIG", proxy_config),
        (f"the annotation {CONFIG_ANNOTATION}", annotation),
    ):
        part = yaml_object(text, name)
        if name.startswith("the mesh"):
            part = part.get("defaultConfig", {})
        for key in ("proxyMetadata", "runtimeValues"):
            if isinstance(part.get(key), dict):
                part[key] = {k: scalar_text(v) for k, v in part[key].items()}
        raw = merged(raw, part)
        try:
            decoded = msgspec.convert(raw, ProxyConfig, dec_hook=dec_hook)
        except msgspec.ValidationError as error:
            raise UsageError(f"{name}: {error}") from None
    return raw, decoded


def yaml_object(text: str, name: str) -> dict[str, Any]:
    """Return the mapping of a YAML or JSON text, an empty one for no text; raises UsageError."""
    try:
        found = yaml.safe_load(text) if text.strip() else {}
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{name} cannot be parsed: {reason}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UsageError(f"{name} is not a mapping")
    return found


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return both mappings as one; inner mappings are merged, all else is replaced."""
    made = dict(under)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(made.get(key), Mapping):
            made[key] = merged(made[key], value)
        else:
            made[key] = value
    return made


def scalar_text(value: Any) -> Any:
    """A YAML scalar as the text that was written, as far as that can be told."""
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case _:
            return value

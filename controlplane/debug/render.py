"""JSON of the debug output: structs, resources, pretty or compact.

Must not know which endpoint asks. The rule that is easy to break: one resource that cannot be
expanded (an Any of an unknown type) must not take the rest of the dump with it.
"""

from __future__ import annotations

import base64
import datetime
from typing import Any

import msgspec

from controlplane.debug.redact import redact
from controlplane.model.base import enc_hook
from controlplane.translate.expand import expand
from controlplane.translate.resources import Resource


def builtins(value: Any) -> Any:
    """Return structs as plain dictionaries and lists, with Kubernetes' camelCase names."""
    return msgspec.to_builtins(value, enc_hook=enc_hook, str_keys=True)


def expanded(resource: Resource) -> dict[str, Any]:
    """Return a resource as proto3 JSON with proto field names and every Any expanded.

    Starts with `@type`, as Envoy's own dump does. A resource whose Any types are unknown here
    comes back as its type, name and base64 body with an `error`.
    """
    try:
        return {"@type": resource.type.url, **expand(resource)}
    except (TypeError, ValueError) as error:
        return {
            "@type": resource.type.url,
            "name": resource.name,
            "error": f"cannot be expanded: {error}",
            "body": base64.b64encode(resource.body).decode(),
        }


def to_json(value: Any, *, pretty: bool = False) -> bytes:
    """Return the redacted JSON of a view's data, with a newline at its end."""
    encoded = msgspec.json.encode(redact(value), enc_hook=enc_hook)
    return (msgspec.json.format(encoded, indent=2) if pretty else encoded) + b"\n"


def timestamp(seconds: float) -> str | None:
    """Return RFC 3339 in UTC of seconds since the epoch, None for 0 (never)."""
    if not seconds:
        return None
    moment = datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

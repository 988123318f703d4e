"""What a cluster says about itself: `istio` metadata and stat names.

Must not know policies. The rule that is easy to break: a stat name ends in `;`, which the tag
expressions of Istio's bootstrap look for.
"""

from __future__ import annotations

from typing import Any


def set_metadata(cluster: Any, *, host: str, name: str, namespace: str) -> Any:
    """Name a service in a cluster's `istio` metadata; return the metadata's fields."""
    fields = cluster.metadata.filter_metadata["istio"].fields
    entry = fields["services"].list_value.values.add().struct_value.fields
    entry["host"].string_value = host
    entry["name"].string_value = name
    entry["namespace"].string_value = namespace
    return fields


def stat_name(
    pattern: str,
    *,
    host: str,
    name: str,
    namespace: str,
    port: int,
    port_name: str,
    subset: str = "",
    target_port: int = 0,
    kubernetes: bool = True,
) -> str:
    """Return the stat name that a mesh-wide pattern makes (Istio's BuildStatPrefix)."""
    for word, text in (
        ("%SERVICE%", f"{name}.{namespace}" if kubernetes else host),
        ("%SERVICE_FQDN%", host),
        ("%SERVICE_NAME%", name),
        ("%SUBSET_NAME%", subset),
        ("%TARGET_PORT%", str(target_port)),
        ("%SERVICE_PORT%", str(port)),
        ("%SERVICE_PORT_NAME%", port_name),
    ):
        pattern = pattern.replace(word, text)
    return f"{pattern};"

"""What `pylot render` prints, as data: the offline walk from files to resources."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from controlplane.errors import NodeError, UsageError
from controlplane.model.diagnostics import Diagnostic
from controlplane.model.proxy import Proxy, make_proxy
from controlplane.model.snapshot import Snapshot
from controlplane.sources.files import load_snapshot
from controlplane.translate.build import Generator
from controlplane.translate.expand import expand
from controlplane.translate.resources import Resource


def rendered(
    *,
    config_dirs: Sequence[Path],
    mesh_config: Path | None,
    domain: str,
    cluster_id: str,
    node: str,
    labels: str,
    metadata: str,
    kinds: Sequence[str],
) -> tuple[dict[str, list[dict[str, Any]]], tuple[Diagnostic, ...]]:
    """Return the asked-for resources by plural kind, and what is wrong with the objects.

    Raises UsageError for wrong arguments, a malformed node id among them.
    """
    try:
        proxy = make_proxy(node, _metadata(metadata, labels))
    except NodeError as error:
        raise UsageError(f"--node: {error}") from None
    for path in config_dirs:
        if not path.is_dir():
            raise UsageError(f"--config-dir: {path} is not a directory")
    if mesh_config is not None and not mesh_config.is_file():
        raise UsageError(f"--mesh-config: there is no file {mesh_config}")
    snapshot = load_snapshot(
        config_dirs, mesh_config=mesh_config, domain=domain, cluster_id=cluster_id
    )
    generator = Generator()
    resources = all_resources(generator, snapshot, proxy)
    lost = generator.diagnostics(snapshot, generator.classify(proxy, snapshot))
    return (
        {kind: [expand(resource) for resource in resources[kind]] for kind in kinds},
        tuple(dict.fromkeys((*snapshot.diagnostics, *lost))),
    )


def all_resources(
    generator: Generator, snapshot: Snapshot, proxy: Proxy
) -> dict[str, tuple[Resource, ...]]:
    """Return everything that one proxy gets: what it would ask for by name is included."""
    cls = generator.classify(proxy, snapshot)
    clusters = generator.clusters(snapshot, cls)
    listeners = generator.listeners(snapshot, cls)
    route_names = sorted({name for listener in listeners for name in listener.routes})
    eds_names = [cluster.eds_name for cluster in clusters if cluster.eds_name]
    return {
        "listeners": listeners,
        "clusters": clusters,
        "routes": tuple(generator.route(snapshot, cls, name) for name in route_names),
        "endpoints": tuple(generator.load_assignment(snapshot, cls, name) for name in eds_names),
    }


def short_table(data: dict[str, list[dict[str, Any]]]) -> str:
    """Return one line per resource: kind and name."""
    lines = [f"{'KIND':<10} NAME"]
    for kind, resources in data.items():
        for resource in resources:
            lines.append(f"{kind:<10} {resource.get('name') or resource.get('cluster_name')}")
    return "\n".join(lines)


def _metadata(text: str, labels: str) -> dict[str, Any]:
    try:
        metadata = msgspec.json.decode(text, type=dict[str, Any]) if text else {}
    except msgspec.MsgspecError as error:
        raise UsageError(f"--metadata: not a JSON object: {error}") from None
    pairs: dict[str, str] = {}
    for pair in filter(None, labels.split(",")):
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--labels: {pair!r} is not of the form key=value")
        pairs[key.strip()] = value.strip()
    if pairs:
        given = metadata.get("LABELS", {})
        if not isinstance(given, dict):
            raise UsageError("--metadata: LABELS is not an object")
        metadata["LABELS"] = {**given, **pairs}
    return metadata

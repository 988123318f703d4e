"""Translation alone, in this process: what classes and proxies cost.

A thousand proxies are classified, and all resources of each one's class are asked for, as the
serving side does. The rule that is easy to break: each measurement has a generator of its own,
or the second would find everything remembered.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from pathlib import Path

from controlplane.model.proxy import Proxy, make_proxy
from controlplane.model.snapshot import Snapshot
from controlplane.sources.files import load_snapshot
from controlplane.translate.build import Generator
from controlplane.translate.scope import ProxyClass
from tests.bench import world
from tests.bench.bed import Size, mesh_directory
from tests.bench.report import Row, progress


def proxies(count: int, *, classes: int, namespaces: int, version: str = "") -> tuple[Proxy, ...]:
    """Return the proxies of `world.sidecars`, as the control plane sees them.

    With a version of Istio they have an agent that serves secrets.
    """
    return tuple(
        make_proxy(
            f"sidecar~172.16.{played.number // 250}.{played.number % 250 + 1}"
            f"~pod-{played.number}.{played.namespace}~{played.namespace}.svc.{world.DOMAIN}",
            {"NAMESPACE": played.namespace, "LABELS": played.labels, "ISTIO_VERSION": version},
        )
        for played in world.sidecars(count, classes=classes, namespaces=namespaces)
    )


def load(directory: Path) -> Snapshot:
    """Return the snapshot of a directory."""
    return load_snapshot([directory], mesh_config=None, domain=world.DOMAIN)


def translate(generator: Generator, snapshot: Snapshot, clients: Sequence[Proxy]) -> int:
    """Ask for everything that these proxies get; return how many classes they are."""
    seen: dict[ProxyClass, tuple[str, ...]] = {}  # and the endpoints that they ask for
    for proxy in clients:
        cls = generator.classify(proxy, snapshot)
        clusters = generator.clusters(snapshot, cls)
        if cls not in seen:
            seen[cls] = tuple(cluster.eds_name for cluster in clusters if cluster.eds_name)
        generator.load_assignments(snapshot, cls, seen[cls])
        for listener in generator.listeners(snapshot, cls):
            for name in listener.routes:
                generator.route(snapshot, cls, name)
    return len(seen)


def translation(rows: list[Row], size: Size) -> None:
    """Add the rows of 1, 10 and 100 classes: of a thousand proxies, and of one proxy of each."""
    spread = size._replace(namespaces=100)
    with mesh_directory(spread) as directory:
        started = time.process_time()
        snapshot = load(directory.objects)
        progress(f"translate, snapshot of {spread.services} services")
        rows.append(_row("files to snapshot", time.process_time() - started, size, 0))
    for classes in (1, 10, 100):
        for count in (classes, size.sidecars):
            progress(f"translate, {classes} classes, {count} proxies")
            clients = proxies(count, classes=classes, namespaces=spread.namespaces)
            generator = Generator()
            gc.collect()
            started = time.process_time()
            found = translate(generator, snapshot, clients)
            took = time.process_time() - started
            if found != classes:
                raise AssertionError(f"{classes} classes were meant and {found} were found")
            rows.append(_row(f"{classes} classes, {count:,} proxies", took, size, count))


def _row(measure: str, value: float, size: Size, count: int) -> Row:
    return Row(
        scenario="translate",
        measure=measure,
        unit="CPU s",
        value=value,
        sidecars=count,
        services=size.services,
    )

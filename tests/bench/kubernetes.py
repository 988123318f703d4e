"""The Kubernetes source: what a cold start and a stream of changes cost the control plane.

The API server is `tests.bench.api`, a process of its own. Nobody is connected: what sidecars cost
is measured elsewhere. The rule that is easy to break: the CPU of a cold start is all of it, with
the interpreter and imports.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.bench.report import Row, progress
from tests.bench.server import HOST, Server

SERVICES, SLICES = 1_000, 10_000
RATE = 500
COLD_MARK = 3.0  # CPU seconds
EVENTS_MARK = 25.0  # percent of one core


@contextlib.contextmanager
def api_server(services: int, slices: int) -> Iterator[str]:
    """Run the API server; yields its URL."""
    words = [sys.executable, "-m", "tests.bench.api", str(services), str(slices)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://{HOST}:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def kubeconfig(directory: Path, url: str) -> Path:
    """Write a kubeconfig for a server without TLS."""
    path = directory / "kubeconfig"
    path.write_text(
        "{kind: Config, current-context: b, contexts: [{name: b, context: {cluster: b}}], "
        f"users: [], clusters: [{{name: b, cluster: {{server: '{url}'}}}}]}}"
    )
    return path


def kubernetes(
    rows: list[Row], *, quick: bool, services: int = SERVICES, slices: int = SLICES
) -> None:
    """Add the rows of a cold start and of steady changes."""
    seconds = 3 if quick else 20
    with tempfile.TemporaryDirectory() as root, api_server(services, slices) as url:
        progress(f"kubernetes, {slices} EndpointSlices")
        with Server(kubeconfig=kubeconfig(Path(root), url)) as server:
            wall = server.wait_ready()
            cold = server.cpu()
            memory = server.memory().anonymous
            rows.append(
                Row(
                    scenario="kubernetes",
                    measure=f"CPU to /ready, {slices:,} EndpointSlices",
                    unit="CPU s",
                    value=cold,
                    mark=COLD_MARK,
                    cpu=cold,
                    memory=memory,
                    services=services,
                    details={"wall": wall},
                )
            )
            progress(f"kubernetes, {RATE} events per second")
            before, began = server.quiet(), time.monotonic()
            asked = f"{url}/events?rate={RATE}&seconds={seconds}"
            with urllib.request.urlopen(asked, timeout=seconds + 60) as answer:
                sent = int(answer.read())
            used = server.quiet() - before
            took = time.monotonic() - began
            rows.append(
                Row(
                    scenario="kubernetes",
                    measure=f"share of a core at {RATE} events/s",
                    unit="%",
                    value=100 * used / seconds,
                    mark=EVENTS_MARK,
                    cpu=used,
                    memory=server.memory().anonymous,
                    services=services,
                    details={"events": sent, "us per event": 1e6 * used / sent, "wall": took},
                )
            )

"""A replica of the control plane in a test's cluster: `pylot serve` as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.kubernetes.cluster import Cluster

PATIENCE: Final = 60.0
"""Seconds for anything here; much less is usual on an idle machine."""


class Replica:
    """A running `pylot serve`; its addresses are on ports that the system chose."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, name: str) -> None:
        self.process = process
        self.name = name
        self._log = log

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged."""
        text = self._log.read_text(errors="replace")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def found(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """Return the lines of the log with this event and these fields."""
        return [
            line
            for line in self.lines()
            if line["event"] == event and fields.items() <= line.items()
        ]

    def wait_for(self, event: str, **fields: Any) -> dict[str, Any]:
        """Return the first line of the log with this event and these fields."""
        end = time.monotonic() + PATIENCE
        while not (lines := self.found(event, **fields)):
            assert self.process.poll() is None, self._log.read_text()[-3000:]
            assert time.monotonic() < end, f"no {event} {fields}: {self._log.read_text()[-3000:]}"
            time.sleep(0.05)
        return lines[0]

    def port(self, name: str) -> int:
        """The port of a listener: `http`, `grpc` or `https`."""
        address: str = self.wait_for("app.listening", name=name)["address"]
        return int(address.rpartition(":")[2])

    def debug(self, page: str) -> Any:
        """Return what a page of `/debug` says."""
        url = f"http://127.0.0.1:{self.port('http')}/debug/{page}"
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return json.load(answer)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, and wait for that."""
        self.process.send_signal(number)
        self.process.wait(PATIENCE)


@contextlib.contextmanager
def running_replica(
    cluster: Cluster,
    directory: Path,
    name: str,
    *flags: str,
    root_namespace: str,
    https_host: str = "127.0.0.1",
) -> Iterator[Replica]:
    """Run a replica whose pod has that name; it is gone at the end of the block."""
    command = [sys.executable, "-m", "controlplane", "serve", "--log-format", "json"]
    command += ["--kubeconfig", str(cluster.kubeconfig), "--root-namespace", root_namespace]
    command += ["--secure-grpc-addr", "", "--monitoring-addr", ""]
    for listener, host in (("grpc", "127.0.0.1"), ("http", "127.0.0.1"), ("https", https_host)):
        command += [f"--{listener}-addr", f"{host}:0"]
    path = directory / f"{name}.log"
    with path.open("wb") as log:
        process = subprocess.Popen(
            [*command, *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, "POD_NAME": name, "PYTHONUNBUFFERED": "1"},
        )
    try:
        yield Replica(process, path, name)
    finally:
        process.kill()
        process.wait(PATIENCE)

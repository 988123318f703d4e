"""The server under test: a child process, its readiness, its CPU time and its memory.

Must not know sidecars or scenarios. The rule that is easy to break: the server's output is read
or goes to a file, or a full pipe would stop it.
"""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, NamedTuple, Self

import msgspec

from tests.bench.process import Memory, cpu_seconds, memory

HOST: Final = "127.0.0.1"
_PATIENCE: Final = 180.0


class Seen(NamedTuple):
    """A source delivered something at that moment (time.monotonic())."""

    source: str
    seen: float
    objects: int


class Server:
    """One control plane, of files or of a Kubernetes API.

    `measured` runs it on files and with the source that takes lines (`served`).
    """

    def __init__(
        self,
        directory: Path = Path(),
        mesh_config: Path = Path(),
        *,
        measured: bool = True,
        kubeconfig: Path | None = None,
    ) -> None:
        measured = measured and kubeconfig is None
        self.grpc: Final = (HOST, free_port())
        self._http: Final = free_port()
        self._log: Final[IO[bytes]] = tempfile.TemporaryFile()  # noqa: SIM115  # closed at exit
        words = [sys.executable, "-m"]
        if measured:
            words += ["tests.bench.served", str(directory), str(mesh_config)]
            words += [str(self.grpc[1]), str(self._http)]
        else:
            words += ["controlplane", "serve", "--monitoring-addr", "", "--secure-grpc-addr", ""]
            if kubeconfig is None:
                words += ["--no-kubernetes", "--config-dir", str(directory)]
                words += ["--mesh-config", str(mesh_config)]
            else:
                words += ["--kubeconfig", str(kubeconfig)]
            words += ["--grpc-addr", f"{HOST}:{self.grpc[1]}"]
            words += ["--http-addr", f"{HOST}:{self._http}", "--https-addr", ""]
        self.started: Final = time.monotonic()
        self._process: Final = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if measured else self._log,
            stderr=self._log,
        )
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def wait_ready(self) -> float:
        """Wait for `/ready`; return how many seconds after the start it came."""
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(f"the control plane ended:\n{self.log()}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.get("/ready")[0] == 200:
                    return time.monotonic() - self.started
            if time.monotonic() - self.started > _PATIENCE:
                raise TimeoutError(f"the control plane is not ready:\n{self.log()}")
            time.sleep(0.01)

    def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body of a request to the HTTP listener."""
        connection = http.client.HTTPConnection(HOST, self._http, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def apply(self, *objects: dict[str, Any]) -> None:
        """Hand objects to the source that takes lines."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"".join(msgspec.json.encode(one) + b"\n" for one in objects))
        self._process.stdin.flush()

    def seen(self, seconds: float = 30.0) -> Seen:
        """Return the next thing that a source delivered; TimeoutError when nothing comes."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + seconds
        while b"\n" not in self._unread:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"no source delivers anything:\n{self.log()}")
            data = self._process.stdout.read1(65536)  # type: ignore[attr-defined]
            if not data:
                raise RuntimeError(f"the control plane ended:\n{self.log()}")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        said = msgspec.json.decode(line)
        return Seen(said["source"], said["seen"], said["objects"])

    def drain(self) -> list[float]:
        """Return the moments of everything that sources delivered and nobody has asked for."""
        found: list[float] = []
        with contextlib.suppress(TimeoutError):
            while True:
                found.append(self.seen(0.0).seen)
        return found

    def forget_seen(self) -> None:
        """Drop what sources delivered until now."""
        self.drain()

    def cpu(self) -> float:
        """CPU seconds of the server since it began."""
        return cpu_seconds(self.pid)

    def memory(self) -> Memory:
        """The server's memory."""
        return memory(self.pid)

    def quiet(self, *, seconds: float = 30.0) -> float:
        """Wait until the server does nothing more; return its CPU seconds."""
        deadline = time.monotonic() + seconds
        before = self.cpu()
        while time.monotonic() < deadline:
            time.sleep(0.2)
            now = self.cpu()
            if now - before < 0.004:  # two hundredths of one core: timers
                return now
            before = now
        return before

    def log(self, lines: int = 20) -> str:
        """The last lines of the server's log."""
        self._log.seek(0)
        return "\n".join(self._log.read().decode(errors="replace").splitlines()[-lines:])


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port

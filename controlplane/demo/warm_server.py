"""A warm interpreter: has imported `pylot` once, and forks a process for each command.

Owns: the forking, what a new process is before its command begins (log, namespaces, environment),
and the news about its end. Must not know: what the commands do.
Easy to break: nothing here may start a thread, and no command runs in this process itself, because
a fork takes over what is in memory. The children die with this process, and it with its owner.

It is asked over its standard input, a unix socket: one JSON object per line, both ways.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

PRELOADED: Final = (
    "aiohttp.web",
    "controlplane.agent.run",
    "controlplane.capture.apply",
    "controlplane.logs",
)
COMMANDS: Final = "controlplane.cli.main"
PREPARED: Final = (("iptables",), ("proxy", "sidecar"))
RECEIVED: Final = 1 << 20
_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWNET: Final = 0x40000000
_MS_BIND: Final = 0x1000
_MS_SLAVE_OF_ALL: Final = 0x80000 | 0x4000
_PR_SET_PDEATHSIG: Final = 1
_libc: Final[Any] = ctypes.CDLL(None, use_errno=True)


class Start(msgspec.Struct, frozen=True, tag=True):
    """Asks for a process that runs `pylot` with these words."""

    number: int
    words: tuple[str, ...]
    environment: dict[str, str]
    log: str
    namespace: str = ""


class Signal(msgspec.Struct, frozen=True, tag=True):
    """Asks for a signal; one that comes too late reaches nobody."""

    pid: int
    signal: int


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Says that everything is imported."""


class Started(msgspec.Struct, frozen=True, tag=True):
    """Says the process id for a Start."""

    number: int
    pid: int


class Ended(msgspec.Struct, frozen=True, tag=True):
    """Says the exit code of a process, negative for a signal."""

    pid: int
    code: int


Request = Start | Signal
News = Ready | Started | Ended


class Server:
    """Answers requests until the owner closes the socket."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._running: set[int] = set()
        self._decoder = msgspec.json.Decoder(Request)

    def run(self) -> None:
        """Serve; returns when the owner is gone."""
        wake, wakeup = socket.socketpair()
        for end in (wake, wakeup):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        self._say(Ready())
        rest = b""
        while True:
            ready, _, _ = select.select([self._channel, wake], [], [])
            if wake in ready:
                wake.recv(4096)
                self._reap()
            if self._channel in ready:
                data = self._channel.recv(RECEIVED)
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._answer(self._decoder.decode(line))

    def _answer(self, request: Request) -> None:
        match request:
            case Start():
                server = os.getpid()
                pid = os.fork()
                if pid == 0:
                    become(request, server=server)
                self._running.add(pid)
                self._say(Started(request.number, pid))
            case Signal(pid=pid, signal=number):
                # An ended child keeps its id until we have taken leave of it.
                if pid in self._running:
                    os.kill(pid, number)

    def _reap(self) -> None:
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            self._running.discard(pid)
            self._say(Ended(pid, os.waitstatus_to_exitcode(status)))

    def _say(self, news: News) -> None:
        self._channel.sendall(msgspec.json.encode(news) + b"\n")


def become(request: Start, *, server: int) -> NoReturn:
    """In the new process: take on what was asked for, run the command, and end.

    `server` is our parent's process id.
    """
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != server:
            os._exit(code)  # it died before we asked to be told
        os.setsid()
        redirect(request.log)
        if request.namespace:
            enter(request.namespace)
        os.environ.clear()
        os.environ.update(request.environment)
        code = run_command(request.words)
    except BaseException:  # noqa: BLE001 - whatever it is, it must not return into the server
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def redirect(log: str) -> None:
    """Give the process a standard input that is empty, and write its output to the log."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(output)


def enter(namespace: str) -> None:
    """Enter a namespace of `ip netns`, and show the files that are kept for it below /etc.

    Raises OSError.
    """
    descriptor = os.open(f"/var/run/netns/{namespace}", os.O_RDONLY)
    _must(_libc.setns(descriptor, _CLONE_NEWNET), f"entering {namespace}")
    os.close(descriptor)
    files = Path("/etc/netns") / namespace
    if not files.is_dir():
        return
    _must(_libc.unshare(_CLONE_NEWNS), "a mount namespace")
    _must(_libc.mount(b"none", b"/", None, _MS_SLAVE_OF_ALL, None), "keeping mounts to ourselves")
    for file in files.iterdir():
        place = Path("/etc") / file.name
        done = _libc.mount(bytes(file), bytes(place), None, _MS_BIND, None)
        _must(done, f"showing {file} as {place}")


def run_command(words: tuple[str, ...]) -> int:
    """Run `pylot` with these words, and return its exit code."""
    main = importlib.import_module(COMMANDS)
    sys.argv = ["pylot", *words]
    try:
        main.main()
    except SystemExit as ended:
        match ended.code:
            case None:
                return 0
            case int(code):
                return code
            case text:
                print(text, file=sys.stderr)  # noqa: T201 - as the interpreter does it
                return 1
    return 0


def _must(code: int, what: str) -> None:
    if code:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def preload() -> None:
    """Import and make what the commands need, so that no child of a fork has to."""
    for name in PRELOADED:
        importlib.import_module(name)
    commands = importlib.import_module(COMMANDS)
    for words in PREPARED:
        commands.prepare(*words)


def main() -> None:
    """Import, then serve the socket at standard input."""
    channel = socket.socket(fileno=os.dup(0))
    preload()
    # What is imported stays for ever: a collection would only copy the pages that forks share.
    gc.collect()
    gc.freeze()
    Server(channel).run()


if __name__ == "__main__":
    main()

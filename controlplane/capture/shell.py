"""The programs of the host: iptables, iproute2, nft; and the lock of one network namespace.

Owns: finding and running them, in this network namespace or another, and turning what they print
on failure into one sentence.
Must not know: which rules there are or why.
Easy to break: nothing here may run while another `pylot iptables` changes the same namespace;
`locked` is a lock on the namespace itself, which needs no file and cannot be left behind.
"""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal, Protocol

import msgspec

from controlplane.capture.errors import CaptureError
from controlplane.capture.nftables import our_tables
from controlplane.capture.rules import Family

_TIMEOUT: Final = 20.0
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/sbin:/sbin"

Variant = Literal["", "nft", "legacy"]


class Host(Protocol):
    """What applying rules needs of the world; tests may put a failing one in its place."""

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Hold the lock of the network namespace."""

    def save(self, family: Family) -> str:
        """Return the output of iptables-save; raises CaptureError."""

    def restore(self, family: Family, text: str, *, test: bool = False) -> None:
        """Load text without flushing; `test` only checks it. Raises CaptureError."""

    def has_ip(self) -> bool:
        """Whether iproute2 is installed."""

    def ip(self, family: Family, *args: str) -> str:
        """Run `ip` for one family and return what it prints; raises CaptureError."""

    def delete_table(self, family: Family, table: str) -> None:
        """Delete an empty table where that is possible; do nothing where it is not."""

    def native_tables(self) -> str:
        """Return our tables of nftables as `nft` lists them; empty when there are none."""

    def load_native(self, text: str, *, test: bool = False) -> None:
        """Load a text in one transaction; `test` only checks it. Raises CaptureError."""


class Finished(msgspec.Struct, frozen=True):
    """The end of one process."""

    code: int
    output: str
    error: str


class Shell:
    """The real programs, run in one network namespace."""

    def __init__(
        self, *, namespace: str = "", variant: Variant = "", own_xtables_lock: bool = False
    ) -> None:
        """Choose the namespace (a name, a path, or this process's own) and the iptables variant.

        `own_xtables_lock` keeps iptables-legacy from waiting for iptables of other pods when all
        of them see the host's /run/xtables.lock, as a CNI plugin does.
        """
        self._namespace = _namespace_path(namespace)
        self._variant = variant
        self._own_xtables_lock = own_xtables_lock
        self._path = f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_PATH}"
        self._environment = {**os.environ, "PATH": self._path, "LC_ALL": "C"}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the network namespace; waits for a `pylot iptables` that holds it."""
        try:
            descriptor = os.open(self._namespace or "/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CaptureError(
                f"the network namespace {self._namespace} cannot be opened: {error.strerror}"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with self._xtables_lock():
                yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _xtables_lock(self) -> Iterator[None]:
        if not self._own_xtables_lock:
            yield
            return
        with TemporaryDirectory(prefix="pylot-xtables-") as folder:
            self._environment["XTABLES_LOCKFILE"] = str(Path(folder) / "lock")
            yield

    def save(self, family: Family) -> str:
        """Return what iptables-save prints."""
        finished = self._run([self._iptables(family, "save")])
        if finished.code != 0:
            raise CaptureError(
                f"the {_label(family)} rules cannot be read: {_reason(finished.error)}"
            )
        return finished.output

    def restore(self, family: Family, text: str, *, test: bool = False) -> None:
        """Load the text, or only check it; what is in the tables stays."""
        command = [self._iptables(family, "restore"), "--noflush", "-w", "10"]
        finished = self._run([*command, "--test"] if test else command, stdin=text)
        if finished.code != 0:
            raise CaptureError(_refusal(family, text, finished.error))

    def has_ip(self) -> bool:
        """Whether iproute2 is installed."""
        return shutil.which("ip", path=self._path) is not None

    def ip(self, family: Family, *args: str) -> str:
        """Run `ip -4` or `ip -6`; an `add` of what exists already is no failure."""
        version = "-4" if family is Family.IPV4 else "-6"
        finished = self._run([self._program("ip", "iproute2"), version, *args])
        if finished.code != 0 and "File exists" not in finished.error:
            raise CaptureError(f"`ip {version} {' '.join(args)}` failed: {_reason(finished.error)}")
        return finished.output

    def delete_table(self, family: Family, table: str) -> None:
        """Delete an empty nf_tables table; the tables of iptables-legacy cannot be deleted."""
        nft = shutil.which("nft", path=self._path)
        if nft is None or self._variant == "legacy":
            return
        self._run([nft, "delete", "table", "ip" if family is Family.IPV4 else "ip6", table])

    def native_tables(self) -> str:
        """Return what `nft` lists of our tables; without nft there can be none."""
        nft = shutil.which("nft", path=self._path)
        if nft is None:
            return ""
        listed: list[str] = []
        for table in our_tables(self._run([nft, "list", "tables"]).output):
            finished = self._run([nft, "--stateless", "list", "table", *table.split()])
            if finished.code != 0:
                raise CaptureError(f"the nftables rules cannot be read: {_reason(finished.error)}")
            listed.append(finished.output)
        return "".join(listed)

    def load_native(self, text: str, *, test: bool = False) -> None:
        """Load the text with `nft`, or only check it."""
        command = [self._program("nft", "nftables"), "--file", "-"]
        finished = self._run([*command, "--check"] if test else command, stdin=text)
        if finished.code != 0:
            raise CaptureError(_native_refusal(text, finished.error))

    def _iptables(self, family: Family, tool: Literal["save", "restore"]) -> str:
        base = "iptables" if family is Family.IPV4 else "ip6tables"
        variant = f"-{self._variant}" if self._variant else ""
        return self._program(f"{base}{variant}-{tool}", "iptables")

    def _program(self, name: str, package: str) -> str:
        found = shutil.which(name, path=self._path)
        if found is None:
            raise CaptureError(f"{name} is not installed (it is part of {package})")
        return found

    def _run(self, command: Sequence[str], *, stdin: str = "") -> Finished:
        prefix = (
            [self._program("nsenter", "util-linux"), f"--net={self._namespace}", "--"]
            if self._namespace
            else []
        )
        try:
            done = subprocess.run(
                [*prefix, *command],
                input=stdin,
                capture_output=True,
                text=True,
                check=False,
                timeout=_TIMEOUT,
                env=self._environment,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CaptureError(f"{Path(command[0]).name} could not be run: {error}") from error
        return Finished(done.returncode, done.stdout, done.stderr)


def _namespace_path(namespace: str) -> str:
    if not namespace or "/" in namespace:
        return namespace
    return f"/var/run/netns/{namespace}"


def _label(family: Family) -> str:
    return "IPv4" if family is Family.IPV4 else "IPv6"


def _reason(error: str) -> str:
    kept = [
        line.strip()
        for line in error.splitlines()
        if line.strip() and not line.startswith(("#", "Try `", "Error occurred at"))
    ]
    text = " ".join(kept)
    return re.sub(r"^ip6?tables\S* v\S+ \(\S+\): *", "", text).rstrip(".") or "no reason was given"


def _native_refusal(text: str, error: str) -> str:
    first = next((line.strip() for line in error.splitlines() if line.strip()), "")
    reason = first.rpartition("Error: ")[2] or "no reason was given"
    sentence = f"the nftables rules were refused: {reason}"
    numbered = re.search(r":(\d+):\d+-\d+: ", first)
    lines = text.splitlines()
    if numbered and 0 < int(numbered[1]) <= len(lines):
        sentence += f" (`{lines[int(numbered[1]) - 1].strip()}`)"
    return sentence


def _refusal(family: Family, text: str, error: str) -> str:
    sentence = f"the {_label(family)} rules were refused: {_reason(error)}"
    numbered = re.search(r"line:? (\d+)", error)
    lines = text.splitlines()
    if numbered and 0 < int(numbered[1]) <= len(lines):
        index = int(numbered[1]) - 1
        table = next((line for line in reversed(lines[: index + 1]) if line.startswith("*")), "*?")
        sentence += f" (`{lines[index]}` in table {table[1:]})"
    return sentence

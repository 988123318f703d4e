"""Network namespaces as pods, around a namespace that plays the node.

Owns: their names, links, addresses and routes, and what `ip netns exec` shows as resolv.conf.
Must not know: what runs in them.
Easy to break: a namespace outlives its owner, so its name holds the owner's process id and start,
and whoever starts next removes what the dead have left. Nothing of the host itself is changed: the
links and routes are inside the namespaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from controlplane.errors import OutsideError

NODE_ADDRESS: Final = "10.244.0.1"
POD_PREFIX: Final = "10.244.0."
SERVICE_RANGE: Final = "10.96.0.0/16"
DNS_ADDRESS: Final = "10.96.0.2"
NAMES: Final = Path("/var/run/netns")
# `ip netns exec NAME` shows the files of /etc/netns/NAME in the place of those of /etc.
FILES: Final = Path("/etc/netns")
PROGRAMS: Final = ("ip", "iptables-restore", "setpriv", "unshare")
# Loaded into a namespace that goes at once: what capture needs of the kernel.
PROBE: Final = "*nat\n-A OUTPUT -p tcp -m owner --uid-owner 1 -j REDIRECT --to-ports 1\nCOMMIT\n"
_NAME: Final = re.compile(r"pylot-(\d+)-([0-9a-z]+)-.+")
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


def can_capture() -> str:
    """Return why this process cannot make pods and capture their traffic; empty when it can."""
    if sys.platform != "linux":
        return "network namespaces are a part of Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in PROGRAMS:
        if shutil.which(program, path=search_path()) is None:
            return f"the program `{program}` is missing"
    try:
        done = subprocess.run(
            ["unshare", "--net", "iptables-restore"],
            input=PROBE,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            env={**os.environ, "PATH": search_path()},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"network namespaces do not work here: {error}"
    said = " ".join(done.stderr.split())
    return f"network namespaces or iptables do not work here: {said}" if done.returncode else ""


def search_path() -> str:
    """Where programs are: the administrator's may be missing in PATH."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class Network:
    """A node and its pods. Every process may have several, with equal addresses."""

    def __init__(self) -> None:
        self._tag = owned(secrets.token_hex(2))
        self.node = f"{self._tag}-node"
        self._made: dict[str, str] = {}
        self._links = 0

    async def __aenter__(self) -> Network:
        try:
            await self._make_node()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _make_node(self) -> None:
        await self._add("node", self.node)
        await ip_batch(
            self.node,
            "link set lo up",
            "link add br0 type bridge",
            f"address add {NODE_ADDRESS}/24 dev br0",
            "link set br0 up",
            # The address of a service that nobody captured fails at once instead of hanging.
            f"route add unreachable {SERVICE_RANGE}",
            # There is no cluster DNS: a refused query ends at once, an unreachable one does not.
            f"address add {DNS_ADDRESS}/32 dev lo",
        )
        # Only a router says that a destination is unreachable, and by default not every time.
        settings = "echo 1 > ip_forward && echo 0 > icmp_ratelimit"
        script = f"cd /proc/sys/net/ipv4 && {settings}"
        await run_program("ip", "netns", "exec", self.node, "sh", "-c", script)

    async def add(self, name: str, address: str, *, namespace: str = "default") -> str:
        """Make the namespace of a pod with that address, and return the namespace's name.

        `namespace` is the Kubernetes namespace, which the pod's search domains begin with. Raises
        OutsideError.
        """
        made = f"{self._tag}-{name}"
        self._links += 1
        peer = f"veth{self._links}"
        write_resolv_conf(made, namespace)
        await self._add(name, made)
        await ip_batch(
            self.node,
            f"link add {peer} type veth peer name eth0 netns {made}",
            f"link set {peer} master br0 up",
        )
        await ip_batch(
            made,
            "link set lo up",
            f"address add {address}/24 dev eth0",
            "link set eth0 up",
            # What is captured needs a route all the same; it is never taken.
            f"route add default via {NODE_ADDRESS}",
        )
        return made

    async def remove(self, *names: str) -> None:
        """Remove pods; what runs in them keeps a namespace without a name alive."""
        found = [self._made.pop(name) for name in names if name in self._made]
        await remove(found)

    async def close(self) -> None:
        """Remove the node and every pod that is left."""
        found = [*self._made.values()]
        self._made.clear()
        await remove(found)

    async def _add(self, name: str, made: str) -> None:
        self._made[name] = made
        await run_program("ip", "netns", "add", made)


async def purge() -> list[str]:
    """Remove the namespaces whose owners are dead, and return their names."""
    names = sorted({*_entries(NAMES), *_entries(FILES)})
    dead = [name for name in names if is_orphan(name)]
    await remove(dead)
    return dead


def owned(name: str) -> str:
    """Return a name for a namespace of this process; `purge` removes it when we are dead."""
    return f"pylot-{os.getpid()}-{start_of(os.getpid())}-{name}"


def is_orphan(name: str) -> bool:
    """Whether a namespace is one of ours whose owner is gone."""
    found = _NAME.fullmatch(name)
    return found is not None and start_of(int(found[1])) != found[2]


def start_of(pid: int) -> str:
    """When a process started, as a short text; empty when there is no such process.

    Process ids are given again; together with this one means one process only.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    number = int(text.rpartition(")")[2].split()[19])
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits or "0"


async def remove(names: Sequence[str]) -> None:
    """Remove namespaces and their files as far as they are there."""
    if not names:
        return
    existing = [name for name in names if (NAMES / name).exists()]
    # One that is gone already, removed by somebody else, is no mistake.
    with contextlib.suppress(OutsideError):
        lines = "".join(f"netns del {name}\n" for name in existing)
        await run_program("ip", "-force", "-batch", "-", stdin=lines)
    for name in names:
        shutil.rmtree(FILES / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        FILES.rmdir()  # goes only when it is empty


def write_resolv_conf(name: str, namespace: str) -> None:
    """Say where a pod's names are looked up, as a kubelet does; raises OutsideError."""
    try:
        (FILES / name).mkdir(parents=True, exist_ok=True)
        (FILES / name / "resolv.conf").write_text(
            f"nameserver {DNS_ADDRESS}\n"
            f"search {namespace}.svc.cluster.local svc.cluster.local cluster.local\n"
            "options ndots:5 timeout:2\n"
        )
    except OSError as error:
        raise OutsideError(f"{FILES / name} cannot be written: {error.strerror}") from error


async def ip_batch(namespace: str, *commands: str) -> None:
    """Run commands of `ip` inside a namespace; raises OutsideError with the first error."""
    lines = "".join(f"{command}\n" for command in commands)
    await run_program("ip", "-n", namespace, "-batch", "-", stdin=lines)


async def run_program(*words: str, stdin: str = "") -> str:
    """Run a program to its end and return what it printed; raises OutsideError when it fails."""
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PATH": search_path()},
        )
    except OSError as error:
        raise OutsideError(f"`{words[0]}` cannot be started: {error.strerror}") from error
    out, err = await process.communicate(stdin.encode())
    if process.returncode:
        said = err.decode("utf-8", "replace").strip() or f"code {process.returncode}"
        raise OutsideError(f"`{' '.join(words)}` failed: {said}")
    return out.decode("utf-8", "replace")


def _entries(directory: Path) -> Iterable[str]:
    def names() -> Iterator[str]:
        with contextlib.suppress(OSError):
            yield from (path.name for path in directory.iterdir())

    return tuple(names())

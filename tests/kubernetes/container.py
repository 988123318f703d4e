"""Becomes a container: joins a pod's network, gets a root of its own, and runs a command there.

Run as `python container.py SPEC`, SPEC being the JSON of a `Spec`; it ends by executing the
command, so that the process that was started is the container's. The standard library only: it
starts for each container. Must not know pods. The rule that is easy to break: the root is made
of mounts that nobody else sees, so nothing of the machine changes; a directory above a mount is
new and open to search, because the container's user may not search the machine's own.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import Any, Final, TypedDict

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWNET: Final = 0x40000000
_MS_RDONLY: Final = 0x1
_MS_REMOUNT: Final = 0x20
_MS_BIND: Final = 0x1000
_MS_REC: Final = 0x4000
_MS_PRIVATE: Final = 0x40000


class Mount(TypedDict):
    """A file or directory of the machine, and where the container finds it."""

    source: str
    target: str
    read_only: bool


class Spec(TypedDict):
    """What a container is.

    `network` is the file of a network namespace, `root` an empty directory to build the root on,
    `links` are symbolic links by their place, `capabilities` all that it has, in lower case.
    """

    network: str
    root: str
    mounts: list[Mount]
    links: dict[str, str]
    directories: list[str]
    read_only_root: bool
    command: list[str]
    environment: dict[str, str]
    directory: str
    uid: int
    gid: int
    capabilities: list[str]
    no_new_privileges: bool


def words_of(spec: Spec) -> list[str]:
    """The command with the words in front that change user and capabilities."""
    added = "".join(f",+{name}" for name in spec["capabilities"])
    # Capabilities without root would need to be ambient, which no runtime makes them.
    inherited = added if spec["uid"] == 0 else ""
    words = ["setpriv", "--pdeathsig=KILL", f"--reuid={spec['uid']}", f"--regid={spec['gid']}"]
    words += ["--clear-groups", f"--inh-caps=-all{inherited}", f"--bounding-set=-all{added}"]
    if spec["no_new_privileges"]:
        words.append("--no-new-privs")
    return [*words, "--", *spec["command"]]


def become(spec: Spec) -> None:
    """Turn this process into the container; returns only by an exception."""
    libc = ctypes.CDLL(None, use_errno=True)
    network = os.open(spec["network"], os.O_RDONLY | os.O_CLOEXEC)
    _must(libc.setns(network, _CLONE_NEWNET), "joining the network")
    _must(libc.unshare(_CLONE_NEWNS), "a mount namespace")
    _mount(libc, "none", "/", _MS_REC | _MS_PRIVATE)
    root = spec["root"]
    _must(libc.mount(b"tmpfs", os.fsencode(root), b"tmpfs", 0, b"mode=755"), "a root")
    for directory in spec["directories"]:
        os.makedirs(root + directory, exist_ok=True)
        os.chmod(root + directory, 0o1777)
    for place, target in spec["links"].items():
        os.makedirs(os.path.dirname(root + place), exist_ok=True)
        os.symlink(target, root + place)
    for mount in spec["mounts"]:
        _show(libc, mount, root)
    if spec["read_only_root"]:
        # Mounts below keep what they are.
        _mount(libc, "none", root, _MS_REMOUNT | _MS_BIND | _MS_RDONLY)
    os.chroot(root)
    os.chdir(spec["directory"])
    os.execvpe("setpriv", words_of(spec), spec["environment"])


def _show(libc: Any, mount: Mount, root: str) -> None:
    place = root + mount["target"]
    if os.path.isdir(mount["source"]):
        os.makedirs(place, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "ab"):
            pass
    _mount(libc, mount["source"], place, _MS_BIND | _MS_REC)
    if mount["read_only"]:
        _mount(libc, "none", place, _MS_REMOUNT | _MS_BIND | _MS_RDONLY)


def _mount(libc: Any, source: str, place: str, flags: int) -> None:
    done = libc.mount(os.fsencode(source), os.fsencode(place), None, flags, None)
    _must(done, f"mounting {source} at {place}")


def _must(code: int, what: str) -> None:
    if code:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    become(json.loads(sys.argv[1]))

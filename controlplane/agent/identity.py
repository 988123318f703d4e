"""As whom Envoy runs: user, group and capabilities, and whether that user can reach a file.

Owns the words of `setpriv` in front of Envoy's command. Must not know Envoy.
Easy to break: the death signal is set after the change of user, because that change clears it;
`setpriv` keeps this order by itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from controlplane.errors import OutsideError

PROXY_ID: Final = 1337
"""User and group of the proxy: what they send is not captured (Istio's proxy image)."""


_SET_DEATH_SIGNAL: Final = 1  # prctl(2)
_GET_DEATH_SIGNAL: Final = 2


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """User and group of a program; `capabilities` are all that are left of root's."""

    uid: int
    gid: int
    capabilities: tuple[str, ...] = ()


DEATH_SIGNAL: Final = "--pdeathsig=KILL"
"""The option of `setpriv` that lets the kernel kill what follows when its parent dies."""
_IF_PARENT: Final = 'test "$PPID" = "$0" && exec "$@"'


class Account(NamedTuple):
    """Who we are."""

    uid: int
    gid: int


def own_account() -> Account:
    """The effective user and group of this process."""
    return Account(os.geteuid(), os.getegid())


def identity_words(identity: Identity | None) -> list[str]:
    """The words in front of a command that make it run as somebody, and end with its parent.

    Nothing changes the user when `identity` is None. Raises OutsideError when the user is to
    change and there is no `setpriv`.
    """
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    if setpriv is None:
        if identity is None:
            return []
        raise OutsideError("Envoy's user cannot be changed: the program `setpriv` is missing")
    words = [setpriv, DEATH_SIGNAL]
    if identity is not None:
        words += [f"--reuid={identity.uid}", f"--regid={identity.gid}", "--clear-groups"]
        if identity.uid == 0:
            # Another user loses root's capabilities by the change itself.
            kept = "".join(f",+{name}" for name in identity.capabilities)
            words += [f"--inh-caps=-all{kept}", f"--bounding-set=-all{kept}"]
    return words + while_we_live()


def while_we_live() -> list[str]:
    """The words that run a command only if its parent is still this process.

    The kernel sends the signal of a parent's death to those who have asked for it; who asks a
    moment after the death would wait for ever.
    """
    shell = shutil.which("sh")
    return [shell, "-c", _IF_PARENT, str(os.getpid())] if shell else []


@contextlib.contextmanager
def keeping_death_signal() -> Iterator[None]:
    """Keep the signal of our parent's death, which a change of group clears.

    Whoever started us with `setpriv --pdeathsig` counts on it.
    """
    if sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None)
    before = ctypes.c_int()
    libc.prctl(_GET_DEATH_SIGNAL, ctypes.byref(before))
    yield
    libc.prctl(_SET_DEATH_SIGNAL, before.value)


def can_reach(path: Path, identity: Identity | None, *, wanted: int = stat.S_IROTH) -> bool:
    """Whether the identity may use the file: search every directory above it, and `wanted`.

    `wanted` is the permission as the bit for others, S_IROTH or S_IXOTH. What cannot be looked at
    cannot be reached. True for our own identity.
    """
    if identity is None:
        return True
    try:
        real = path.resolve(strict=True)
        if not _permits(real, identity, wanted):
            return False
        return all(_permits(parent, identity, stat.S_IXOTH) for parent in real.parents)
    except OSError:
        return False


def _permits(path: Path, identity: Identity, wanted: int) -> bool:
    status = path.stat()
    # Root without its capabilities is judged like everybody else.
    if status.st_uid == identity.uid:
        return bool(status.st_mode & wanted << 6)
    if status.st_gid == identity.gid:
        return bool(status.st_mode & wanted << 3)
    return bool(status.st_mode & wanted)

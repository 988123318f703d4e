"""The images that pods name, out of this checkout: what they run, as whom, and which files.

Owns what a Dockerfile would say. Must not know pods. The rule that is easy to break: whatever an
image of ours needs has to be shown to it, the interpreter of the virtual environment included.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Final, NamedTuple

from controlplane.demo.layout import bookinfo_directory
from tests.kubernetes.container import Mount

CHECKOUT: Final = Path(__file__).resolve().parents[2]
_BOOKINFO: Final = re.compile(
    r"pylot/examples-bookinfo-(productpage|details|reviews|ratings)-(v\d+):"
)
_PROXY: Final = re.compile(r"(?:.*/)?proxy(?::|$)")
_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt")
# Of /etc only what programs need to find libraries, alternatives and names.
_FILES_OF_ETC: Final = (
    *("alternatives", "group", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d"),
    *("localtime", "nsswitch.conf", "passwd", "protocols", "services", "ssl"),
)
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Image(NamedTuple):
    """What an image says: its command, variables, user and group, files and symbolic links."""

    entrypoint: tuple[str, ...]
    environment: dict[str, str]
    uid: int
    gid: int
    mounts: tuple[Mount, ...]
    links: dict[str, str]


class UnknownImageError(Exception):
    """There is no such image here."""


def find_image(name: str) -> Image:
    """Return the image of that name; raises UnknownImageError."""
    bookinfo = _BOOKINFO.match(name)
    if bookinfo is not None:
        app, version = bookinfo.groups()
        command = (sys.executable, f"/app/{app}.py", "--version", version)
        apps = _mount(str(bookinfo_directory() / "apps"), "/app")
        return _image(
            command, PYTHONDONTWRITEBYTECODE="1", PYTHONUNBUFFERED="1", uid=1000, mounts=(apps,)
        )
    if _PROXY.match(name):
        return _image(("pylot",), PYTHONDONTWRITEBYTECODE="1", uid=0)
    raise UnknownImageError(f"there is no image {name}")


def _image(
    entrypoint: tuple[str, ...], *, uid: int, mounts: tuple[Mount, ...] = (), **environment: str
) -> Image:
    system, links = _system()
    path = f"{Path(sys.executable).parent}:{_PATH}"
    return Image(entrypoint, {"PATH": path, **environment}, uid, 0, (*system, *mounts), links)


def _system() -> tuple[tuple[Mount, ...], dict[str, str]]:
    """The system, the interpreter, the virtual environment and the package."""
    links = {path: os.readlink(path) for path in _SYSTEM if Path(path).is_symlink()}
    wanted = [Path(path) for path in _SYSTEM if path not in links]
    wanted += [Path("/etc") / name for name in _FILES_OF_ETC]
    ours = (sys.base_prefix, sys.prefix, os.path.dirname(os.path.realpath(sys.executable)))
    wanted += [Path(path) for path in (*ours, str(CHECKOUT))]
    existing = [path for path in wanted if path.exists()]
    outer = [path for path in existing if not any(other in path.parents for other in existing)]
    mounts = [_mount(str(path), str(path)) for path in dict.fromkeys(outer)]
    # Both are needed as they are: /proc/sys shows the pod's network to whoever asks.
    mounts += [Mount(source=path, target=path, read_only=False) for path in ("/proc", "/dev")]
    return tuple(mounts), links


def _mount(source: str, target: str) -> Mount:
    return Mount(source=source, target=target, read_only=True)

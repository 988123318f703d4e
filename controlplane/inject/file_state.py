"""Whether files changed since they were read, by what the file system says of them.

Owns the comparison. Must not know what is in the files. The rule that is easy to break: a path is
followed to what it means now, because a mounted ConfigMap or Secret changes by a link that is
turned to another directory.
"""

from __future__ import annotations

from pathlib import Path

FileState = tuple[tuple[int, int, int, int] | None, ...]
"""Device, inode, size and time of each file; None for one that is not there."""


def state_of(*paths: Path | None) -> FileState:
    """Return the state of these files; two equal ones mean that nothing changed between them."""
    return tuple(_state(path) for path in paths)


def _state(path: Path | None) -> tuple[int, int, int, int] | None:
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

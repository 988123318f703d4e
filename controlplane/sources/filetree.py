"""Directories of configuration files, read again on every scan: the synchronous core.

Owns what a file last said, which of two files speaks for an object, and what is kept when a
file cannot be read. Must not know watching or tasks. The rule that is easy to break: an object
goes away only when its file was read well without it, or is gone on two scans.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from controlplane.model.diagnostics import Diagnostic, Level, order
from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import Object, ObjectRef, Provenance
from controlplane.sources.base import Delta
from controlplane.sources.mesh_config import parse_mesh_config
from controlplane.sources.parse import ParsedFile, parse_file

SUFFIXES: Final = (".yaml", ".yml", ".json")
GRACE: Final = 0.1
"""Seconds that a file may be missing or empty: editors truncate, or rename and write anew."""

_RACY: Final = 1.0  # a file this young may change again without its time of change moving

_Entry = tuple[Object, Provenance]
_Touched = dict[ObjectRef, "_Entry | None"]
"""What was delivered last of the objects that a scan finds something new about."""
_Stamp = tuple[int, int, int, int]


class Scan(NamedTuple):
    """What a scan found, and in how many seconds to look again (None: when something moves)."""

    delta: Delta
    again: float | None = None


class _File:
    """What one file said last."""

    __slots__ = ("content", "diagnostics", "objects", "rank", "stamp")

    def __init__(self, rank: tuple[int, str]) -> None:
        self.rank = rank  # decides between files that hold the same object
        self.stamp: _Stamp | None = None
        self.content: bytes | None = None  # a hash of what was read
        self.objects: dict[ObjectRef, _Entry] = {}
        self.diagnostics: tuple[Diagnostic, ...] = ()


class FileTree:
    """All configuration files under some directories, and what they say together.

    When several files hold the same object, the one whose path comes last counts, and of
    several directories the one that was given last, so that a file can be overridden by adding
    another, as in every `conf.d` directory.
    """

    def __init__(
        self,
        roots: tuple[Path, ...],
        *,
        mesh_config: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._roots: Final = roots
        self._mesh_path: Final = mesh_config
        self._clock: Final = clock
        self._wall: Final = wall
        self._files: dict[str, _File] = {}
        self._holders: dict[ObjectRef, tuple[str, ...]] = {}
        self._hollow_since: dict[str, float] = {}
        self._diagnostics: tuple[Diagnostic, ...] | None = None
        self._failed: dict[str, OSError] = {}
        self._mesh_data: bytes | None = None
        self._mesh: MeshConfig | None = None
        self._mesh_diagnostics: tuple[Diagnostic, ...] = ()
        self._first = True

    def scan(self) -> Scan:
        """Read what changed since the last scan; never raises for what files are or say."""
        now = self._clock()
        touched: _Touched = {}
        waits: list[float] = []
        self._failed = {}
        present: dict[str, tuple[int, str]] = {}
        for rank, root in enumerate(self._roots):
            for path in self._walk(str(root), str(root), seen=frozenset()):
                present[path] = (rank, path)
        for path, place in present.items():
            wait = self._read(path, place, now, touched)
            if wait is not None:
                waits.append(wait)
        for path in [path for path in self._files if path not in present]:
            if any(path.startswith(f"{folder}{os.sep}") for folder in self._failed):
                continue  # the folder cannot be read now; its files keep what they said
            wait = self._hollow(path, now)
            if wait is not None:
                waits.append(wait)
                continue
            self._replace(path, {}, touched)
            del self._files[path]
        mesh = self._read_mesh()
        delta = self._delta(touched, mesh)
        self._first = False
        return Scan(delta, min(waits, default=None))

    def _walk(self, folder: str, shown: str, *, seen: frozenset[str]) -> Iterator[str]:
        """Yield the paths of all configuration files below a folder, links followed once."""
        real = os.path.realpath(folder)
        if real in seen:
            return
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except NotADirectoryError:
            yield folder  # the root itself is a file
            return
        except OSError as error:
            self._failed[shown] = error
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue  # hidden, or the versions behind a mounted ConfigMap
            path = os.path.join(shown, entry.name)
            try:
                folder_below = entry.is_dir()
            except OSError:
                folder_below = False
            if folder_below:
                yield from self._walk(path, path, seen=seen | {real})
            elif entry.name.endswith(SUFFIXES):
                yield path

    def _read(
        self, path: str, rank: tuple[int, str], now: float, touched: _Touched
    ) -> float | None:
        """Bring one file up to date; returns in how many seconds to look again."""
        file = self._files.setdefault(path, _File(rank))
        try:
            stamp, regular, young = self._stamp(path)
            if not regular:
                return None  # a pipe or a device would block
            if stamp == file.stamp and not young:
                self._hollow_since.pop(path, None)
                return None
            with open(path, "rb") as stream:
                data = stream.read()
        except OSError as error:
            file.stamp = None
            reason = (error.strerror or str(error)).lower()
            file.diagnostics = (_unread(path, reason, kept=bool(file.objects)),)
            return None
        if not data.strip() and file.objects:
            wait = self._hollow(path, now)
            if wait is not None:
                return wait
        self._hollow_since.pop(path, None)
        file.stamp = stamp
        content = hashlib.blake2b(data, digest_size=16).digest()
        if content != file.content:
            file.content = content
            parsed = parse_file(path, data)
            file.diagnostics = parsed.diagnostics
            self._replace(path, _kept(file.objects, parsed), touched)
            if parsed.broken and file.objects:
                file.diagnostics = tuple(_says_kept(entry) for entry in parsed.diagnostics)
        elif not file.diagnostics or file.diagnostics[0].code == UNREAD:
            # It could not be read for a while and is as it was before.
            file.diagnostics = parse_file(path, data).diagnostics
        return None

    def _stamp(self, path: str) -> tuple[_Stamp, bool, bool]:
        found = os.stat(path)
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev)
        young = abs(self._wall() - found.st_mtime) < _RACY
        return stamp, stat.S_ISREG(found.st_mode), young

    def _hollow(self, path: str, now: float) -> float | None:
        """Return how long a missing or emptied file is still waited for, None when no longer."""
        since = self._hollow_since.setdefault(path, now)
        left = since + GRACE - now
        if left > 0:
            return left
        del self._hollow_since[path]
        return None

    def _replace(self, path: str, objects: dict[ObjectRef, _Entry], touched: _Touched) -> None:
        file, alone = self._files[path], (path,)
        for ref in file.objects.keys() | objects.keys():
            if ref not in touched and file.objects.get(ref) != objects.get(ref):
                touched[ref] = self._winner(ref)
            others = tuple(other for other in self._holders.get(ref, ()) if other != path)
            if ref in objects:
                # Almost every object is in one file, and all of a file share the tuple.
                self._holders[ref] = (*others, path) if others else alone
            elif others:
                self._holders[ref] = others
            else:
                self._holders.pop(ref, None)
        file.objects = objects

    def _delta(self, touched: _Touched, mesh: MeshConfig | None) -> Delta:
        upserts: list[_Entry] = []
        removals: list[ObjectRef] = []
        for ref in sorted(touched):
            delivered, entry = touched[ref], self._winner(ref)
            if entry is None:
                if delivered is not None:
                    removals.append(ref)
            elif delivered != entry:
                upserts.append(entry)
        diagnostics = self._all_diagnostics()
        fresh = diagnostics != self._diagnostics
        self._diagnostics = diagnostics
        return Delta(
            upserts=tuple(upserts),
            removals=tuple(removals),
            diagnostics=diagnostics if fresh else None,
            mesh=mesh,
            synced=self._first,
        )

    def _ranked(self, ref: ObjectRef) -> list[str]:
        """Return the files that hold an object, the one that counts first."""
        holders = self._holders.get(ref, ())
        return sorted(holders, key=lambda path: self._files[path].rank, reverse=True)

    def _winner(self, ref: ObjectRef) -> _Entry | None:
        ranked = self._ranked(ref)
        return self._files[ranked[0]].objects[ref] if ranked else None

    def _all_diagnostics(self) -> tuple[Diagnostic, ...]:
        found = {entry for file in self._files.values() for entry in file.diagnostics}
        found.update(self._mesh_diagnostics)
        for folder, error in self._failed.items():
            reason = (error.strerror or str(error)).lower()
            found.add(_unread(folder, reason, kept=True))
        for ref, holders in self._holders.items():
            if len(holders) > 1:
                found.update(self._overridden(ref))
        return tuple(sorted(found, key=order))

    def _overridden(self, ref: ObjectRef) -> Iterator[Diagnostic]:
        winner, *losers = self._ranked(ref)
        place = self._files[winner].objects[ref][1]
        for path in losers:
            yield Diagnostic(
                level=Level.WARNING,
                code="DuplicateObject",
                ref=ref,
                file=path,
                line=self._files[path].objects[ref][1].line,
                message=f"is also in {place}, which comes later and is used instead",
            )

    def _read_mesh(self) -> MeshConfig | None:
        """Return the settings of the mesh when they are new and good."""
        if self._mesh_path is None:
            return None
        path = str(self._mesh_path)
        try:
            data = self._mesh_path.read_bytes()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            self._mesh_diagnostics = (_unread(path, reason, kept=self._mesh is not None),)
            return None
        if data == self._mesh_data:
            if any(entry.code == UNREAD for entry in self._mesh_diagnostics):
                self._mesh_diagnostics = parse_mesh_config(path, data)[1]
            return None
        self._mesh_data = data
        mesh, self._mesh_diagnostics = parse_mesh_config(path, data)
        if mesh is None:
            return None
        self._mesh = mesh
        return mesh


UNREAD: Final = "Unread"


def _kept(old: dict[ObjectRef, _Entry], parsed: ParsedFile) -> dict[ObjectRef, _Entry]:
    """Return what a file stands for now: what was read well, and what is kept of before."""
    if parsed.broken:
        return old
    new = {entry[0].ref: entry for entry in parsed.objects}
    for ref, entry in old.items():
        if ref not in new and (parsed.unidentified or ref in parsed.rejected):
            new[ref] = entry
    return new


def _unread(path: str, reason: str, *, kept: bool) -> Diagnostic:
    after = "; its last good content stays in force" if kept else ""
    return Diagnostic(
        level=Level.ERROR,
        code=UNREAD,
        file=path,
        line=1,
        message=f"cannot be read: {reason}{after}",
    )


def _says_kept(entry: Diagnostic) -> Diagnostic:
    if entry.code != "Unreadable":
        return entry
    return Diagnostic(
        level=entry.level,
        code=entry.code,
        message=f"{entry.message}; the last good content of this file stays in force",
        file=entry.file,
        line=entry.line,
    )

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
from controlplane.model.meta import ObjectRef, Record
from controlplane.sources.base import Delta
from controlplane.sources.mesh_config import parse_mesh_config
from controlplane.sources.objects import UNREADABLE
from controlplane.sources.parse import ParsedFile, parse_file

SUFFIXES: Final = (".yaml", ".yml", ".json")
GRACE: Final = 0.1
"""Seconds that a file may be missing or empty: editors truncate, or rename and write anew."""

_RACY: Final = 1.0  # a file this young may change again without its time of change moving

_Touched = dict[ObjectRef, Record | None]
"""What was delivered last of the objects that a scan finds something new about."""
_Stamp = tuple[int, int, int, int]


class Scan(NamedTuple):
    """What a scan found, and in how many seconds to look again (None: when something moves)."""

    delta: Delta
    again: float | None = None


class _File:
    """What one file said last."""

    __slots__ = ("content", "diagnostics", "rank", "refs", "stamp")

    def __init__(self, rank: tuple[int, str]) -> None:
        self.rank = rank  # decides between files that hold the same object
        self.stamp: _Stamp | None = None
        self.content: bytes | None = None  # a hash of what was read
        self.refs: tuple[ObjectRef, ...] = ()
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
        self._winners: dict[ObjectRef, Record] = {}
        # Of objects that are in several files: what the files say that do not count.
        self._losers: dict[ObjectRef, dict[str, Record]] = {}
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
            file.diagnostics = (_unread(path, reason, kept=bool(file.refs)),)
            return None
        if not data.strip() and file.refs:
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
            self._replace(path, self._kept(path, parsed), touched)
            if parsed.broken and file.refs:
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

    def _kept(self, path: str, parsed: ParsedFile) -> dict[ObjectRef, Record]:
        """Return what a file stands for now: what was read well, and what is kept of before."""
        before = {ref: self._said(path, ref) for ref in self._files[path].refs}
        if parsed.broken:
            return before
        new = {record.ref: record for record in parsed.objects}
        for ref, record in before.items():
            found = new.get(ref)
            if found is None:
                if parsed.unidentified or ref in parsed.rejected:
                    new[ref] = record
            elif found == record:
                new[ref] = record
            elif found.item == record.item:
                new[ref] = Record(record.item, found.origin, record.ref)
        return new

    def _said(self, path: str, ref: ObjectRef) -> Record:
        """Return what a file said last about an object that is in it."""
        winner = self._winners[ref]
        return winner if winner.origin.file == path else self._losers[ref][path]

    def _replace(self, path: str, new: dict[ObjectRef, Record], touched: _Touched) -> None:
        file = self._files[path]
        before = {ref: self._said(path, ref) for ref in file.refs}
        for ref in before.keys() | new.keys():
            record = new.get(ref)
            if before.get(ref) is record:
                continue
            touched.setdefault(ref, self._winners.get(ref))
            self._say(path, ref, record)
        file.refs = tuple([record.ref for record in new.values()])

    def _say(self, path: str, ref: ObjectRef, record: Record | None) -> None:
        """Note what a file says about an object, None for nothing."""
        winner = self._winners.pop(ref, None)
        said = self._losers.pop(ref, {})
        if winner is not None:
            said[winner.origin.file] = winner
        said.pop(path, None)
        if record is not None:
            said[path] = record
        if not said:
            return
        first = max(said, key=lambda path: self._files[path].rank)
        self._winners[ref] = said.pop(first)
        if said:
            self._losers[ref] = said

    def _delta(self, touched: _Touched, mesh: MeshConfig | None) -> Delta:
        upserts: list[Record] = []
        removals: list[ObjectRef] = []
        for ref in sorted(touched):
            delivered, entry = touched[ref], self._winners.get(ref)
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

    def _all_diagnostics(self) -> tuple[Diagnostic, ...]:
        found = {entry for file in self._files.values() for entry in file.diagnostics}
        found.update(self._mesh_diagnostics)
        for folder, error in self._failed.items():
            reason = (error.strerror or str(error)).lower()
            found.add(_unread(folder, reason, kept=True))
        for ref, losers in self._losers.items():
            found.update(_overridden(self._winners[ref], losers))
        return tuple(sorted(found, key=order))

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


def _overridden(winner: Record, losers: dict[str, Record]) -> Iterator[Diagnostic]:
    for path, loser in losers.items():
        yield Diagnostic(
            level=Level.WARNING,
            code="DuplicateObject",
            ref=winner.ref,
            file=path,
            line=loser.origin.line,
            message=f"is also in {winner.origin}, which comes later and is used instead",
        )


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
    if entry.code != UNREADABLE:
        return entry
    return Diagnostic(
        level=entry.level,
        code=entry.code,
        message=f"{entry.message}; the last good content of this file stays in force",
        file=entry.file,
        line=entry.line,
    )

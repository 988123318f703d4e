"""The file source: directories watched by the operating system, and looked through now and then.

Owns when to scan. Must not know what files say (`filetree`). The rule that is easy to break:
an event only says "look"; what changed is found by looking, because events get lost, come in
bursts, and do not exist on every file system.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final

from watchfiles import awatch

from controlplane.errors import SourceError
from controlplane.model.assemble import make_snapshot
from controlplane.model.meta import objects_of
from controlplane.model.snapshot import Snapshot
from controlplane.sources.base import Deliver
from controlplane.sources.filetree import FileTree

RESCAN_INTERVAL: Final = 2.0
"""Seconds after which files are looked at without any event."""

_SETTLE: Final = 20  # milliseconds without a further event that end a burst
_BURST: Final = 100  # milliseconds after which a burst is looked at although it goes on


class FileSource:
    """Directories of YAML and JSON files, and the file with the settings of the mesh."""

    def __init__(
        self,
        roots: Sequence[Path],
        *,
        mesh_config: Path | None = None,
        rescan_interval: float = RESCAN_INTERVAL,
        watch: bool = True,
    ) -> None:
        self._tree: Final = FileTree(tuple(roots), mesh_config=mesh_config)
        self._watched: Final = (*roots, *([mesh_config.parent] if mesh_config is not None else []))
        self._interval: Final = rescan_interval
        self._watch: Final = watch

    @property
    def name(self) -> str:
        """The name of the source."""
        return "file"

    async def run(self, deliver: Deliver) -> None:
        """Deliver everything once, then every change, until cancelled."""
        again = await self._scan(deliver)
        looks = self._looks()
        look = asyncio.ensure_future(anext(looks))
        try:
            while True:
                done, _ = await asyncio.wait((look,), timeout=again)
                if done:
                    look.result()
                    look = asyncio.ensure_future(anext(looks))
                again = await self._scan(deliver)
        finally:
            look.cancel()
            await asyncio.gather(look, return_exceptions=True)
            await looks.aclose()

    async def _scan(self, deliver: Deliver) -> float | None:
        found = await asyncio.to_thread(self._tree.scan)
        if found.delta:
            deliver(found.delta)
        return found.again

    async def _looks(self) -> AsyncGenerator[None, None]:
        """Yield whenever it is time to look."""
        while True:
            if self._watch:
                watched = self._watchable()
                try:
                    events = awatch(
                        *watched,
                        watch_filter=None,
                        debounce=_BURST,
                        step=_SETTLE,
                        rust_timeout=int(self._interval * 1000),
                        yield_on_timeout=True,
                        ignore_permission_denied=True,
                    )
                    async with aclosing(events):
                        async for _ in events:
                            yield
                            if self._watchable() != watched:
                                break  # a directory came, went or was replaced: watch anew
                    if self._watchable() != watched:
                        continue
                except (OSError, RuntimeError):
                    # No more inotify watches, or a directory went away: looking remains.
                    pass
            await asyncio.sleep(self._interval)
            yield

    def _watchable(self) -> dict[Path, int]:
        """Return what exists of the watched directories, with what tells them from successors."""
        found: dict[Path, int] = {}
        for path in self._watched:
            try:
                found[path] = path.stat().st_ino
            except OSError:
                continue  # not there now; looking will find it when it comes
        return found


def load_snapshot(
    roots: Sequence[Path],
    *,
    mesh_config: Path | None = None,
    domain: str = "cluster.local",
    cluster_id: str = "",
) -> Snapshot:
    """Return what files say at this moment, once, with everything that is wrong with them.

    Raises SourceError when a file or directory does not exist.
    """
    for path in (*roots, *((mesh_config,) if mesh_config is not None else ())):
        if not path.exists():
            raise SourceError(f"{path} does not exist")
    delta = FileTree(tuple(roots), mesh_config=mesh_config).scan().delta
    return make_snapshot(
        objects_of(delta.upserts),
        mesh=delta.mesh,
        domain=domain,
        cluster_id=cluster_id,
        provenance={record.ref: record.origin for record in delta.upserts},
        diagnostics=delta.diagnostics or (),
    )

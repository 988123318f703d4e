"""The file source sees changes on a real file system soon, and without any event in the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from controlplane.errors import SourceError
from controlplane.model.core import KubernetesService
from controlplane.model.meta import ObjectMeta, ObjectRef, objects_of
from controlplane.sources.base import Delta, Source
from controlplane.sources.files import FileSource, load_snapshot
from controlplane.sources.memory import MemorySource

SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: NAME}\nspec: {ports: [{port: 80}]}\n"


@asynccontextmanager
async def running(source: Source) -> AsyncIterator[list[Delta]]:
    """Run a source; gives the list that its steps arrive in."""
    found: list[Delta] = []
    task = asyncio.create_task(source.run(found.append))
    try:
        yield found
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], bool], *, within: float = 5.0) -> float:
    """Wait for a condition; returns the seconds that it took."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < within
        await asyncio.sleep(0.005)
    return time.monotonic() - begin


async def test_a_change_is_delivered_soon(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(SERVICE.replace("NAME", "one"))
    async with running(FileSource([tmp_path])) as deltas:
        await until(lambda: bool(deltas))
        assert deltas[0].synced
        await asyncio.sleep(0.3)  # the watch has begun
        path.write_text(SERVICE.replace("NAME", "two"))
        await until(lambda: len(deltas) > 1, within=0.3)
        assert [item.metadata.name for item in objects_of(deltas[1].upserts)] == ["two"]
        path.unlink()
        await until(lambda: len(deltas) > 2, within=0.5)
        assert [ref.name for ref in deltas[2].removals] == ["two"]


async def test_without_events_a_change_is_found_by_looking(tmp_path: Path) -> None:
    source = FileSource([tmp_path], watch=False, rescan_interval=0.05)
    async with running(source) as deltas:
        await until(lambda: bool(deltas))
        (tmp_path / "a.yaml").write_text(SERVICE.replace("NAME", "one"))
        await until(lambda: len(deltas) > 1)
        assert [item.metadata.name for item in objects_of(deltas[1].upserts)] == ["one"]


async def test_a_directory_that_comes_later_is_read_then(tmp_path: Path) -> None:
    root = tmp_path / "later"
    async with running(FileSource([root], rescan_interval=0.05)) as deltas:
        await until(lambda: bool(deltas))
        assert deltas[0].diagnostics
        root.mkdir()
        (root / "a.yaml").write_text(SERVICE.replace("NAME", "one"))
        await until(lambda: any(delta.upserts for delta in deltas))
        assert deltas[-1].diagnostics == ()


async def test_a_directory_that_is_replaced_is_watched_again(tmp_path: Path) -> None:
    root = tmp_path / "config"
    root.mkdir()
    async with running(FileSource([root], rescan_interval=0.2)) as deltas:
        await until(lambda: bool(deltas))
        await asyncio.sleep(0.1)
        root.rename(tmp_path / "old")
        root.mkdir()
        await asyncio.sleep(0.6)
        (root / "a.yaml").write_text(SERVICE.replace("NAME", "one"))
        await until(lambda: any(delta.upserts for delta in deltas))
        await asyncio.sleep(0.1)
        (root / "a.yaml").write_text(SERVICE.replace("NAME", "two"))
        await until(lambda: len([delta for delta in deltas if delta.upserts]) > 1, within=0.15)


async def test_a_source_in_memory_passes_on_what_it_is_told() -> None:
    source = MemorySource()
    item = KubernetesService(metadata=ObjectMeta(name="one", namespace="default"))
    source.apply(item)
    async with running(source) as deltas:
        await until(lambda: bool(deltas))
        source.remove(item.ref)
        assert [delta.synced for delta in deltas] == [True, True]
        assert deltas[1].removals == (ObjectRef("Service", "default", "one"),)


def test_files_can_be_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SERVICE.replace("NAME", "one"))
    (tmp_path / "b.yaml").write_text("kind: [")
    snapshot = load_snapshot([tmp_path], domain="example.org")
    assert [service.host for service in snapshot.services] == ["one.default.svc.example.org"]
    assert [found.code for found in snapshot.diagnostics if found.level == "Error"] == [
        "Unreadable"
    ]
    with pytest.raises(SourceError, match="does not exist"):
        load_snapshot([tmp_path / "missing"])

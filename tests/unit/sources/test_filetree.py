"""What directories of files say, and what is kept when a file is bad or gone for a moment."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from controlplane.model.diagnostics import Level
from controlplane.model.meta import objects_of
from controlplane.sources.base import Delta
from controlplane.sources.filetree import GRACE, FileTree


class World:
    """A directory, a tree over it and a clock; `scan` returns what a scan delivers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 0.0
        self.tree = FileTree((root,), clock=lambda: self.now)

    def write(self, name: str, *services: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("---\n".join(service(entry) for entry in services))
        return path

    def scan(self, *, later: float = 0.0) -> Delta:
        self.now += later
        return self.tree.scan().delta


def service(name: str, port: int = 80) -> str:
    return (
        f"apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n"
        f"spec:\n  ports:\n  - port: {port}\n"
    )


def names(delta: Delta) -> list[str]:
    return sorted(item.metadata.name for item in objects_of(delta.upserts))


def gone(delta: Delta) -> list[str]:
    return sorted(ref.name for ref in delta.removals)


@pytest.fixture
def world(tmp_path: Path) -> World:
    root = tmp_path / "config"
    root.mkdir()
    return World(root)


def test_the_first_scan_delivers_everything_and_says_so(world: World) -> None:
    world.write("a.yaml", "one", "two")
    world.write("deep/er/b.yml", "three")
    world.write("c.txt", "not")
    world.write(".hidden.yaml", "not")
    world.write(".git/d.yaml", "not")
    delta = world.scan()
    assert names(delta) == ["one", "three", "two"]
    assert delta.synced
    assert not world.scan()


def test_only_what_changed_is_delivered(world: World) -> None:
    path = world.write("a.yaml", "one", "two")
    world.scan()
    path.write_text(f"{service('one')}---\n{service('two', 81)}---\n{service('three')}")
    delta = world.scan()
    assert (names(delta), gone(delta)) == (["three", "two"], [])
    path.write_text(service("one"))
    delta = world.scan()
    assert (names(delta), gone(delta)) == ([], ["three", "two"])


def test_a_file_that_stops_parsing_keeps_its_last_good_content(world: World) -> None:
    path = world.write("a.yaml", "one")
    world.scan()
    path.write_text(f"{service('two')}---\nkind: [\n")
    delta = world.scan()
    assert not delta.upserts
    assert not delta.removals
    assert delta.diagnostics is not None
    (found,) = delta.diagnostics
    assert (found.level, found.file, found.line) == (Level.ERROR, str(path), 10)
    assert "last good content" in found.message
    path.write_text(service("two"))
    delta = world.scan()
    assert (names(delta), gone(delta), delta.diagnostics) == (["two"], ["one"], ())


def test_an_object_that_turns_bad_keeps_its_last_good_version(world: World) -> None:
    path = world.write("a.yaml", "one", "two")
    world.scan()
    path.write_text(f"{service('one', 0)}---\n{service('two', 81)}")
    delta = world.scan()
    assert (names(delta), gone(delta)) == (["two"], [])
    assert delta.diagnostics is not None
    assert [str(found.ref) for found in delta.diagnostics] == ["Service default/one"]


def test_an_object_that_no_longer_says_what_it_is_is_kept(world: World) -> None:
    path = world.write("a.yaml", "one", "two")
    world.scan()
    path.write_text(f"{service('one')}---\n{service('two').replace('kind', 'knid')}")
    delta = world.scan()
    assert (names(delta), gone(delta)) == ([], [])


def test_a_file_that_cannot_be_read_keeps_its_last_good_content(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = world.write("a.yaml", "one")
    world.scan()
    real = os.stat

    def refuse(name: str) -> os.stat_result:
        if name == str(path):
            raise PermissionError(13, "Permission denied")
        return real(name)

    monkeypatch.setattr(os, "stat", refuse)
    delta = world.scan()
    assert not delta.removals
    assert delta.diagnostics is not None
    assert [str(found) for found in delta.diagnostics] == [
        f"{path}:1: cannot be read: permission denied; its last good content stays in force"
    ]
    monkeypatch.undo()
    delta = world.scan()
    assert (names(delta), delta.diagnostics) == ([], ())


def test_text_that_is_not_utf8_keeps_the_last_good_content(world: World) -> None:
    path = world.write("a.yaml", "one")
    world.scan()
    path.write_bytes(b"\xff\xfe\x00")
    delta = world.scan()
    assert not delta.removals
    assert delta.diagnostics is not None
    assert "not UTF-8" in delta.diagnostics[0].message


def test_a_folder_that_cannot_be_read_keeps_what_its_files_said(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write("sub/a.yaml", "one")
    world.scan()
    real = os.scandir

    def refuse(name: str) -> object:
        if str(name).endswith("sub"):
            raise PermissionError(13, "Permission denied")
        return real(name)

    monkeypatch.setattr(os, "scandir", refuse)
    assert not world.scan().removals
    assert not world.scan(later=1).removals


def test_a_deleted_file_removes_its_objects_after_a_moment(world: World) -> None:
    world.write("a.yaml", "one").unlink()
    path = world.write("a.yaml", "one")
    world.scan()
    path.unlink()
    found = world.tree.scan()
    assert not found.delta.removals
    assert found.again == pytest.approx(GRACE)
    assert gone(world.scan(later=GRACE)) == ["one"]


def test_an_editor_that_renames_and_writes_anew_removes_nothing(world: World) -> None:
    path = world.write("a.yaml", "one")
    world.scan()
    path.rename(path.with_name("a.yaml~"))
    assert not world.scan()
    path.write_text(service("one", 81))
    path.with_name("a.yaml~").unlink()
    delta = world.scan(later=0.05)
    assert (names(delta), gone(delta)) == (["one"], [])
    assert not world.scan(later=1)


def test_a_file_that_is_empty_for_a_moment_removes_nothing(world: World) -> None:
    path = world.write("a.yaml", "one")
    world.scan()
    path.write_text("")
    assert not world.scan()
    path.write_text(service("one", 81))
    assert names(world.scan(later=0.05)) == ["one"]
    path.write_text("")
    world.scan()
    assert gone(world.scan(later=GRACE)) == ["one"]


def test_the_last_path_wins_an_object_and_the_other_file_is_told(world: World) -> None:
    world.write("a.yaml").write_text(service("one", 80))
    world.write("b.yaml").write_text(service("one", 81))
    delta = world.scan()
    (record,) = delta.upserts
    item, origin = record.item, record.origin
    assert origin.file.endswith("b.yaml")
    assert delta.diagnostics is not None
    (found,) = delta.diagnostics
    assert found.file.endswith("a.yaml")
    assert f"{world.root / 'b.yaml'}:1" in found.message
    (world.root / "b.yaml").unlink()
    world.scan()
    delta = world.scan(later=GRACE)
    assert [record.origin.file for record in delta.upserts] == [str(world.root / "a.yaml")]
    assert delta.diagnostics == ()
    assert not delta.removals
    assert item.ref == delta.upserts[0].ref


def test_a_mounted_config_map_is_followed(world: World) -> None:
    def publish(version: str, port: int) -> None:
        folder = world.root / f"..{version}"
        folder.mkdir()
        (folder / "a.yaml").write_text(service("one", port))
        link = world.root / "..tmp"
        link.symlink_to(f"..{version}")
        link.rename(world.root / "..data")

    publish("2024_1", 80)
    (world.root / "a.yaml").symlink_to("..data/a.yaml")
    assert names(world.scan()) == ["one"]
    publish("2024_2", 81)
    shutil.rmtree(world.root / "..2024_1")
    delta = world.scan()
    assert (names(delta), gone(delta)) == (["one"], [])
    assert delta.diagnostics is None


def test_links_in_a_circle_end(world: World) -> None:
    world.write("sub/a.yaml", "one")
    (world.root / "sub" / "up").symlink_to(world.root)
    assert names(world.scan()) == ["one"]


def test_a_pipe_is_left_alone(world: World) -> None:
    os.mkfifo(world.root / "a.yaml")
    assert not world.scan().upserts


def test_settings_of_the_mesh_are_read_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text("rootNamespace: first\n")
    tree = FileTree((), mesh_config=path)
    mesh = tree.scan().delta.mesh
    assert mesh is not None
    assert mesh.root_namespace == "first"
    path.write_text("rootNamespace: [\n")
    delta = tree.scan().delta
    assert delta.mesh is None
    assert delta.diagnostics
    path.write_text("rootNamespace: second\n")
    delta = tree.scan().delta
    assert delta.mesh is not None
    assert delta.mesh.root_namespace == "second"
    assert delta.diagnostics == ()

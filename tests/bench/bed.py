"""A mesh in a directory, the server that reads it, and the sidecars that are connected to it.

Owns temporary files and the order of starting. Must not know what is measured.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from tests.bench import world
from tests.bench.fleet import Fleet
from tests.bench.server import Server


class Size(NamedTuple):
    """How large the mesh is; the defaults are those of the marks."""

    services: int = 1000
    endpoints: int = 10
    namespaces: int = 20
    rules: int = 200
    sidecars: int = 1000
    classes: int = 20
    ports: int = 1  # distinct service ports: as many route configurations

    @property
    def mesh(self) -> dict[str, int]:
        """The arguments that `world` takes."""
        return {
            "services": self.services,
            "endpoints": self.endpoints,
            "namespaces": self.namespaces,
            "rules": self.rules,
            "ports": self.ports,
        }


class Directory:
    """A directory with the files of a mesh."""

    def __init__(self, root: Path, size: Size, *, form: str = "json") -> None:
        self.objects: Final = root / "objects"
        self.mesh: Final = root / "mesh.yaml"
        self.objects.mkdir()
        write = world.write_json if form == "json" else world.write_yaml
        if size.services:
            write(self.objects, **size.mesh)
        self.mesh.write_text(world.mesh_config())

    def change_file(self, document: dict[str, Any]) -> None:
        """Write one object as a file that overrides those before it."""
        _replace(self.objects / "zz-change.json", msgspec.json.encode(document))

    def change_mesh(self, generation: int) -> None:
        """Write other settings of the mesh."""
        _replace(self.mesh, world.mesh_config(generation=generation).encode())


def _replace(path: Path, data: bytes) -> None:
    young = path.with_name(path.name + ".young")
    young.write_bytes(data)
    os.replace(young, path)


@contextlib.contextmanager
def mesh_directory(size: Size, *, form: str = "json") -> Iterator[Directory]:
    """A directory with a mesh, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="pylot-bench-") as root:
        yield Directory(Path(root), size, form=form)


class Bed(NamedTuple):
    """A server that is ready, and the processes that play sidecars (none connected yet)."""

    size: Size
    protocol: str  # "sotw" or "delta"
    directory: Directory
    server: Server
    fleet: Fleet


@contextlib.contextmanager
def bed(size: Size, protocol: str, *, loaders: int = 1) -> Iterator[Bed]:
    """A bed, ended at the end."""
    with (
        mesh_directory(size) as directory,
        Server(directory.objects, directory.mesh) as server,
    ):
        server.wait_ready()
        with Fleet(server.grpc, delta=protocol == "delta", processes=loaders) as fleet:
            yield Bed(size, protocol, directory, server, fleet)

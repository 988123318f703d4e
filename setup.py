"""Compiles `protos/` when the package is built or installed; all else is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


def compile_protos() -> None:
    """Write `controlplane/protos/*_pb2.py` from `protos/`."""
    from grpc_tools import protoc

    sources = sorted(str(path) for path in (ROOT / "protos").rglob("*.proto"))
    well_known = Path(protoc.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{ROOT / 'protos'}", f"-I{well_known}", f"--python_out={ROOT}"]
    if protoc.main([*arguments, *sources]) != 0:
        sys.exit("protos/ does not compile")


class BuildWithProtos(build_py):
    """Compiles the protos before the modules are collected."""

    def run(self) -> None:
        compile_protos()
        super().run()


setup(cmdclass={"build_py": BuildWithProtos})

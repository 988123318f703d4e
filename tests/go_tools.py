"""Programs that tests need and that Go builds: pinned by a small Go module, cached by its content.

Must not know what the programs do. The rule that is easy to break: the cache is outside of the
checkout, and a program appears there whole or not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def cache_directory(module: Path, name: str) -> Path:
    """Return where the programs of a Go module are kept: one directory for each content of it."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    content = (module / "go.mod").read_bytes() + (module / "go.sum").read_bytes()
    return root / "pylot" / f"{name}-{hashlib.sha256(content).hexdigest()[:16]}"


def build_missing(
    module: Path, directory: Path, packages: Mapping[str, str], *, ldflags: tuple[str, ...] = ()
) -> None:
    """Build those of the packages, by name of the program, that are not in the directory.

    Raises SystemExit with a sentence when there is no Go, and CalledProcessError when Go fails.
    """
    if shutil.which("go") is None:
        names = ", ".join(packages)
        raise SystemExit(f"building {names} needs Go: the program `go` was not found")
    with _alone(directory):  # another run may be building the same
        for name, package in packages.items():
            if not os.access(directory / name, os.X_OK):
                _build(module, package, directory / name, ldflags)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(module: Path, package: str, target: Path, ldflags: tuple[str, ...]) -> None:
    print(f"building {target.name} ...", flush=True)
    made = target.with_name(f".{target.name}.{os.getpid()}")
    flags = " ".join(("-s", "-w", *ldflags))
    try:
        subprocess.run(
            ["go", "build", "-mod=readonly", "-ldflags", flags, "-o", made, package],
            cwd=module,
            env={**os.environ, "GOFLAGS": "-buildvcs=false"},
            check=True,
        )
        made.replace(target)
    finally:
        made.unlink(missing_ok=True)

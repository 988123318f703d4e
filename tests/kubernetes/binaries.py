"""A real kube-apiserver, etcd and kubectl: found in KUBEBUILDER_ASSETS, or built once by Go.

`python -m tests.kubernetes.binaries` builds what is missing. The programs are tools of the small
Go module beside this file, so their versions and checksums are pinned there; they are cached
outside the checkout, by the content of that module. Must not know how they are run.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

MODULE: Final = Path(__file__).parent
_PACKAGES: Final = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
}


class Binaries(NamedTuple):
    """The paths of the programs."""

    etcd: Path
    api_server: Path
    kubectl: Path


def find_binaries() -> Binaries | None:
    """Return the programs when all of them are there, else None; builds nothing."""
    for directory in _directories():
        paths = [directory / name for name in _PACKAGES]
        if all(os.access(path, os.X_OK) for path in paths):
            return Binaries(*paths)
    return None


def missing_binaries() -> str:
    """Return why tests with a real API server cannot run here, nothing when they can."""
    if find_binaries() is not None:
        return ""
    return (
        "no kube-apiserver, etcd and kubectl: set KUBEBUILDER_ASSETS, or run "
        "`make kubernetes-assets` (it needs Go and takes some minutes, once)"
    )


def build() -> Binaries:
    """Build what is missing, and return the programs.

    Raises SystemExit with a sentence when there is no Go, and CalledProcessError when Go fails.
    """
    found = find_binaries()
    if found is not None:
        return found
    if shutil.which("go") is None:
        raise SystemExit("building kube-apiserver needs Go: the program `go` was not found")
    directory = cache_directory()
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be building the same
        for name, package in _PACKAGES.items():
            if not os.access(directory / name, os.X_OK):
                _build(package, directory / name)
    return Binaries(*(directory / name for name in _PACKAGES))


def cache_directory() -> Path:
    """Return where built programs are kept: one directory for each content of the Go module."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    content = (MODULE / "go.mod").read_bytes() + (MODULE / "go.sum").read_bytes()
    return root / "pylot" / f"kubernetes-{hashlib.sha256(content).hexdigest()[:16]}"


def _directories() -> list[Path]:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    return [*([Path(assets)] if assets else []), cache_directory()]


def _build(package: str, target: Path) -> None:
    print(f"building {target.name} ...", flush=True)
    made = target.with_name(f".{target.name}.{os.getpid()}")
    flags = ["-s", "-w", *_version_flags()]
    try:
        subprocess.run(
            ["go", "build", "-mod=readonly", "-ldflags", " ".join(flags), "-o", made, package],
            cwd=MODULE,
            env={**os.environ, "GOFLAGS": "-buildvcs=false"},
            check=True,
        )
        made.replace(target)
    finally:
        made.unlink(missing_ok=True)


def _version_flags() -> list[str]:
    """The version that the programs report: without it clients see `v0.0.0-master`."""
    found = re.search(
        r"^\s*(?:require )?k8s\.io/kubernetes v((\d+)\.(\d+)\.\d+)\b",
        (MODULE / "go.mod").read_text(),
        re.MULTILINE,
    )
    if found is None:
        raise SystemExit("go.mod does not name a version of k8s.io/kubernetes")
    version, major, minor = found.groups()
    values = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor}
    return [
        f"-X {owner}/version.{name}={value}"
        for owner in ("k8s.io/component-base", "k8s.io/client-go/pkg")
        for name, value in values.items()
    ]


if __name__ == "__main__":
    for path in build():
        print(path)

"""A real kube-apiserver with what runs beside it: found in KUBEBUILDER_ASSETS, or built by Go.

`python -m tests.kubernetes.binaries` builds what is missing. The programs are tools of the small
Go module beside this file, so their versions and checksums are pinned there; they are cached
outside the checkout, by the content of that module. KUBEBUILDER_ASSETS usually has no
kube-controller-manager, which may therefore come from the cache. Must not know how they are run.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, NamedTuple

from tests.go_tools import build_missing, cache_directory

MODULE: Final = Path(__file__).parent
_PACKAGES: Final = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
}
_CONTROLLER_MANAGER: Final = "kube-controller-manager"


class Binaries(NamedTuple):
    """The paths of the programs; `controller_manager` is None when it is missing."""

    etcd: Path
    api_server: Path
    kubectl: Path
    controller_manager: Path | None = None


def find_binaries() -> Binaries | None:
    """Return the programs when those of the API server are there, else None; builds nothing."""
    managers = [directory / _CONTROLLER_MANAGER for directory in _directories()]
    manager = next((path for path in managers if os.access(path, os.X_OK)), None)
    for directory in _directories():
        etcd, api_server, kubectl = (directory / name for name in _PACKAGES)
        if all(os.access(path, os.X_OK) for path in (etcd, api_server, kubectl)):
            return Binaries(etcd, api_server, kubectl, manager)
    return None


def missing_binaries() -> str:
    """Return why tests with a real API server cannot run here, nothing when they can."""
    if find_binaries() is not None:
        return ""
    return (
        "no kube-apiserver, etcd and kubectl: set KUBEBUILDER_ASSETS, or run "
        "`make kubernetes-assets` (it needs Go and takes some minutes, once)"
    )


def missing_controller_manager() -> str:
    """Return why tests that need controllers cannot run here, nothing when they can."""
    found = find_binaries()
    if found is None:
        return missing_binaries()
    if found.controller_manager is None:
        return "no kube-controller-manager: run `make kubernetes-assets`"
    return ""


def build() -> Binaries:
    """Build what is missing, and return the programs.

    Raises SystemExit with a sentence when there is no Go, and CalledProcessError when Go fails.
    """
    found = find_binaries()
    if found is not None and found.controller_manager is not None:
        return found
    wanted = {} if found is not None else dict(_PACKAGES)
    wanted[_CONTROLLER_MANAGER] = f"k8s.io/kubernetes/cmd/{_CONTROLLER_MANAGER}"
    build_missing(MODULE, _cache(), wanted, ldflags=_version_flags())
    built = find_binaries()
    assert built is not None
    return built


def _cache() -> Path:
    return cache_directory(MODULE, "kubernetes")


def _directories() -> list[Path]:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    return [*([Path(assets)] if assets else []), _cache()]


def _version_flags() -> tuple[str, ...]:
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
    return tuple(
        f"-X {owner}/version.{name}={value}"
        for owner in ("k8s.io/component-base", "k8s.io/client-go/pkg")
        for name, value in values.items()
    )


if __name__ == "__main__":
    for path in build():
        print(path)

"""A real helm: built once by Go from the small module beside this file, or that of the PATH.

`python -m tests.deploy.helm` builds what is missing, and with `--write` writes what `deploy/` keeps
of generated text: the definitions in the chart, and the plain manifest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.go_tools import build_missing, cache_directory

MODULE: Final = Path(__file__).parent
DEPLOY: Final = MODULE.parents[1] / "deploy"
CHART: Final = DEPLOY / "chart" / "pylot"
MANIFEST: Final = DEPLOY / "pylot.yaml"
DEFINITIONS: Final = CHART / "crds" / "crds.yaml"

_PACKAGES: Final = {"helm": "helm.sh/helm/v3/cmd/helm"}
KUBERNETES: Final = "1.30.0"  # what charts are told when no cluster is asked
_HEADER: Final = """\
# The chart deploy/chart/pylot with its own values. Written by `make manifests`. The definitions of
# the kinds are not here: `pylot crds` prints them.
#   kubectl apply --server-side --force-conflicts -f deploy/pylot.yaml
# --force-conflicts is for the next time: the control plane writes the failurePolicy of validation
# itself, and again within seconds.
"""


def find_helm() -> Path | None:
    """Return the program, else None; builds nothing."""
    built = cache_directory(MODULE, "helm") / "helm"
    if os.access(built, os.X_OK):
        return built
    found = shutil.which("helm")
    return None if found is None else Path(found)


def missing_helm() -> str:
    """Return why tests that need helm cannot run here, nothing when they can."""
    if find_helm() is not None:
        return ""
    return "no helm: install it, or run `make kubernetes-assets` (it needs Go)"


def build() -> Path:
    """Build helm when there is none, and return it."""
    found = find_helm()
    if found is None:
        directory = cache_directory(MODULE, "helm")
        build_missing(MODULE, directory, _PACKAGES)
        found = directory / "helm"
    return found


def run_helm(*arguments: str) -> str:
    """Return what helm prints; raises AssertionError with its words when it fails."""
    helm = find_helm()
    assert helm is not None, missing_helm()
    done = subprocess.run(
        [helm, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def render(*settings: str, namespace: str = "istio-system", values: Path | None = None) -> str:
    """Return the chart's objects with `--set` settings, as they are applied to a cluster."""
    chosen = [word for setting in settings for word in ("--set", setting)]
    if values is not None:
        chosen += ["--values", str(values)]
    return run_helm(
        "template", "pylot", str(CHART), "--namespace", namespace,
        "--kube-version", KUBERNETES, *chosen,
    )  # fmt: skip


def plain_manifest() -> str:
    """Return the text of `deploy/pylot.yaml`."""
    return _HEADER + render("namespace.create=true")


def _write() -> None:
    from controlplane.crds.definitions import definitions
    from controlplane.crds.text import as_yaml

    DEFINITIONS.write_text(as_yaml(definitions()), "utf-8")
    MANIFEST.write_text(plain_manifest(), "utf-8")


if __name__ == "__main__":
    print(build())
    if "--write" in sys.argv[1:]:
        _write()

"""What `/version` says, in the shape of istiod's build information."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from typing import Final

from controlplane import __version__

_DISTRIBUTION: Final = "pylot-mesh"
UNKNOWN: Final = "unknown"


def build_info() -> dict[str, str]:
    """Return version, git revision, interpreter, status and tag.

    The revision is known when the package was installed from a git repository (PEP 610);
    otherwise it is `unknown`.
    """
    revision = _revision()
    return {
        "version": __version__,
        "revision": revision,
        "python_version": platform.python_version(),
        "status": "Clean" if revision != UNKNOWN else UNKNOWN,
        "tag": __version__,
    }


def _revision() -> str:
    try:
        text = metadata.distribution(_DISTRIBUTION).read_text("direct_url.json")
        found = json.loads(text or "{}").get("vcs_info", {}).get("commit_id", UNKNOWN)
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        return UNKNOWN
    return str(found)

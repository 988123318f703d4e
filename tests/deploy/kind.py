"""What the script for kind names: files that it applies, images that it builds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tests.deploy.helm import DEPLOY

ROOT: Final = DEPLOY.parent
SCRIPT: Final = DEPLOY / "kind" / "run.sh"
VALUES: Final = DEPLOY / "kind" / "values.yaml"
INVALID: Final = DEPLOY / "kind" / "invalid.yaml"


def applied() -> list[Path]:
    """Return the manifests that are applied, without the one that has to be refused."""
    found = re.findall(r"kubectl apply -f (\S+\.yaml)", SCRIPT.read_text("utf-8"))
    return [ROOT / path for path in dict.fromkeys(found) if ROOT / path != INVALID]


def built() -> set[str]:
    """Return the images that are built and loaded, the tag of the chart as `TAG`."""
    text = SCRIPT.read_text("utf-8")
    own = {f"pylot/{name}:TAG" for name in re.findall(r"--target (\w+) ", text)}
    loop = re.search(r"for one in (.*); do", text)
    assert loop is not None
    return own | {f"pylot/examples-bookinfo-{name}:1.0" for name in loop[1].split()}

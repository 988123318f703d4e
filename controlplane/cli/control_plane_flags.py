"""The flags of the commands that ask a running control plane."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ControlPlaneUrl = Annotated[
    str,
    typer.Option("--control-plane", "--xds-address", help="Debug address of the control plane."),
]
DebugTokenFile = Annotated[
    Path | None,
    typer.Option(help="File with the bearer token for a control plane elsewhere."),
]

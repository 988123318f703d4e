"""`pylot demo`: Bookinfo on real Envoys on this machine."""

from __future__ import annotations

from typing import Annotated, Literal

import typer


def demo(
    *,
    capture: Annotated[
        Literal["auto", "netns", "none"],
        typer.Option(
            help="How traffic comes to the sidecars. netns: a network namespace for each "
            "application, with a sidecar that iptables rules lead to; needs root. none: the "
            "applications call one sidecar by its address (Istio's interception mode NONE). auto: "
            "netns where that is possible, else none.",
        ),
    ] = "auto",
    port: Annotated[int, typer.Option(help="Port of the ingress gateway.")] = 8080,
    once: Annotated[
        bool,
        typer.Option(
            "--once", help="Check the exercises, and end with 0 when they hold and 1 when not."
        ),
    ] = False,
) -> None:
    """Run Bookinfo on real Envoys: an ingress gateway, and sidecars of the applications.

    Prints the addresses to open and the directory to edit, shows which proxies are in sync, and
    ends everything it started on Ctrl-C.
    """
    import asyncio

    from controlplane.demo.namespaces import can_capture
    from controlplane.demo.ports import choose_layout, choose_namespace_layout
    from controlplane.demo.run import run_demo
    from controlplane.errors import UsageError

    reason = can_capture() if capture != "none" else "not asked for"
    if capture == "netns" and reason:
        raise UsageError(f"--capture netns: {reason}; use --capture none")
    namespaces = not reason
    layout = choose_namespace_layout(port) if namespaces else choose_layout(port)
    if not asyncio.run(run_demo(layout, once=once, namespaces=namespaces)):
        raise typer.Exit(1)

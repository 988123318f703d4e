"""`pylot demo`: Bookinfo on real Envoys on this machine."""

from __future__ import annotations

from typing import Annotated, Literal

import typer


def demo(
    *,
    capture: Annotated[
        Literal["auto", "netns", "none"],
        typer.Option(
            help="How traffic comes to the sidecar. none: the applications call it by address, "
            "on loopback addresses (Istio's interception mode NONE). netns: network namespaces "
            "and iptables, not there yet. auto: the best that this machine can do; now none.",
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
    """Run Bookinfo behind a real ingress Envoy and a real sidecar Envoy.

    Prints the addresses to open and the directory to edit, shows which proxies are in sync, and
    ends everything it started on Ctrl-C.
    """
    import asyncio

    from controlplane.demo.ports import choose_layout
    from controlplane.demo.run import run_demo
    from controlplane.errors import UsageError

    if capture == "netns":
        raise UsageError(
            "--capture netns: capture by iptables comes with the agent, which is not there yet; "
            "use --capture none"
        )
    if not asyncio.run(run_demo(choose_layout(port), once=once)):
        raise typer.Exit(1)

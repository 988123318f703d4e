"""`pylot render`: what the control plane would send to a proxy, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

TYPES = {"lds": "listeners", "cds": "clusters", "rds": "routes", "eds": "endpoints"}


def render(
    node: Annotated[
        str,
        typer.Option(
            help="Node id TYPE~IP~ID~DNSDOMAIN, for example "
            "sidecar~10.0.0.9~productpage-1.default~default.svc.cluster.local",
        ),
    ],
    config_dir: Annotated[
        list[Path], typer.Option(help="Directory of configuration objects. Repeatable.")
    ] = [],
    mesh_config: Annotated[Path | None, typer.Option(help="File with Istio's MeshConfig.")] = None,
    domain: Annotated[str, typer.Option(help="DNS domain of the cluster.")] = "cluster.local",
    cluster_id: Annotated[str, typer.Option(help="Name of the cluster.")] = "Kubernetes",
    labels: Annotated[str, typer.Option(help="Labels of the proxy: k=v,k2=v2")] = "",
    metadata: Annotated[str, typer.Option(help="Node metadata as JSON.")] = "",
    type_: Annotated[
        str, typer.Option("--type", help="Which resources: some of lds,cds,rds,eds.")
    ] = "lds,cds,rds,eds",
    output: Annotated[
        Literal["json", "yaml", "short"], typer.Option("--output", "-o", help="How to print.")
    ] = "json",
) -> None:
    """Print the resources that a proxy gets: the bytes that `serve` would send, as JSON.

    Diagnostics go to stderr; objects with errors are left out, as in `serve`.
    """
    from controlplane.cli.output import print_data
    from controlplane.cli.rendering import rendered, short_table

    kinds = [kind.strip() for kind in type_.split(",") if kind.strip()]
    unknown = [kind for kind in kinds if kind not in TYPES]
    if unknown or not kinds:
        raise typer.BadParameter(f"{type_!r} is not a list of {', '.join(TYPES)}")
    data, problems = rendered(
        config_dirs=config_dir,
        mesh_config=mesh_config,
        domain=domain,
        cluster_id=cluster_id,
        node=node,
        labels=labels,
        metadata=metadata,
        kinds=[TYPES[kind] for kind in kinds],
    )
    for problem in problems:
        typer.echo(str(problem), err=True)
    if output == "short":
        typer.echo(short_table(data))
    else:
        print_data(data, output)

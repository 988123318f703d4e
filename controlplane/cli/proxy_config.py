"""`pylot proxy-config` (`pc`): what an Envoy runs.

Owns the flags: those of all commands stand once, at `load`. Rows, dumps and requests live in
modules of their own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final

import typer

from controlplane.cli.control_plane import DEFAULT_ADMIN, DEFAULT_CONTROL_PLANE
from controlplane.cli.control_plane_flags import ControlPlaneUrl, DebugTokenFile
from controlplane.cli.output import Format, print_data, print_table

app = typer.Typer(
    help="Show what an Envoy runs: its own admin, a saved dump, or what the control plane gives "
    "to a pod.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Pod = Annotated[
    str, typer.Argument(metavar="POD[.NAMESPACE]", help="Ask the control plane about this proxy.")
]
File = Annotated[
    str, typer.Option("--file", "-f", help="A saved config dump; - is standard input.")
]
Admin = Annotated[
    str, typer.Option(help=f"Admin address of an Envoy; {DEFAULT_ADMIN} when nothing is named.")
]
Output = Annotated[Format, typer.Option("--output", "-o", help="How to print.")]
Verbose = Annotated[bool, typer.Option("--verbose/--no-verbose", help="All columns, or a summary.")]
Address = Annotated[str, typer.Option(help="Only this IP address.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Only this port.")]
Name = Annotated[str, typer.Option(help="Only this name.")]

Show = Callable[..., None]
"""Prints a dump, as the further options say."""


def load(
    pod: Pod = "",
    *,
    file: File = "",
    admin: Admin = "",
    control_plane: ControlPlaneUrl = DEFAULT_CONTROL_PLANE,
    debug_token_file: DebugTokenFile = None,
    live: bool = False,
) -> Any:
    """Return the dump that the options choose; `live` also asks an Envoy for endpoint health.

    Raises UsageError when they name more than one.
    """
    from controlplane.cli.control_plane import ControlPlane, fetch_json
    from controlplane.cli.envoy_dump import parse_dump, read_dump
    from controlplane.errors import UsageError

    chosen = [name for name, value in (("POD", pod), ("--file", file), ("--admin", admin)) if value]
    if len(chosen) > 1:
        raise UsageError(f"name one source, not {' and '.join(chosen)}")
    if file:
        return read_dump(file)
    if pod:
        data = ControlPlane(control_plane, debug_token_file).dump(pod)
        return parse_dump(data, where=f"the dump of {pod}")
    base = admin or DEFAULT_ADMIN
    hint = (
        "is an Envoy running there? name its admin with --admin URL, a saved dump with --file, "
        "or a pod"
    )
    data = fetch_json(base, "/config_dump?include_eds", hint=hint)
    statuses = fetch_json(base, "/clusters?format=json", hint=hint) if live else None
    return parse_dump(data, where=base, statuses=statuses)


SOURCE: Final = tuple(
    parameter
    for parameter in inspect.signature(load, eval_str=True).parameters.values()
    if parameter.name != "live"
)
"""The options of every command here, which say whose dump it shows."""


def shows(name: str, *, live: bool = False) -> Callable[[Show], Show]:
    """Make a command out of a function that shows a dump; it gets the options of `SOURCE` too."""

    def register(show: Show) -> Show:
        _, *own = inspect.signature(show, eval_str=True).parameters.values()

        def command(**given: Any) -> None:
            source = {option.name: given.pop(option.name) for option in SOURCE}
            show(load(**source, live=live), **given)

        # Typer reads the options of a command from its signature.
        vars(command)["__signature__"] = inspect.Signature([*SOURCE, *own])
        app.command(name, help=show.__doc__)(command)
        return show

    return register


@shows("bootstrap")
def bootstrap(dump: Any, *, output: Output = "json") -> None:
    """Show the bootstrap configuration."""
    from controlplane.cli.envoy_rows import BOOTSTRAP_COLUMNS, bootstrap_rows

    if output == "short":
        print_table(BOOTSTRAP_COLUMNS, bootstrap_rows(dump.bootstrap))
    else:
        print_data(dump.bootstrap, output)


@shows("listener")
def listener(
    dump: Any,
    *,
    address: Address = "",
    port: Port = 0,
    type_: Annotated[
        str, typer.Option("--type", help="Only listeners of type HTTP, TCP or HTTP+TCP.")
    ] = "",
    name: Name = "",
    verbose: Verbose = True,
    output: Output = "short",
) -> None:
    """Show listeners: what each filter chain matches and where it leads."""
    from controlplane.cli import envoy_rows as rows

    asked = rows.Filter(address=address, port=port, type=type_, name=name)
    found = rows.select_listeners(dump.listeners, asked)
    if output != "short":
        print_data(found, output)
    elif verbose:
        print_table(rows.LISTENER_COLUMNS, rows.listener_rows(found))
    else:
        print_table(rows.LISTENER_BRIEF, rows.listener_type_rows(found))


@shows("cluster")
def cluster(
    dump: Any,
    *,
    fqdn: Annotated[str, typer.Option(help="Only this host.")] = "",
    port: Port = 0,
    subset: Annotated[
        str | None, typer.Option(help="Only this subset; empty means clusters without one.")
    ] = None,
    direction: Annotated[str, typer.Option(help="Only inbound or outbound.")] = "",
    name: Name = "",
    output: Output = "short",
) -> None:
    """Show clusters."""
    from controlplane.cli import envoy_rows as rows

    asked = rows.Filter(fqdn=fqdn, port=port, subset=subset, direction=direction, name=name)
    found = rows.select_clusters(dump.clusters, asked)
    if output != "short":
        print_data(found, output)
    else:
        print_table(rows.CLUSTER_COLUMNS, rows.cluster_rows(found))


@shows("route")
def route(
    dump: Any,
    *,
    name: Name = "",
    verbose: Verbose = True,
    output: Output = "short",
) -> None:
    """Show routes."""
    from controlplane.cli import envoy_rows as rows

    found = rows.select_routes(dump.routes, rows.Filter(name=name))
    if output != "short":
        print_data(found, output)
    elif verbose:
        print_table(rows.ROUTE_COLUMNS, rows.route_rows(found))
    else:
        print_table(rows.ROUTE_BRIEF, rows.route_count_rows(found))


@shows("endpoint", live=True)
def endpoint(
    dump: Any,
    *,
    address: Address = "",
    port: Port = 0,
    cluster: Annotated[str, typer.Option(help="Only this cluster, by its full name.")] = "",
    status: Annotated[str, typer.Option(help="Only this status, such as healthy.")] = "",
    output: Output = "short",
) -> None:
    """Show endpoints; a live Envoy also tells its health checks and outlier detection."""
    from controlplane.cli.envoy_hosts import ENDPOINT_COLUMNS, endpoint_rows
    from controlplane.cli.envoy_rows import Filter

    asked = Filter(address=address, port=port, cluster=cluster, status=status)
    found = endpoint_rows(dump, asked)
    if output != "short":
        print_data([row._asdict() for row in found], output)
    else:
        print_table(ENDPOINT_COLUMNS, found)


@shows("secret")
def secret(dump: Any, *, name: Name = "", output: Output = "short") -> None:
    """Show certificates; private keys are never shown."""
    if output != "short":
        chosen = [found for found in dump.secrets if name in ("", found.name)]
        print_data([dict(found.body) for found in chosen], output)
        return
    from controlplane.cli.envoy_hosts import SECRET_COLUMNS
    from controlplane.cli.envoy_rows import Filter

    print_table(SECRET_COLUMNS, _secret_rows(dump, Filter(name=name)))


def _secret_rows(dump: Any, asked: Any) -> Iterator[tuple[object, ...]]:
    import datetime

    from controlplane.cli.envoy_hosts import secret_rows

    return secret_rows(dump.secrets, asked, now=datetime.datetime.now(tz=datetime.UTC))


@shows("all", live=True)
def everything(
    dump: Any,
    *,
    fqdn: Annotated[str, typer.Option(help="Only clusters of this host.")] = "",
    port: Port = 0,
    name: Annotated[str, typer.Option(help="Only the route configuration of this name.")] = "",
    output: Output = "short",
) -> None:
    """Show everything: clusters, listeners, routes, endpoints and certificates."""
    from controlplane.cli import envoy_hosts as hosts
    from controlplane.cli import envoy_rows as rows

    at_port = rows.Filter(port=port)
    clusters = rows.select_clusters(dump.clusters, rows.Filter(port=port, fqdn=fqdn))
    listeners = rows.select_listeners(dump.listeners, at_port)
    routes = rows.select_routes(dump.routes, rows.Filter(name=name))
    endpoints = hosts.endpoint_rows(dump, at_port)
    if output != "short":
        data = {
            "bootstrap": dump.bootstrap,
            "clusters": clusters,
            "listeners": listeners,
            "routes": routes,
            "endpoints": [row._asdict() for row in endpoints],
            "secrets": [dict(found.body) for found in dump.secrets],
        }
        print_data(data, output)
        return
    print_table(rows.CLUSTER_COLUMNS, rows.cluster_rows(clusters))
    typer.echo()
    print_table(rows.LISTENER_COLUMNS, rows.listener_rows(listeners))
    typer.echo()
    print_table(rows.ROUTE_COLUMNS, rows.route_rows(routes))
    typer.echo()
    print_table(hosts.ENDPOINT_COLUMNS, endpoints)
    if dump.secrets:
        typer.echo()
        print_table(hosts.SECRET_COLUMNS, _secret_rows(dump, rows.Filter()))

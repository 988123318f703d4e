"""`pylot proxy-status` (`ps`): how far each proxy is, and which object stopped it.

Owns the columns. Must not know how the control plane finds out; it asks `/debug/syncz`, and
understands an istiod's answer as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final

import typer

from controlplane.cli.control_plane import DEFAULT_CONTROL_PLANE
from controlplane.cli.control_plane_flags import ControlPlaneUrl, DebugTokenFile
from controlplane.cli.output import Format, print_data, print_table, some_of

COLUMNS: Final = ("NAME", "CLUSTER", "CDS", "LDS", "EDS", "RDS", "NDS", "ISTIOD", "VERSION")
DETAIL_COLUMNS: Final = ("TYPE", "STATUS", "VERSION SENT", "VERSION ACKED", "SENT", "LAST ERROR")
_PREFIX: Final = "type.googleapis.com/"
_TYPES: Final = {
    "CDS": ("cluster", _PREFIX + "envoy.config.cluster.v3.Cluster"),
    "LDS": ("listener", _PREFIX + "envoy.config.listener.v3.Listener"),
    "EDS": ("endpoint", _PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"),
    "RDS": ("route", _PREFIX + "envoy.config.route.v3.RouteConfiguration"),
    # The name table, which an agent with a DNS proxy asks for; others never do.
    "NDS": ("nametable", _PREFIX + "istio.networking.nds.v1.NameTable"),
}
Status = Mapping[str, Any]


def proxy_status(
    pod: Annotated[
        str, typer.Argument(metavar="POD[.NAMESPACE]", help="Show this proxy in detail.")
    ] = "",
    control_plane: ControlPlaneUrl = DEFAULT_CONTROL_PLANE,
    debug_token_file: DebugTokenFile = None,
    output: Annotated[Format, typer.Option("--output", "-o", help="How to print.")] = "short",
) -> None:
    """Show for each proxy and resource type: SYNCED, NOT SENT, STALE or REJECTED.

    Below the table stands, for every rejection, what the Envoy said and the object that made
    the resource.
    """
    from controlplane.cli.control_plane import ControlPlane

    source = ControlPlane(control_plane, debug_token_file)
    if pod:
        status = source.find(pod)
        if output == "short":
            _detail(status)
        else:
            print_data(status, output)
        return
    statuses = source.statuses()
    if output != "short":
        print_data(statuses, output)
        return
    if not statuses:
        typer.echo("No proxies are connected.")
        return
    print_table(COLUMNS, (_row(status, control_plane) for status in statuses))
    for line in rejection_lines(statuses):
        typer.echo(line)


def _row(status: Status, control_plane: str) -> tuple[str, ...]:
    return (
        str(status.get("proxy", "")),
        str(status.get("cluster_id", "")),
        *(state(status, short) for short in _TYPES),
        str(status.get("istiod") or control_plane.removeprefix("http://")),
        str(status.get("istio_version") or status.get("proxy_version") or "-"),
    )


def state(status: Status, short: str) -> str:
    """Return the state of one type: what the control plane says, else what the nonces say."""
    prefix, url = _TYPES[short]
    said = status.get("resources", {}).get(url, {}).get("status")
    if said:
        return str(said)
    sent, acked = status.get(f"{prefix}_sent"), status.get(f"{prefix}_acked")
    if not sent and short == "NDS":
        return "-"
    if not sent:
        return "NOT SENT"
    return "SYNCED" if sent == acked else "STALE"


def rejection_lines(statuses: Iterable[Status]) -> Iterator[str]:
    """Yield a line per resource that was rejected, naming the objects that made it.

    Proxies that say the same of it are in one line.
    """
    found: dict[str, list[str]] = {}
    for status in statuses:
        for rejection in status.get("rejections", ()):
            objects = ", ".join(rejection.get("objects", ())) or "no object of the configuration"
            message = " ".join(str(rejection.get("message", "")).split())
            resource = f"{rejection.get('type', '')} {rejection.get('resource', '')}"
            proxies = found.setdefault(f"{resource} made by {objects}: {message}", [])
            proxies.append(str(status.get("proxy", "")))
    for said, proxies in found.items():
        yield f"REJECTED by {some_of(proxies)}: {said}"


def _detail(status: Status) -> None:
    typer.echo(f"Proxy:     {status.get('proxy', '')}")
    typer.echo(f"Type:      {status.get('proxy_type') or '-'}")
    typer.echo(f"Cluster:   {status.get('cluster_id') or '-'}")
    typer.echo(f"Version:   {status.get('istio_version') or status.get('proxy_version') or '-'}")
    typer.echo(f"Stream:    {status.get('connection_id') or '-'}")
    typer.echo(f"Protocol:  {'delta' if status.get('delta') else 'state of the world'}")
    typer.echo()
    print_table(DETAIL_COLUMNS, _detail_rows(status))
    for line in rejection_lines([status]):
        typer.echo(line)


def _detail_rows(status: Status) -> Iterator[tuple[str, ...]]:
    resources = status.get("resources", {})
    for short, (prefix, url) in _TYPES.items():
        known = resources.get(url, {})
        yield (
            short,
            state(status, short),
            str(known.get("versionSent") or status.get(f"{prefix}_sent") or "-"),
            str(known.get("versionAcked") or status.get(f"{prefix}_acked") or "-"),
            str(known.get("sentTime") or "-"),
            " ".join(str(known.get("lastError") or "-").split()),
        )

"""The list of debug endpoints: the one place that names them, and the index page."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Final, NamedTuple

from controlplane.debug.views import config, journal, registry, serving, sources, xds
from controlplane.debug.views.request import Rendering, ViewRequest


class Page(NamedTuple):
    """One endpoint: its view, what it is good for, and parameters worth a link."""

    view: Callable[[ViewRequest], Rendering]
    help: str
    links: tuple[str, ...] = ()


PAGES: Final[dict[str, Page]] = {
    "adsz": Page(serving.adsz, "Connected clients, their metadata and what they watch"),
    "cachez": Page(xds.cachez, "Resources that translation remembers", ("sizes=true",)),
    "config_dump": Page(xds.config_dump, "What a proxy should run, as Envoy's config_dump"),
    "configz": Page(config.configz, "Every object, what is wrong with it, where it came from"),
    "connections": Page(serving.connections, "Connected clients"),
    "edsz": Page(xds.edsz, "Load assignments of the mesh, or of one proxy"),
    "endpointShardz": Page(registry.endpointz, "Endpoints by service and shard"),
    "endpointz": Page(registry.endpointz, "The same as endpointShardz"),
    "instancesz": Page(registry.instancesz, "Service ports that end at each proxy"),
    "journal": Page(journal.journal, "The last pushes: why, what, whom, and what came back"),
    "leaderz": Page(sources.leaderz, "Which replica leads"),
    "mesh": Page(config.mesh, "The MeshConfig in force"),
    "push_status": Page(serving.push_status, "Findings of translation and of the proxies"),
    "registryz": Page(registry.registryz, "Services"),
    "resourcesz": Page(config.resourcesz, "Kinds that are configured"),
    "sidecarz": Page(registry.sidecarz, "The facts of a proxy that decide what it is sent"),
    "sourcez": Page(sources.sourcez, "What is followed in Kubernetes, and how old that is"),
    "syncz": Page(serving.syncz, "What each proxy was sent and has acknowledged"),
    "wait": Page(journal.wait, "How far the proxies are with one object"),
}
NEED_PROXY: Final = frozenset({"config_dump", "sidecarz"})
NEED_OBJECT: Final = frozenset({"wait"})
TAKE_PROXY: Final = NEED_PROXY | {"adsz", "edsz"}

_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;"
    "color:#1d2433}h1{font-size:1.4rem}table{border-collapse:collapse;width:100%}"
    "td,th{text-align:left;padding:.35rem .8rem .35rem 0;border-bottom:1px solid #dde1e8;"
    "vertical-align:top}code,a{font-family:ui-monospace,monospace}a{color:#0b57d0}"
    ".quiet{color:#667085}"
)


def names() -> list[str]:
    """Return the paths of all endpoints, as `/debug/list` shows them."""
    return [f"/debug/{name}" for name in sorted([*PAGES, "list"])]


def index(request: ViewRequest) -> str:
    """Return the page at `/debug`: every endpoint with a link, and one row per proxy."""
    snapshot = request.snapshot
    rows = "".join(_row(name, page) for name, page in PAGES.items())
    proxies = "".join(
        "<tr><td>{name}</td><td class=quiet>{peer}</td><td>{links}</td></tr>".format(
            name=html.escape(connection.proxy.name),
            peer=html.escape(connection.peer),
            links=" ".join(
                _link(f"{name}?proxyID={connection.connection_id}&pretty", name)
                for name in sorted(TAKE_PROXY)
            ),
        )
        for connection in request.serving.connections
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Pylot debug</title>"
        f"<style>{_STYLE}</style><h1>Pylot debug</h1>"
        f"<p>{len(snapshot.services)} services, {len(snapshot.objects)} objects, "
        f"{len(request.serving.connections)} connected proxies. "
        "<span class=quiet>Links open indented; without <code>pretty</code> the JSON is compact."
        f"</span></p><table><tr><th>Endpoint<th>What it shows</tr>{rows}"
        f"<tr><td>{_link('list?pretty', 'list')}<td>The names of the endpoints</tr></table>"
        f"<h1>Proxies</h1><table><tr><th>Proxy<th>From<th>Show</tr>{proxies}</table></html>\n"
    )


def _row(name: str, page: Page) -> str:
    if name in NEED_PROXY:
        shown = f"<code>{name}?proxyID=</code>"
    elif name in NEED_OBJECT:
        shown = f"<code>{name}?object=KIND/NAME.NAMESPACE</code>"
    else:
        shown = " ".join(
            [
                _link(f"{name}?pretty", name),
                *(_link(f"{name}?{link}&pretty", f"?{link}") for link in page.links),
            ]
        )
    return f"<tr><td>{shown}</td><td>{html.escape(page.help)}</td></tr>"


def _link(target: str, text: str) -> str:
    return f'<a href="/debug/{html.escape(target, quote=True)}">{html.escape(text)}</a>'

"""What the demo shows: addresses once, then which proxies are in sync and what is wrong.

Owns: words, tables and colours. Must not know: how the example is run.
Easy to break: everything that comes from files or proxies is text of others; it is put into
`Text` values, never into rich's markup.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Group
from rich.table import Table
from rich.text import Text

from controlplane.demo.mesh import DemoMesh, Pod

COLUMNS: Final = (
    ("clusters", "type.googleapis.com/envoy.config.cluster.v3.Cluster"),
    ("endpoints", "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"),
    ("listeners", "type.googleapis.com/envoy.config.listener.v3.Listener"),
    ("routes", "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"),
)
STYLES: Final = {
    "SYNCED": "green",
    "STALE": "yellow",
    "REJECTED": "red",
    "NOT SENT": "dim",
    "NOT CONNECTED": "red",
}
SHOWN_LEVELS: Final = ("Error", "Warning")


class Row(msgspec.Struct, frozen=True):
    """One proxy: its name, its state for each column, and the last thing it rejected."""

    proxy: str
    states: tuple[str, ...]
    rejected: str = ""

    @property
    def synced(self) -> bool:
        """Whether the proxy runs everything that was sent to it."""
        return all(state == "SYNCED" for state in self.states)


class Situation(msgspec.Struct, frozen=True):
    """What the control plane says at one moment."""

    rows: tuple[Row, ...] = ()
    findings: tuple[str, ...] = ()
    trouble: str = ""
    pods: tuple[Pod, ...] = ()

    @property
    def in_one_line(self) -> str:
        """The situation for a log: who is in sync, else what each proxy waits for."""
        if self.trouble:
            return self.trouble
        if not self.rows:
            return "no proxy is connected"
        if all(row.synced for row in self.rows):
            return f"in sync: {', '.join(row.proxy for row in self.rows)}"
        parts = []
        for row in self.rows:
            states = zip(COLUMNS, row.states, strict=True)
            late = [f"{name} {state}" for (name, _), state in states if state != "SYNCED"]
            parts.append(f"{row.proxy}: {', '.join(late) or 'in sync'}")
        return "; ".join(parts)


def situation_of(
    statuses: Sequence[Mapping[str, Any]],
    objects: Sequence[Mapping[str, Any]],
    pods: Sequence[Pod] = (),
) -> Situation:
    """Read what `/debug/syncz` and `/debug/configz` say; `pods` are taken as they are."""
    rows = []
    for status in statuses:
        resources = status.get("resources", {})
        states = tuple(str(resources.get(url, {}).get("status", "NOT SENT")) for _, url in COLUMNS)
        rejected = next((str(entry["message"]) for entry in status.get("rejections", ())), "")
        rows.append(Row(str(status["proxy"]), states, rejected))
    findings = [
        finding_text(finding)
        for item in objects
        for finding in item.get("diagnostics", ())
        if finding.get("level") in SHOWN_LEVELS
    ]
    return Situation(tuple(rows), tuple(dict.fromkeys(findings)), pods=tuple(pods))


def finding_text(finding: Mapping[str, Any]) -> str:
    """One finding as `validate` prints it: where, which object and field, what is wrong."""
    where = f"{finding['file']}:{finding.get('line', 0)}" if finding.get("file") else ""
    what = f"{finding.get('origin', '')} {finding.get('field', '')}".strip()
    head = " ".join(part for part in (where, what) if part)
    return f"{head}: {finding.get('message', '')}" if head else str(finding.get("message", ""))


def addresses(mesh: DemoMesh) -> list[tuple[str, str]]:
    """What to open, and what to edit."""
    layout = mesh.layout
    return [
        ("page", layout.page),
        ("files", str(mesh.live)),
        ("control plane", f"http://{layout.http}/debug"),
        ("", f"http://{layout.monitoring}/metrics"),
        *mesh.places(),
        ("logs", str(mesh.logs)),
    ]


def suggestions(mesh: DemoMesh) -> list[tuple[str, str]]:
    """What to do next: what will be seen, and the command to copy."""
    networking = mesh.bookinfo / "networking"
    reviews, ratings = mesh.live / "reviews.yaml", mesh.live / "ratings.yaml"
    return [
        ("red stars for everybody", f"cp {networking}/virtual-service-reviews-v3.yaml {reviews}"),
        (
            "black stars for jason only (sign in on the page)",
            f"cp {networking}/virtual-service-reviews-test-v2.yaml {reviews}",
        ),
        (
            "ratings that fail, for jason only",
            f"cp {networking}/virtual-service-ratings-test-abort.yaml {ratings}",
        ),
        ("back to the beginning", f"rm -f {reviews} {ratings}"),
    ]


def looks_inside(mesh: DemoMesh) -> list[str]:
    """Commands that show how far the proxies are and what they run."""
    pylot = Path(sys.executable).with_name("pylot")
    command = str(pylot.relative_to(Path.cwd()) if pylot.is_relative_to(Path.cwd()) else pylot)
    where = f"--control-plane http://{mesh.layout.http}"
    common = (f"proxy-status {where}", f"wait VirtualService/bookinfo.default {where}")
    return [f"{command} {words}" for words in (*common, *mesh.looks_inside())]


def proxy_table(situation: Situation) -> Table:
    """A row for each proxy: how far it is."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("proxy")
    for name, _ in COLUMNS:
        table.add_column(name)
    for row in situation.rows:
        table.add_row(Text(row.proxy), *state_cells(row.states))
    return table


def pod_table(situation: Situation) -> Table:
    """A row for each pod: its address, how far its proxy is, and what comes to it."""
    # Narrow enough for a terminal of 80 columns.
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("pod")
    table.add_column("address")
    for name, _ in COLUMNS:
        table.add_column(name)
    table.add_column("requests/s", justify="right")
    states = {row.proxy: row.states for row in situation.rows}
    for pod in situation.pods:
        cells = state_cells(states.get(pod.proxy, ("NOT CONNECTED",) * len(COLUMNS)))
        rate = "-" if pod.requests is None else f"{pod.requests:.1f}"
        table.add_row(Text(pod.proxy.partition(".")[0]), Text(pod.address), *cells, Text(rate))
    return table


def state_cells(states: Iterable[str]) -> list[Text]:
    """The states of one proxy in their colours."""
    return [Text(state.lower(), style=STYLES.get(state, "")) for state in states]


def live_view(situation: Situation) -> Group:
    """The part of the terminal that changes: a table of proxies, and what is wrong."""
    lines: list[Any] = [pod_table(situation) if situation.pods else proxy_table(situation)]
    if situation.trouble:
        lines.append(Text(situation.trouble, style="red"))
    lines += [Text(f"{row.proxy}: {row.rejected}", "red") for row in situation.rows if row.rejected]
    lines += [Text(finding, style="yellow") for finding in situation.findings]
    lines.append(Text("Ctrl-C ends it.", style="dim"))
    return Group(*lines)

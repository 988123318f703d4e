"""`pylot demo` says in one sentence what stands in its way, and knows what is whose."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from controlplane.agent.bootstrap import SocketAddress
from controlplane.cli.demo import demo
from controlplane.demo.display import live_view, situation_of
from controlplane.demo.exercises import tolerance
from controlplane.demo.layout import (
    APPLICATIONS,
    Layout,
    application_command,
    bookinfo_directory,
    gateway_bootstrap,
    serve_command,
    sidecar_bootstrap,
    write_live,
)
from controlplane.demo.mesh import Pod
from controlplane.demo.namespaces import can_capture, is_orphan, start_of
from controlplane.demo.ports import (
    choose_layout,
    choose_loopback,
    choose_namespace_layout,
    choose_service_port,
    missing_addresses,
)
from controlplane.errors import UsageError

CDS = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
EDS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
LDS = "type.googleapis.com/envoy.config.listener.v3.Listener"
RDS = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"


def pylot_demo(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "controlplane", "demo", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_taken_port_is_named_with_the_flag_that_changes_it() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = pylot_demo("--port", str(port))
    assert done.returncode == 2
    assert done.stderr.strip() == f"Error: port {port} is in use; choose another one with --port"
    assert done.stdout == ""


def test_capture_by_namespaces_is_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(UsageError) as caught:
        demo(capture="netns", port=8080, once=True)
    reason = "need root" if sys.platform == "linux" else "are a part of Linux"
    assert str(caught.value) == (
        f"--capture netns: network namespaces {reason}; use --capture none"
    )


def test_without_iptables_nothing_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(
        "shutil.which", lambda name, path="": None if name == "iptables-restore" else name
    )
    assert can_capture() == "the program `iptables-restore` is missing"


def test_pods_have_their_ports_for_themselves() -> None:
    layout = choose_namespace_layout(18080)
    assert layout.page == "http://127.0.0.1:18080/productpage"
    assert layout.service_port == 9080
    assert layout.gateway_port == 8080
    assert str(layout.grpc) == "10.244.0.1:15010"
    text = (bookinfo_directory() / "mesh" / "reviews.yaml").read_text()
    assert "podIP: 10.244.0.14\n" in layout.localized(text)


def test_a_namespace_is_an_orphan_when_its_owner_is_gone() -> None:
    here = f"pylot-{os.getpid()}-{start_of(os.getpid())}-node"
    assert not is_orphan(here)
    # The id of a process that ended was given to another one.
    assert is_orphan(f"pylot-{os.getpid()}-0-node")
    assert is_orphan("pylot-99999999-abc-reviews-v1")
    assert not is_orphan("cni-1234-abc-x")
    assert not is_orphan("pylot-other")


def test_the_table_of_pods_shows_address_state_and_requests() -> None:
    good = {"status": "SYNCED"}
    status = {"proxy": "a.b", "resources": {CDS: good, EDS: good, LDS: good, RDS: good}}
    pods = [Pod("a.b", "10.0.0.1", 12.34), Pod("c.d", "10.0.0.2")]
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(live_view(situation_of([status], [], pods)))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines[0][-1] == "requests/s"
    assert lines[1] == ["a", "10.0.0.1", *["synced"] * 4, "12.3"]
    assert lines[2] == ["c", "10.0.0.2", *["not", "connected"] * 4, "-"]


def test_a_port_that_is_no_port_is_refused() -> None:
    with pytest.raises(UsageError, match="--port: 70000"):
        choose_layout(70000)


def test_a_wanted_address_that_is_taken_is_replaced_by_a_free_one() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        taken: set[int] = set()
        found = choose_loopback(port, taken)
    assert found.port != port
    assert found.port in taken


def test_applications_move_together_when_one_address_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def bind_error(address: SocketAddress) -> OSError | None:
        return OSError(98, "in use") if address.port == 9080 else None

    monkeypatch.setattr("controlplane.demo.ports.bind_error", bind_error)
    assert choose_service_port(()) == 9090


def test_macos_is_told_which_addresses_to_add() -> None:
    sentence = missing_addresses(["127.0.0.11", "127.0.0.12"], platform="darwin")
    assert "sudo ifconfig lo0 alias 127.0.0.11; sudo ifconfig lo0 alias 127.0.0.12" in sentence


def test_addresses_are_replaced_whole_and_nothing_else_is() -> None:
    layout = Layout(gateway_port=8443, service_port=9999, prefix="127.7.8.")
    text = "127.0.0.1 127.0.0.11 127.0.0.110 9080 19080 8080"
    assert layout.localized(text) == "127.0.0.1 127.7.8.11 127.0.0.110 9999 19080 8443"


def test_the_usual_layout_leaves_the_example_files_as_they_are(tmp_path: Path) -> None:
    bookinfo = bookinfo_directory()
    write_live(Layout(), bookinfo, tmp_path)
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.yaml")}
    assert Path("mesh/reviews.yaml") in written
    assert Path("networking/bookinfo-gateway.yaml") in written
    for path in written:
        assert (tmp_path / path).read_text() == (bookinfo / path).read_text()


def test_the_mesh_files_name_every_address_where_an_application_runs() -> None:
    texts = "".join(path.read_text() for path in (bookinfo_directory() / "mesh").glob("*.yaml"))
    for application in APPLICATIONS:
        assert f"podIP: {Layout().address(application).host}\n" in texts


def test_only_applications_that_call_others_know_the_sidecar() -> None:
    bookinfo = bookinfo_directory()
    for application in APPLICATIONS:
        command = application_command(Layout(), application, bookinfo=bookinfo)
        assert ("--mesh-proxy" in command) == (application.app in ("productpage", "reviews"))


def test_the_control_plane_listens_on_the_loopback_interface_only() -> None:
    command = serve_command(Layout(), Path("live"))
    for flag in ("--grpc-addr", "--http-addr", "--monitoring-addr"):
        assert command[command.index(flag) + 1].startswith("127.0.0.1:")


def test_the_bootstraps_have_the_node_ids_of_the_hand_written_ones() -> None:
    local = bookinfo_directory() / "local"
    for name, bootstrap in (
        ("ingress", gateway_bootstrap(Layout())),
        ("sidecar", sidecar_bootstrap(Layout())),
    ):
        assert f"id: {bootstrap.node_id}\n" in (local / f"{name}.yaml").read_text()


def test_a_situation_is_one_line_when_all_is_well() -> None:
    good = {"status": "SYNCED"}
    status = {"proxy": "a.b", "resources": {CDS: good, EDS: good, LDS: good, RDS: good}}
    assert situation_of([status], []).in_one_line == "in sync: a.b"


def test_a_situation_names_what_a_proxy_waits_for_and_what_is_wrong_with_an_object() -> None:
    good = {"status": "SYNCED"}
    status = {
        "proxy": "a.b",
        "resources": {CDS: good, EDS: good, LDS: {"status": "STALE"}, RDS: good},
        "rejections": [{"message": "no such filter"}],
    }
    finding = {
        "level": "Error",
        "message": "unknown field",
        "origin": "VirtualService default/reviews",
        "field": "spec.http[0].wieght",
        "file": "reviews.yaml",
        "line": 7,
    }
    hint = {"level": "Info", "message": "not shown"}
    seen = situation_of([status], [{"diagnostics": [finding, hint]}])
    assert seen.in_one_line == "a.b: listeners STALE"
    assert seen.rows[0].rejected == "no such filter"
    assert seen.findings == (
        "reviews.yaml:7 VirtualService default/reviews spec.http[0].wieght: unknown field",
    )


def test_a_share_may_differ_by_chance_only() -> None:
    assert 0.05 < tolerance(0.1, 300) < 0.1
    assert tolerance(0.1, 30000) < 0.01

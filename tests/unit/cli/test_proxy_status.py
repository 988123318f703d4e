"""`pylot proxy-status` against answers of our control plane and of an istiod."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from controlplane.cli.proxy_status import proxy_status, rejection_lines
from controlplane.debug.render import to_json
from controlplane.debug.views.serving import syncz
from controlplane.errors import OutsideError, UsageError
from tests.unit.cli.http_fixture import answering
from tests.unit.debug.conftest import ask, connection, make_snapshot, rejected_routes

app = typer.Typer()
app.command()(proxy_status)


def statuses() -> Any:
    """What our own view says of two proxies, one of which rejected its routes."""
    from controlplane.ads.status import ServingStatus

    snapshot = make_snapshot("10.0.0.1")
    serving = ServingStatus(
        connections=(
            connection("reviews-1.default", "10.0.0.1", snapshot, rejected_routes()),
            connection("web-1.other", "10.0.0.9", snapshot, number=2),
        )
    )
    return json.loads(to_json(syncz(ask(snapshot, serving))()))


def run(base: str, *arguments: str) -> Any:
    """Run the command against a control plane."""
    return CliRunner().invoke(app, ["--control-plane", base, *arguments])


def test_table_and_the_object_behind_a_rejection() -> None:
    with answering({"/debug/syncz": statuses()}) as base:
        lines = run(base).stdout.splitlines()
    header = lines[0].split()
    assert header == ["NAME", "CLUSTER", "CDS", "LDS", "EDS", "RDS", "NDS", "ISTIOD", "VERSION"]
    first = lines[1].replace("NOT SENT", "NOT_SENT").split()
    assert first[:6] == ["reviews-1.default", "east", *["NOT_SENT"] * 3, "REJECTED"]
    assert (first[6], first[8]) == ("-", "1.29.0")
    assert lines[3] == (
        "REJECTED by reviews-1.default: RDS 9080 made by VirtualService default/reviews: bad regex"
    )


def test_proxies_that_say_the_same_of_a_resource_are_one_line() -> None:
    rejection = {"type": "RDS", "resource": "80", "objects": ["VirtualService default/a"]}
    many = [
        {"proxy": f"web-{number}.default", "rejections": [rejection | {"message": "bad\nregex"}]}
        for number in range(1000)
    ]
    other = {"proxy": "old.default", "rejections": [rejection | {"message": "no such field"}]}
    assert list(rejection_lines([*many, other])) == [
        "REJECTED by web-0.default, web-1.default, web-2.default and 997 more: "
        "RDS 80 made by VirtualService default/a: bad regex",
        "REJECTED by old.default: RDS 80 made by VirtualService default/a: no such field",
    ]


def test_the_agents_name_table_is_shown_with_its_envoy() -> None:
    from controlplane.ads.status import ServingStatus, WatchStatus
    from controlplane.translate.resources import ResourceType

    snapshot = make_snapshot("10.0.0.1")
    url = ResourceType.NAME_TABLE.url
    table = WatchStatus(type_url=url, wildcard=True, nonce_sent="n-2", nonce_acked="n-1")
    serving = ServingStatus(
        connections=(
            connection("reviews-1.default", "10.0.0.1", snapshot),
            connection("reviews-1.default", "10.0.0.1", snapshot, table, number=2),
        )
    )
    answer = json.loads(to_json(syncz(ask(snapshot, serving))()))
    assert [status["connection_id"] for status in answer] == [
        serving.connections[0].connection_id
    ], "it is one proxy, however many streams it has"
    with answering({"/debug/syncz": answer}) as base:
        row = run(base).stdout.splitlines()[1].replace("NOT SENT", "NOT_SENT").split()
        (line,) = [text for text in run(base, "reviews-1").stdout.splitlines() if "NDS" in text]
    assert row[6] == "STALE"
    assert line.split()[:2] == ["NDS", "STALE"]


def test_detail_of_one_proxy() -> None:
    with answering({"/debug/syncz": statuses()}) as base:
        text = run(base, "reviews-1.default").stdout
        whole = json.loads(run(base, "reviews-1", "-o", "json").stdout)
    assert "reviews-1.default-1" in text
    (row,) = [line for line in text.splitlines() if line.startswith("RDS")]
    assert row.split()[:4] == ["RDS", "REJECTED", "v2", "v1"]
    assert "VirtualService default/reviews" in text
    assert whole["proxy"] == "reviews-1.default"


def test_istiods_answer_is_understood_by_its_nonces() -> None:
    istiod = [
        {
            "cluster_id": "Kubernetes", "proxy": "a.b", "istio_version": "1.29.0",
            "cluster_sent": "n1", "cluster_acked": "n1", "listener_sent": "n2",
            "listener_acked": "n1",
        }
    ]  # fmt: skip
    with answering({"/debug/syncz": istiod}) as base:
        row = run(base).stdout.splitlines()[1].replace("NOT SENT", "NOT_SENT").split()
    assert row[2:6] == ["SYNCED", "STALE", "NOT_SENT", "NOT_SENT"]


def test_nothing_connected_is_said() -> None:
    with answering({"/debug/syncz": []}) as base:
        result = run(base)
    assert result.exit_code == 0
    assert result.stdout == "No proxies are connected.\n"


def test_token_is_sent_and_its_lack_is_explained(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("hello\n")
    with answering({"/debug/syncz": []}, token="hello") as base:
        refused = run(base).exception
        assert isinstance(refused, OutsideError)
        assert str(refused).endswith(
            "401: callers from other machines need a bearer token; "
            "name the file of one with --debug-token-file FILE"
        )
        assert run(base, "--debug-token-file", str(token)).exit_code == 0
        missing = run(base, "--debug-token-file", str(tmp_path / "none")).exception
    assert isinstance(missing, UsageError)
    assert str(missing).endswith("/none cannot be read: No such file or directory")


@pytest.mark.parametrize("pod", ["nobody", "reviews"])
def test_unknown_proxy_is_an_error_that_names_those_there_are(pod: str) -> None:
    with answering({"/debug/syncz": statuses()}) as base:
        error = run(base, pod).exception
    assert isinstance(error, OutsideError)
    assert "reviews-1.default, web-1.other" in str(error)


def test_control_plane_that_is_not_there() -> None:
    error = run("http://127.0.0.1:9").exception
    assert isinstance(error, OutsideError)
    assert "http://127.0.0.1:9/debug/syncz" in str(error)
    assert "--control-plane URL" in str(error)


def test_a_server_that_says_nothing_is_taken_for_another_one() -> None:
    with answering({"/debug/syncz": (404, "")}) as base:
        said = str(run(base).exception)
    assert said == (
        f"{base}/debug/syncz answered 404: Not Found; is the control plane running there? "
        "name another one with --control-plane URL"
    )

"""`pylot validate` prints one line per problem and answers with its exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from controlplane.cli.validate import validate

GOOD = """\
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {ports: [{name: http, port: 9080}]}
"""
ROUTES = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
spec:
  hosts: [reviews]
  http:
  - route:
    - destination:
        host: HOST
"""


def run(*arguments: object, stdin: str = "") -> Result:
    app = typer.Typer()
    app.command()(validate)
    return CliRunner().invoke(app, [str(entry) for entry in arguments], input=stdin)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "service.yaml").write_text(GOOD)
    (tmp_path / "routes.yaml").write_text(ROUTES.replace("HOST", "reviews"))
    return tmp_path


def test_good_files_say_nothing_and_give_0(folder: Path) -> None:
    result = run("-f", folder / "service.yaml", "-f", folder / "routes.yaml")
    assert (result.exit_code, result.output) == (0, "")


def test_an_error_gives_1_and_one_line(folder: Path) -> None:
    path = folder / "bad.yaml"
    path.write_text(ROUTES.replace("host: HOST", "hots: reviews").replace("name: r", "name: x"))
    result = run("-f", folder)
    assert result.exit_code == 1
    assert result.output == (
        f"{path}:10 VirtualService default/xeviews spec.http[0].route[0].destination.hots:"
        " unknown field 'hots'; did you mean 'host'?\n"
    )


def test_a_warning_about_two_objects_has_the_line_of_its_field(folder: Path) -> None:
    path = folder / "routes.yaml"
    path.write_text(f"# first\n{ROUTES.replace('HOST', 'nobody')}")
    result = run("-f", folder)
    assert result.exit_code == 0
    assert result.output == (
        f"{path}:11 VirtualService default/reviews spec.http[0].route[0].destination.host:"
        " no service has the host nobody.default.svc.cluster.local; requests get 503 [Warning]\n"
    )


def test_objects_are_looked_at_together(folder: Path) -> None:
    routes = folder / "routes.yaml"
    assert "no service" in run("-f", routes).output
    assert run("-f", routes, "-f", folder / "service.yaml").output == ""


def test_stdin_is_a_file_too() -> None:
    result = run("-f", "-", stdin=GOOD.replace("port: 9080", "port: 0"))
    assert result.exit_code == 1
    assert result.output.startswith("<stdin>:4 Service default/reviews spec.ports[0].port: 0 is")


def test_text_that_is_not_yaml_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: [\n")
    result = run("-f", path)
    assert result.exit_code == 1
    assert result.output.startswith(f"{path}:2: ")


def test_notes_are_shown_on_request(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n")
    assert run("-f", path).output == ""
    assert run("-f", path, "--level", "info").output.endswith("[Info]\n")


def test_settings_of_the_mesh_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text("rootNamespac: x\n")
    (tmp_path / "a.yaml").write_text(GOOD)
    result = run("-f", tmp_path / "a.yaml", "--mesh-config", path)
    assert result.exit_code == 1
    assert result.output.startswith(f"{path}:1 rootNamespac: unknown field")


@pytest.mark.parametrize("arguments", [["-f", "/does/not/exist"], [], ["--nonsense"]])
def test_wrong_usage_gives_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output

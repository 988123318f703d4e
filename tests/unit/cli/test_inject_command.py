"""`pylot inject`: streams, exit codes and sentences."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from controlplane.cli.inject import inject
from controlplane.errors import PylotError, UsageError

POD = """\
# a pod
apiVersion: v1
kind: Pod
metadata: {name: p}
spec: {containers: [{name: c, image: x}]}
"""
SERVICE = "# a service\napiVersion: v1\nkind: Service\nmetadata: {name: s}\n"
HOST = POD.replace("spec: {", "spec: {hostNetwork: true, ")

app = typer.Typer()
app.command()(inject)


def run(*arguments: object, text: str | None = None) -> Result:
    """Run the command."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=text)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file with a service and a pod."""
    path = tmp_path / "in.yaml"
    path.write_text(f"{SERVICE}---\n{POD}")
    return path


def test_manifests_come_out_with_sidecars(file: Path) -> None:
    result = run("-f", file)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(SERVICE)
    _, pod = yaml.safe_load_all(result.stdout)
    assert [one["name"] for one in pod["spec"]["initContainers"]] == ["istio-init", "istio-proxy"]
    assert result.stderr == ""


def test_stdin_and_several_files_become_one_stream(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(SERVICE.rstrip("\n"))
    result = run("-f", other, "-f", "-", "-f", file, text=POD)
    assert result.exit_code == 0, result.output
    kinds = [document["kind"] for document in yaml.safe_load_all(result.stdout)]
    assert kinds == ["Service", "Pod", "Service", "Pod"]


def test_what_was_injected_can_be_injected_again(file: Path, tmp_path: Path) -> None:
    once = run("-f", file).stdout
    again = tmp_path / "again.yaml"
    again.write_text(once)
    result = run("-f", again)
    assert result.stdout == once
    assert "left alone, by the rule already injected" in result.stderr


def test_explain_says_as_comments_which_rule_decided(file: Path, tmp_path: Path) -> None:
    host = tmp_path / "host.yaml"
    host.write_text(HOST)
    result = run("-f", file, "-f", host, "--explain")
    assert (
        "---\n# Pod default/p: injected, by the rule policy: the policy is enabled\n"
        in result.stdout
    )
    assert "---\n# Pod default/p: left alone, by the rule hostNetwork: it uses" in result.stdout
    assert len(list(yaml.safe_load_all(result.stdout))) == 3


def test_a_workload_that_is_left_alone_is_said_on_stderr(tmp_path: Path) -> None:
    host = tmp_path / "host.yaml"
    host.write_text(HOST)
    result = run("-f", host)
    assert result.exit_code == 0
    assert result.stdout == HOST
    assert result.stderr.startswith("Pod default/p: left alone, by the rule hostNetwork")


def test_nothing_is_printed_when_anything_is_wrong(file: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(POD.replace("name: p}", "name: p, annotations: {sidecar.istio.io/logLevel: x}}"))
    result = run("-f", file, "-f", bad)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert f"{bad}:2 Pod default/p annotation sidecar.istio.io/logLevel" in result.stderr


def test_mesh_config_values_and_template_are_read(file: Path, tmp_path: Path) -> None:
    mesh, values, config = (tmp_path / name for name in ("mesh", "values", "config"))
    mesh.write_text("trustDomain: example.org")
    values.write_text("global: {hub: mine}")
    config.write_text("templates: {sidecar: {spec: {nodeName: '${mesh.trustDomain}'}}}")
    result = run("-f", file, "--mesh-config", mesh, "--values", values)
    assert "image: mine/proxy:" in result.stdout
    assert "value: example.org" in result.stdout
    result = run("-f", file, "--mesh-config", mesh, "--inject-config", config)
    assert "nodeName: example.org" in result.stdout
    assert "istio-proxy" not in result.stdout


def test_a_namespace_limits_what_is_injected(file: Path) -> None:
    assert "istio-proxy" in run("-f", file, "-n", "shop").stdout
    text = POD.replace("name: p}", "name: p, namespace: other}")
    assert run("-f", "-", "-n", "shop", text=text).stdout == text


@pytest.mark.parametrize(
    ("flag", "text", "sentence"),
    [
        ("--inject-config", "policy: no", "policy: "),
        ("--inject-config", "templates: {sidecar: {spec: {a: '${b}'}}}", "there is no value b"),
        ("--values", "global: 1", "global: must be an object"),
        ("--mesh-config", "trustDomian: x", "trustDomian"),
    ],
)
def test_a_bad_setting_is_a_sentence_with_the_file(
    file: Path, tmp_path: Path, flag: str, text: str, sentence: str
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(text)
    result = run("-f", file, flag, bad)
    assert isinstance(result.exception, PylotError)
    assert str(bad) in str(result.exception)
    assert sentence in str(result.exception)
    assert result.stdout == ""


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    result = run("-f", tmp_path / "gone.yaml")
    assert isinstance(result.exception, UsageError)
    assert "gone.yaml: No such file" in str(result.exception)


def test_the_command_starts_without_heavy_imports() -> None:
    code = (
        "import sys, controlplane.cli.inject\n"
        "assert not {'yaml', 'aiohttp', 'cryptography'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)

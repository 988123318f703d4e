"""`pylot crds`: all definitions, or those that are named."""

from __future__ import annotations

import json

import pytest
import typer
import yaml
from typer.testing import CliRunner

from controlplane.cli.crds import crds
from controlplane.errors import UsageError

app = typer.Typer()
app.command()(crds)


def _kinds(*arguments: str) -> list[str]:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    items = list(yaml.load_all(done.stdout, Loader=yaml.CSafeLoader))
    return [item["spec"]["names"]["kind"] for item in items]


def test_all_definitions_are_printed() -> None:
    """One document for each kind."""
    found = _kinds()
    assert {"VirtualService", "DestinationRule", "Gateway", "AuthorizationPolicy"} <= set(found)
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    "name", ["VirtualService", "virtualservices", "vs", "virtualservices.networking.istio.io"]
)
def test_a_named_kind_is_printed_alone(name: str) -> None:
    """By any name that kubectl takes."""
    assert _kinds(name) == ["VirtualService"]


def test_json_is_one_list() -> None:
    """As `kubectl get -o json` prints it."""
    done = CliRunner().invoke(app, ["-o", "json", "gw", "se"])
    items = json.loads(done.stdout)["items"]
    assert [item["spec"]["names"]["kind"] for item in items] == ["Gateway", "ServiceEntry"]


def test_an_unknown_kind_is_wrong_usage() -> None:
    """The sentence says what there is."""
    done = CliRunner().invoke(app, ["deployments"])
    assert isinstance(done.exception, UsageError)
    assert "virtualservices" in str(done.exception)

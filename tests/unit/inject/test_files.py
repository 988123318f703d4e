"""Injection of files: what passes through, what is said, and what is refused."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from controlplane.inject.config import load_config
from controlplane.inject.files import FileInjector
from controlplane.inject.yaml_text import cut, dump
from controlplane.model.mesh import MeshConfig
from controlplane.sources.positions import yaml_documents
from tests.unit.inject.pods import pod

DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  template: {spec: {containers: [{name: web, image: x}]}}
"""


def injector(*namespaces: str) -> FileInjector:
    """Return an injector with everything as it comes."""
    return FileInjector(load_config(), MeshConfig(), namespaces=namespaces)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment\n",
        "---\n---\n",
        "a: 1  # kept\n---\n# c\nb: |\n  ---\n  text\n...\n---\nc: 'x'",
        "%YAML 1.2\n---\na: 1\n",
        "a: 1\r\n--- \r\nb: 2\r\n",
        "apiVersion: example.org/v1\nkind: CronJob\n",
        '{"apiVersion": "v1", "kind": "Service"}',
        "- a\n- b\n",
    ],
)
def test_what_is_no_workload_passes_through_byte_for_byte(text: str) -> None:
    result = injector().inject("f.yaml", text)
    assert result.problems == ()
    assert "".join(piece.text for piece in result.pieces) == text


@given(st.lists(st.sampled_from(["a: 1\n", "---\n", "...\n", "# c\n", "--- # c\n", "x"])))
def test_a_text_that_is_cut_can_be_put_together(parts: list[str]) -> None:
    text = "".join(parts)
    assert "".join(chunk for chunk, _ in cut(text)) == text


def test_documents_around_an_injected_one_keep_their_comments() -> None:
    text = f"# first\na: 1\n---\n{DEPLOYMENT}---\n# last\nb: 2\n"
    result = injector().inject("f.yaml", text)
    made = [piece.text for piece in result.pieces]
    assert made[0] == "# first\na: 1\n"
    assert made[1].startswith("---\napiVersion: apps/v1\nkind: Deployment\n")
    assert made[2] == "---\n# last\nb: 2\n"


def test_a_json_file_is_injected_too() -> None:
    text = json.dumps(pod("p"))
    result = injector().inject("f.json", text)
    made = yaml.safe_load(result.pieces[0].text)
    assert [one["name"] for one in made["spec"]["initContainers"]] == ["istio-init", "istio-proxy"]


@given(st.text(max_size=20))
def test_a_string_comes_back_as_the_same_string(text: str) -> None:
    # What YAML cannot hold at all, no reader can give back.
    printable = "".join(c for c in text if c == "\n" or (c.isprintable() and c != "\ufeff"))
    (document,) = yaml_documents(dump({"k": printable}))
    assert document.value == {"k": printable}


@pytest.mark.parametrize(
    "text", ["1e3", "0o17", "0755", "y", "N", "on", "12:30", "1_000", ".5", "~", "-", "+1", "null"]
)
def test_a_string_that_a_go_reader_takes_for_something_else_is_quoted(text: str) -> None:
    assert dump({"k": text}) == f"k: '{text}'\n"


def test_labels_of_namespaces_in_the_file_decide() -> None:
    text = f"""\
apiVersion: v1
kind: Namespace
metadata: {{name: shop, labels: {{istio.io/rev: canary}}}}
---
{DEPLOYMENT}"""
    (_, piece) = injector().inject("f.yaml", text).pieces
    (explanation,) = piece.explanations
    assert explanation.subject == "Deployment shop/web"
    assert not explanation.injected
    assert "istio.io/rev=canary" in explanation.text


def test_a_namespace_without_labels_of_injection_says_nothing() -> None:
    text = f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop}}\n---\n{DEPLOYMENT}"
    (_, piece) = injector().inject("f.yaml", text).pieces
    assert piece.explanations[0].injected


def test_only_the_namespaces_that_were_asked_for_are_injected() -> None:
    here = injector("shop", "other").inject("f.yaml", DEPLOYMENT)
    assert here.pieces[0].explanations[0].injected
    elsewhere = injector("other").inject("f.yaml", DEPLOYMENT)
    assert elsewhere.pieces[0].text == DEPLOYMENT
    assert elsewhere.pieces[0].explanations == ()


def test_an_object_without_a_namespace_is_in_the_first_one() -> None:
    text = DEPLOYMENT.replace(", namespace: shop", "")
    (piece,) = injector("other").inject("f.yaml", text).pieces
    assert piece.explanations[0].subject == "Deployment other/web"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\n---\nb: [}\n", "f.yaml:3: "),
        (
            "a: 1\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: w}\nspec: {}\n",
            "f.yaml:3 Deployment default/w spec.template: must be an object",
        ),
        (
            DEPLOYMENT.replace("{spec:", "{metadata: {annotations: {a: 1}}, spec:"),
            "f.yaml:1 Deployment shop/web spec.template.metadata.annotations[a]: must be a string",
        ),
        (
            DEPLOYMENT.replace(
                "{spec:", "{metadata: {annotations: {sidecar.istio.io/logLevel: x}}, spec:"
            ),
            "f.yaml:1 Deployment shop/web annotation sidecar.istio.io/logLevel: 'x' is not one of",
        ),
        (
            "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service}\n"
            "- {apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {}}\n",
            "f.yaml:5 Pod default/p spec.containers: must be a list of objects",
        ),
        (
            DEPLOYMENT.replace("kind: Deployment", "kind: Deployment\nmetadata: {name: x}"),
            "f.yaml:1 Deployment ",
        ),
    ],
)
def test_a_problem_names_file_line_object_and_field(text: str, problem: str) -> None:
    result = injector().inject("f.yaml", text)
    assert len(result.problems) == 1
    assert result.problems[0].startswith(problem)

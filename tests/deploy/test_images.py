"""Dockerfile and script for kind, as far as they can be checked without Docker."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import yaml

from tests.deploy.helm import DEPLOY
from tests.deploy.kind import INVALID, ROOT, SCRIPT, VALUES, applied, built
from tests.deploy.objects import injected, objects

DOCKERFILE = DEPLOY / "Dockerfile"


def test_the_script_is_a_script_of_bash() -> None:
    """And one without a doubt where shellcheck is there to say so."""
    subprocess.run(["bash", "-n", SCRIPT], check=True, timeout=20)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", SCRIPT], check=True, timeout=60)


def test_wrong_usage_is_told_before_anything_is_made() -> None:
    """No tool is needed for that."""
    done = subprocess.run(
        ["bash", SCRIPT, "--wrong"], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 2
    assert "usage" in done.stderr


def test_every_file_that_the_script_names_is_there() -> None:
    """Manifests, values, the cluster's settings, Dockerfile and chart."""
    named = re.findall(r"\b(?:deploy|examples)/[\w./-]+", SCRIPT.read_text("utf-8"))
    assert len(named) > 8
    assert not [path for path in named if not (ROOT / path).exists()]
    assert len(applied()) == 4
    assert all(path.exists() for path in applied())
    assert yaml.safe_load(INVALID.read_text())["spec"]["hosts"] == ["reviews..default"]


@pytest.mark.helm
def test_the_script_builds_every_image_that_pods_need() -> None:
    """Those of the chart, of the injector and of Bookinfo."""
    items = objects(values=VALUES)
    bookinfo = ROOT / "examples" / "bookinfo" / "platform" / "bookinfo.yaml"
    deployments = [
        item
        for item in (*items, *yaml.safe_load_all(bookinfo.read_text("utf-8")))
        if item["kind"] == "Deployment"
    ]
    used = {
        container["image"].replace(":0.1.0", ":TAG")
        for deployment in deployments
        for container in injected(items, deployment, "default")["spec"]["containers"]
    }
    assert used == built()


def test_the_dockerfile_copies_what_exists_and_what_docker_is_sent() -> None:
    """Its own .dockerignore names the same."""
    text = DOCKERFILE.read_text("utf-8")
    copied = {
        word
        for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE)
        for word in line.split()[:-1]
    }
    assert not [path for path in copied if not (ROOT / path).exists()]
    sent = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert {line[1:] for line in sent if line.startswith("!")} == copied


def test_images_run_as_nobody_and_come_from_public_names() -> None:
    """Each stage that is an image ends as the user of the proxy."""
    text = DOCKERFILE.read_text("utf-8")
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    names = {stage.split()[2] for stage in stages}
    assert {stage.split()[0] for stage in stages} <= {"python:3.11-slim"} | names
    for stage in stages:
        if stage.split()[2] in ("controlplane", "proxy"):
            assert re.search(r"^USER 1337:1337$", stage, re.MULTILINE), stage

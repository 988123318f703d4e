"""Where an agent writes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from controlplane.agent.run import scratch_directory
from controlplane.errors import OutsideError


def test_what_a_run_writes_is_in_the_volume_and_goes_with_it(tmp_path: Path) -> None:
    with scratch_directory(tmp_path) as made:
        assert made.parent == tmp_path
        assert made.is_dir()
    assert not list(tmp_path.iterdir())


def test_without_a_volume_it_is_where_temporary_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch_directory(tmp_path / "none") as made:
        assert made.parent == tmp_path


def test_no_place_at_all_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no"))
    with (
        pytest.raises(OutsideError, match="no place for the bootstrap"),
        scratch_directory(tmp_path / "none"),
    ):
        pass

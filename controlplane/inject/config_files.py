"""The injector's settings of the moment, out of `--inject-config` and `--values`.

Owns reading the two files again when they changed. Must not know what is in them. The rule that
is easy to break: a file that cannot be used any more keeps its last good content, and says so
once; only at the start it is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from controlplane.inject.config import InjectConfig, load_config
from controlplane.inject.errors import InjectConfigError
from controlplane.inject.file_state import FileState, state_of
from controlplane.inject.names import DEFAULT_REVISION
from controlplane.sources.text import UnreadableError, decode_text

_log = structlog.get_logger()


class FileConfig:
    """The settings in two files, of which either may be None: then ours count."""

    def __init__(
        self,
        inject_config: Path | None = None,
        values: Path | None = None,
        *,
        revision: str = DEFAULT_REVISION,
        mesh_values: Mapping[str, Any] | None = None,
    ) -> None:
        """Read the files; raises InjectConfigError naming the file and the place in it."""
        self._files = (inject_config, values)
        self._revision = revision
        self._mesh_values = mesh_values
        self._seen: FileState = state_of(*self._files)
        self._current = self._read()

    def __call__(self) -> InjectConfig:
        """Return the settings of this moment."""
        seen = state_of(*self._files)
        if seen != self._seen:
            self._seen = seen
            self._read_again()
        return self._current

    def _read_again(self) -> None:
        try:
            self._current = self._read()
        except InjectConfigError as error:
            _log.error("inject_config_refused", reason=str(error), used="the last good one")
        else:
            _log.info("inject_config_read", templates=sorted(self._current.templates))

    def _read(self) -> InjectConfig:
        return read_config(*self._files, revision=self._revision, mesh_values=self._mesh_values)


def read_config(
    inject_config: Path | None,
    values: Path | None,
    *,
    revision: str = DEFAULT_REVISION,
    mesh_values: Mapping[str, Any] | None = None,
) -> InjectConfig:
    """Return the settings in these files; raises InjectConfigError naming file and place."""
    return load_config(
        _text(inject_config),
        _text(values),
        config_name=str(inject_config or "--inject-config"),
        values_name=str(values or "--values"),
        revision=revision,
        mesh_values=mesh_values,
    )


def _text(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return decode_text(path.read_bytes())
    except OSError as error:
        raise InjectConfigError(f"{path}: {error.strerror}") from None
    except UnreadableError as error:
        raise InjectConfigError(f"{path}:{error.line}: {error}") from None

"""A unix socket's path is absolute and fits into what the kernel has room for."""

from __future__ import annotations

import pytest

from controlplane.model.service_entry import WorkloadEntrySpec
from controlplane.model.validate_services import workload_entry


def messages(address: str) -> list[str]:
    return [finding.message for finding in workload_entry(WorkloadEntrySpec(address=address))]


@pytest.mark.parametrize("path", ["/run/x", "@abstract", "/" + "a" * 106, "/" + "é" * 53])
def test_a_path_that_the_kernel_takes_is_good(path: str) -> None:
    assert messages(f"unix://{path}") == []


@pytest.mark.parametrize("path", ["/" + "a" * 107, "/" + "é" * 54])
def test_a_path_that_is_too_long_is_an_error(path: str) -> None:
    assert messages(f"unix://{path}") == ["a unix socket's path may have 107 bytes at most"]


def test_a_relative_path_is_an_error() -> None:
    assert "is not an absolute path" in messages("unix://run/x")[0]

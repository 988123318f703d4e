"""Who counts as local."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.debug.auth import is_loopback, is_own_name, make_doors
from controlplane.errors import UsageError


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_loopback_addresses(peer: str) -> None:
    assert is_loopback(peer)


@pytest.mark.parametrize(
    "peer", ["", "10.0.0.1", "::ffff:10.0.0.1", "::", "fe80::1%eth0", "localhost", "127.0.0.1.evil"]
)
def test_other_addresses(peer: str) -> None:
    assert not is_loopback(peer)


@pytest.mark.parametrize(
    "host", ["", "localhost", "LOCALHOST:80", "a.localhost", "10.0.0.1:8080", "[::1]", "::1"]
)
def test_hosts_that_cannot_be_foreign_names(host: str) -> None:
    assert is_own_name(host)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.nip.io"]
)
def test_hosts_that_may_be_foreign_names(host: str) -> None:
    assert not is_own_name(host)


def test_token_file_has_to_be_there_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--debug-token-file: there is no file"):
        make_doors(tmp_path / "token")
    (tmp_path / "token").write_text("x")
    assert len(make_doors(tmp_path / "token").authenticators) == 1
    assert make_doors(None, insecure=True).insecure

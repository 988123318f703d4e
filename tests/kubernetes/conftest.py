"""The cluster of the session, and a namespace of each test's own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Final

import pytest

from controlplane.crds.definitions import definitions
from controlplane.crds.text import as_yaml
from tests.kubernetes.binaries import find_binaries, missing_binaries
from tests.kubernetes.cluster import Cluster, running_cluster

_NUMBERS: Final = itertools.count(1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster that the tests of a session share: leave it as it was found."""
    binaries = find_binaries()
    if binaries is None:
        raise AssertionError(missing_binaries())
    with running_cluster(binaries) as running:
        yield running


@pytest.fixture
def namespace(cluster: Cluster) -> str:
    """A new namespace; it stays, because nothing here finishes the deletion of a namespace."""
    name = f"test-{os.getpid()}-{next(_NUMBERS)}"
    cluster.kubectl("create", "namespace", name)
    return name


@pytest.fixture(scope="session")
def istio_crds(cluster: Cluster) -> None:
    """The definitions of Istio's kinds, as `pylot crds` prints them, served by the cluster."""
    names = [item["metadata"]["name"] for item in definitions()]
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=as_yaml(definitions()))
    cluster.kubectl(
        "wait", "--for=condition=Established", "--timeout=50s", *(f"crd/{name}" for name in names)
    )

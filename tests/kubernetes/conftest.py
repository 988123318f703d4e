"""The cluster of the session, and a namespace of each test's own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Final

import pytest

from tests.kubernetes.cluster import Cluster, running_cluster
from tests.kubernetes.objects import install_definitions

_NUMBERS: Final = itertools.count(1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster that the tests of a session share: leave it as it was found."""
    with running_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[Cluster]:
    """A cluster that the tests of a module have to themselves, because they would be in the way
    of others."""
    with running_cluster() as running:
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
    install_definitions(cluster)

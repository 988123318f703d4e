"""sourcez, leaderz: what is followed in Kubernetes and how old that is, and who leads."""

from __future__ import annotations

from functools import partial

from controlplane.debug.render import builtins
from controlplane.debug.views.request import Rendering, ViewRequest


def sourcez(request: ViewRequest) -> Rendering:
    """The state of the Kubernetes source, empty when there is none.

    `away` and `age` are seconds: since when the API server cannot be reached, and since when
    nothing vouches for the state of a kind.
    """
    return partial(builtins, request.kubernetes() or {})


def leaderz(request: ViewRequest) -> Rendering:
    """The Leases that this replica takes part in, with their holders; empty outside a cluster."""
    return partial(builtins, request.leases())

"""Route configurations of golden cases, made the way that the generator makes them."""

from __future__ import annotations

from typing import Any

from controlplane.translate.resources import Translated
from controlplane.translate.routes import join_route, route_input
from controlplane.translate.virtual_hosts import build_virtual_host
from tests.golden.support import Case


def translate(case: Case, name: str) -> Translated:
    """Return the route configuration that the case's proxy gets for a name."""
    value = route_input(case.snapshot, case.cls.outbound, name)
    return join_route(value, tuple(build_virtual_host(host) for host in value.virtual_hosts))


def hosts(route: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the virtual hosts of an expanded route configuration by name."""
    found = {host["name"]: host for host in route["virtual_hosts"]}
    assert len(found) == len(route["virtual_hosts"]), "a name is there twice"
    return found

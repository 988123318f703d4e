"""Starts the Bookinfo applications inside the test process, on free ports of the loopback."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

BOOKINFO = Path(__file__).parents[3] / "examples" / "bookinfo"
MODULES = ("common", "details", "page", "productpage", "ratings", "reviews", "upstream")


@pytest.fixture(scope="session")
def modules() -> Iterator[dict[str, Any]]:
    """The modules of the applications, which import each other as scripts in one folder do."""
    sys.path.insert(0, str(BOOKINFO / "apps"))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(BOOKINFO / "apps"))
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture
def start(modules: dict[str, Any]) -> Iterator[Callable[..., str]]:
    """`start("reviews", version="v2")` serves it until the test ends and returns its URL."""
    servers: list[Any] = []

    def start_one(app: str, **options: Any) -> str:
        server = modules[app].make_server(**options)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start_one
    for server in servers:
        server.stop(seconds=0.0)

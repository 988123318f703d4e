"""What every test in namespaces needs: that nothing of a run that crashed is left."""

from __future__ import annotations

import asyncio
import threading

import pytest

from controlplane.demo.namespaces import can_capture, purge


@pytest.fixture(scope="session", autouse=True)
def without_orphans() -> None:
    """Remove the namespaces whose processes are dead."""
    if not can_capture():
        # In a thread of its own, so that the loops of the tests are not touched.
        thread = threading.Thread(target=asyncio.run, args=(purge(),))
        thread.start()
        thread.join()

"""Hands what Envoy writes on to our own standard output and error.

Owns the pipes between, which belong to Envoy's user: an access log at /dev/stdout is opened by its
path, and another user's pipe or terminal would refuse that.
Must not know what is written.
Easy to break: the copying must not stand in the event loop's way, so each pipe has a thread.
"""

from __future__ import annotations

import os
import threading
from typing import Final

from controlplane.agent.identity import Identity

CHUNK: Final = 65536
SECONDS_TO_END: Final = 2.0


class Output:
    """The standard output and error that a child is started with."""

    def __init__(self, identity: Identity | None) -> None:
        self._threads: list[threading.Thread] = []
        self._ends: list[int] = []
        self.stdout: int | None = None
        self.stderr: int | None = None
        if identity is not None and identity.uid != 0:
            self.stdout = self._relay(1, identity)
            self.stderr = self._relay(2, identity)

    def close(self) -> None:
        """Wait until everything was handed on; the child has ended."""
        for end in self._ends:
            os.close(end)
        self._ends.clear()
        for thread in self._threads:
            thread.join(SECONDS_TO_END)

    def _relay(self, target: int, identity: Identity) -> int:
        source, end = os.pipe()
        os.fchown(end, identity.uid, identity.gid)
        thread = threading.Thread(
            target=_copy, args=(source, target), name=f"envoy-output-{target}", daemon=True
        )
        thread.start()
        self._threads.append(thread)
        self._ends.append(end)
        return end


def _copy(source: int, target: int) -> None:
    while data := os.read(source, CHUNK):
        try:
            while data:
                data = data[os.write(target, data) :]
        except OSError:
            continue  # nobody reads us any more; Envoy must not be held up by that
    os.close(source)

"""A pusher that serves a small world, and time that is given: what tests of sessions begin with."""

from __future__ import annotations

from typing import Any

from controlplane.ads.pusher import Pusher
from controlplane.ads.reporter import Reporter
from tests.feature.world import CONFIG, FakeChange, FakeGenerator, World


class WorldBed:
    """A pusher, the world that it serves, and the clock's time in seconds."""

    def __init__(self, world: World, *, reporter: Reporter | None = None) -> None:
        self.now = 100.0
        self.world = world
        self._generator = FakeGenerator()
        self._snapshot = self._generator.know(world)
        self._reporter = reporter
        self.begins_anew()

    def begins_anew(self) -> None:
        """Serve the world with a pusher that knows nobody."""
        self.pusher = Pusher(
            self._generator,
            self._generator.classify,
            clock=lambda: self.now,
            epoch=lambda: self.now,
            reporter=self._reporter,
            snapshot=self._snapshot,
        )

    def becomes(self, change: FakeChange = CONFIG, **changes: Any) -> None:
        """Publish the world with these parts instead."""
        self.world = self.world.with_(**changes)
        old, self._snapshot = self._snapshot, self._generator.know(self.world)
        self.pusher.publish(old, self._snapshot, change)

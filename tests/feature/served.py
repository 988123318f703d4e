"""A small world and the pusher that serves it: what tests of the engine begin with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from controlplane.ads.pusher import Pusher
from controlplane.ads.reporter import Reporter
from controlplane.model.diff import Change
from tests.feature.world import CONFIG, FakeGenerator, World


class ServedWorld:
    """The world of this moment, its snapshot, and the pusher that serves it."""

    def __init__(
        self,
        world: World,
        *,
        clock: Callable[[], float],
        epoch: Callable[[], float],
        reporter: Reporter | None = None,
    ) -> None:
        self.world = world
        self.generator = FakeGenerator()
        self.snapshot = self.generator.know(world)
        self._clock, self._epoch, self._reporter = clock, epoch, reporter
        self.begins_anew()

    def begins_anew(self) -> None:
        """Serve the world by a pusher that knows nobody."""
        self.pusher = Pusher(
            self.generator,
            self.generator.classify,
            clock=self._clock,
            epoch=self._epoch,
            reporter=self._reporter,
            snapshot=self.snapshot,
        )

    def becomes(self, change: Change = CONFIG, **changes: Any) -> None:
        """Publish the world with these parts instead."""
        self.world = self.world.with_(**changes)
        old, self.snapshot = self.snapshot, self.generator.know(self.world)
        self.pusher.publish(old, self.snapshot, change)

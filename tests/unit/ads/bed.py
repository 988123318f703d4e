"""A served world, and time that is given: what tests of sessions begin with."""

from __future__ import annotations

from controlplane.ads.reporter import Reporter
from tests.feature.served import ServedWorld
from tests.feature.world import World


class WorldBed(ServedWorld):
    """A served world and the clock's time in seconds."""

    def __init__(self, world: World, *, reporter: Reporter | None = None) -> None:
        self.now = 100.0
        super().__init__(world, clock=lambda: self.now, epoch=lambda: self.now, reporter=reporter)

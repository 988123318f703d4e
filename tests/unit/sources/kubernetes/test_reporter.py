"""What several listeners are told."""

from __future__ import annotations

from inspect import getmembers, isfunction, signature
from typing import Any

from controlplane.sources.kubernetes.reporter import Reporter, Reporters


def test_every_listener_is_told_every_step() -> None:
    said: list[tuple[int, str, tuple[Any, ...]]] = []

    def listener(number: int) -> Reporter:
        made = Reporter()
        for name, _ in getmembers(Reporter, isfunction):
            setattr(made, name, lambda *told, name=name: said.append((number, name, told)))
        return made

    reporters = Reporters(listener(1), listener(2))
    for name, step in getmembers(Reporter, isfunction):
        told = tuple(range(len(signature(step).parameters) - 1))
        said.clear()
        getattr(reporters, name)(*told)
        assert said == [(1, name, told), (2, name, told)]

"""Whom several reporters tell."""

from __future__ import annotations

from controlplane.ads.reporter import Reporter, Reporters
from controlplane.ads.types import CDS, Nonce, Send, Version


class Sends(Reporter):
    """Hears of responses alone."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def sent(self, connection: str, send: Send) -> None:
        self.heard.append(f"{connection} {send.nonce}")


class Everything(Sends):
    """Hears of writing too, and of what it inherits."""

    def written(self, send: Send, *, making: float, writing: float) -> None:
        self.heard.append(f"written {send.nonce}")


def test_each_reporter_hears_every_step_once_in_order_however_they_are_nested() -> None:
    one, other = Sends(), Everything()
    reporters = Reporters(one, Reporters(Reporters(other), Reporter()))
    send = Send(CDS.url, CDS.short, Nonce("n"), Version("v"), b"", ())
    reporters.sent("c", send)
    reporters.written(send, making=0.0, writing=0.0)
    reporters.stale("c", CDS)
    reporters.acknowledged("c", CDS, version="v", seconds=0.0, push=0)
    assert one.heard == ["c n"]
    assert other.heard == ["c n", "written n"]

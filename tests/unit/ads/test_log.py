"""What the serving side writes to the log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from controlplane.ads import log
from controlplane.ads.log import LogReporter
from controlplane.ads.types import EDS, Nonce, Send, Version


def response(push: int, size: int) -> Send:
    return Send(
        EDS.url, EDS.short, Nonce("n"), Version("v"), bytes(size), ("outbound|80||a",), push=push
    )


def shown(lines: Sequence[Any]) -> list[Any]:
    """The lines that are written at the usual level."""
    return [line for line in lines if line["log_level"] != "debug"]


async def test_a_push_is_one_line_however_many_streams_it_reaches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log, "_SUMMARY_AFTER", 0.01)
    with capture_logs() as lines:
        reporter = LogReporter()
        for number in range(100):
            reporter.sent(f"proxy-{number}", response(7, 10))
            reporter.acknowledged(f"proxy-{number}", EDS, version="v", seconds=number / 100, push=7)
        assert shown(lines) == []
        await asyncio.sleep(0.05)
        (line,) = shown(lines)
    assert line == {
        "event": "ads.pushed",
        "log_level": "info",
        "push": 7,
        "types": ["EDS"],
        "responses": 100,
        "acknowledged": 100,
        "rejected": 0,
        "size": 1000,
        "slowest": 0.99,
    }


async def test_answers_to_requests_are_told_to_whoever_debugs() -> None:
    with capture_logs() as lines:
        reporter = LogReporter()
        reporter.sent("proxy-1", response(0, 10))
        reporter.acknowledged("proxy-1", EDS, version="v", seconds=0.1, push=0)
    assert shown(lines) == []
    assert [line["event"] for line in lines] == ["ads.response", "ads.ack"]


def test_a_mistake_of_ours_is_told_with_the_stream_and_its_traceback() -> None:
    mistake = ZeroDivisionError("a mistake")
    with capture_logs() as lines:
        LogReporter().failed("proxy-1", mistake)
    assert lines == [
        {
            "event": "ads.failed",
            "log_level": "error",
            "connection": "proxy-1",
            "exc_info": mistake,
        }
    ]

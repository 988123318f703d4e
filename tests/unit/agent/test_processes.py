"""Children end when they are told to, when they do not listen, and when we die."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from controlplane.agent.processes import pdeathsig_prefix, start_child
from controlplane.errors import OutsideError

DEAF = (
    "import signal, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('deaf', flush=True)\n"
    "time.sleep(60)\n"
)


async def wait_for_text(log: Path, text: str) -> None:
    for _ in range(500):
        if log.exists() and text in log.read_text():  # noqa: ASYNC240
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{text!r} did not appear in {log}")


async def test_a_child_ends_by_sigterm(tmp_path: Path) -> None:
    child = await start_child("sleeper", ["sleep", "60"], log=tmp_path / "log")
    assert child.returncode is None
    assert await child.stop() == -signal.SIGTERM


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    child = await start_child("deaf", [sys.executable, "-c", DEAF], log=tmp_path / "log")
    await wait_for_text(tmp_path / "log", "deaf")
    assert await child.stop(seconds=0.1) == -signal.SIGKILL


async def test_the_last_lines_of_a_child_can_be_read(tmp_path: Path) -> None:
    program = "print('one'); print('two'); print('three')"
    child = await start_child("writer", [sys.executable, "-c", program], log=tmp_path / "log")
    assert await child.wait() == 0
    assert child.tail(lines=2) == "two\nthree"


async def test_a_program_that_does_not_exist_is_an_error_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controlplane.agent.processes.pdeathsig_prefix", list)
    with pytest.raises(OutsideError, match="nothing cannot be started"):
        await start_child("nothing", ["/no/such/program"], log=tmp_path / "log")


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv of util-linux")
def test_a_command_whose_parent_is_gone_already_does_not_start() -> None:
    words = [*pdeathsig_prefix(), "echo", "started"]

    def run(command: list[str]) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    assert run(words) == "started\n"
    # Another process is its parent.
    assert run(["sh", "-c", '"$@"; :', "sh", *words]) == ""


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv of util-linux")
def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    parent = (
        "import asyncio, pathlib, sys, time\n"
        "from controlplane.agent.processes import pdeathsig_prefix, start_child\n"
        "async def main():\n"
        f"    log = pathlib.Path({str(tmp_path / 'log')!r})\n"
        "    child = await start_child('sleeper', ['sleep', '60'], log=log)\n"
        "    await asyncio.sleep(0.2)\n"
        "    print(child.pid, flush=True)\n"
        "    time.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        grandchild = int(process.stdout.readline())
        process.kill()
        process.wait()
    for _ in range(250):
        if not is_running(grandchild):
            return
        time.sleep(0.02)
    os.kill(grandchild, signal.SIGKILL)
    raise AssertionError("the child outlived its parent")


def is_running(pid: int) -> bool:
    """Whether a process with this id runs; a zombie that nobody waits for does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"

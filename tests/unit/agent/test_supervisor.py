"""The supervisor keeps one program running, and ends it however it is interrupted."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from controlplane.agent import supervisor as supervisor_module
from controlplane.agent.identity import Identity, can_reach, identity_words
from controlplane.agent.supervisor import EnvoyCommand, Supervisor
from controlplane.errors import OutsideError
from tests.mesh.agent_support import ids_of, is_running

SLEEP = EnvoyCommand(binary=Path("/bin/sleep"), arguments=("60",))
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")


async def until(good: Callable[[], bool], *, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not good():  # noqa: ASYNC110  # processes have no event to wait for
            await asyncio.sleep(0.01)


async def test_what_died_is_started_again_and_stop_ends_it() -> None:
    starts: list[int] = []
    made = Supervisor(SLEEP, restarted=lambda: starts.append(made.pid))
    running = asyncio.create_task(made.run())
    await until(lambda: len(starts) == 1)
    os.kill(starts[0], signal.SIGKILL)
    await until(lambda: len(starts) == 2)
    assert starts[0] != starts[1]
    assert made.restarts == 1
    await made.stop()
    await asyncio.wait_for(running, 5)
    assert not is_running(starts[1])
    assert made.pid == 0


async def test_pauses_grow_while_it_keeps_dying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "FIRST_PAUSE", 0.05)
    starts: list[float] = []
    loop = asyncio.get_running_loop()
    failing = EnvoyCommand(binary=Path("/bin/false"), arguments=())
    made = Supervisor(failing, restarted=lambda: starts.append(loop.time()))
    running = asyncio.create_task(made.run())
    await until(lambda: len(starts) == 4)
    await made.stop()
    await asyncio.wait_for(running, 5)
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert pauses[1] >= 0.1
    assert pauses[2] >= 0.2


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 20])
async def test_a_stop_at_any_moment_of_the_start_ends_it(turns: int) -> None:
    made = Supervisor(SLEEP, restarted=lambda: None)
    running = asyncio.create_task(made.run())
    for _ in range(turns):
        await asyncio.sleep(0)
    await made.stop()
    await asyncio.wait_for(running, 5)
    assert made.pid == 0


async def test_a_program_that_ignores_the_signal_is_killed() -> None:
    deaf = EnvoyCommand(
        binary=Path("/bin/sh"), arguments=("-c", "trap '' TERM; while :; do sleep 0.1; done")
    )
    started = asyncio.Event()
    made = Supervisor(deaf, restarted=started.set)
    running = asyncio.create_task(made.run())
    await started.wait()
    pid = made.pid
    await asyncio.sleep(0.2)
    await made.stop(seconds=0.2)
    await asyncio.wait_for(running, 5)
    assert not is_running(pid)


@as_root
async def test_a_program_in_a_closed_directory_runs_as_another_user(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    program = closed / "sleep"
    shutil.copy("/bin/sleep", program)
    identity = Identity(uid=1337, gid=1337)
    assert not can_reach(program, identity)
    started = asyncio.Event()
    made = Supervisor(
        EnvoyCommand(binary=program, arguments=("60",), identity=identity), restarted=started.set
    )
    running = asyncio.create_task(made.run())
    await started.wait()
    await until(lambda: ids_of(made.pid) == (1337, 1337))
    # Past the change of user, and not refused.
    await until(lambda: Path(f"/proc/{made.pid}/cmdline").read_bytes().endswith(b"60\0"))
    await asyncio.sleep(0.1)
    assert made.restarts == 0
    await made.stop()
    await asyncio.wait_for(running, 5)


async def test_a_program_that_is_not_there_is_one_sentence() -> None:
    gone = EnvoyCommand(
        binary=Path("/nowhere/envoy"), arguments=(), identity=Identity(uid=1337, gid=1337)
    )
    with pytest.raises(OutsideError, match="/nowhere/envoy"):
        await Supervisor(gone, restarted=lambda: None).run()


def test_the_death_signal_is_set_with_and_without_another_user() -> None:
    guard = ["-c", 'test "$PPID" = "$0" && exec "$@"', str(os.getpid())]
    assert [word for word in identity_words(None)[1:] if not word.endswith("/sh")] == [
        "--pdeathsig=KILL",
        *guard,
    ]
    words = identity_words(Identity(uid=0, gid=1337, capabilities=("net_admin",)))
    assert [word for word in words[1:] if not word.endswith("/sh")] == [
        "--pdeathsig=KILL",
        "--reuid=0",
        "--regid=1337",
        "--clear-groups",
        "--inh-caps=-all,+net_admin",
        "--bounding-set=-all,+net_admin",
        *guard,
    ]

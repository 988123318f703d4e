"""`pylot demo` from start to end: run, then show or check, then clean up.

Owns: signals, the temporary directory, and the two ways of running.
Must not know: what an exercise is about.
Easy to break: the directory is where the user edits. It goes away with the demo only when it holds
nothing but texts of the example.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from controlplane.demo.display import (
    Situation,
    addresses,
    live_view,
    looks_inside,
    situation_of,
    suggestions,
)
from controlplane.demo.exercises import EXERCISES, judge
from controlplane.demo.layout import Layout
from controlplane.demo.loopback_mesh import LoopbackMesh
from controlplane.demo.mesh import DemoMesh
from controlplane.demo.namespace_mesh import NamespaceMesh
from controlplane.errors import OutsideError

SECONDS_BETWEEN_LOOKS: Final = 0.5


async def run_demo(layout: Layout, *, once: bool, namespaces: bool = False) -> bool:
    """Run the example until SIGINT or SIGTERM, or check the exercises.

    With `namespaces` each application has a network namespace and a captured sidecar.

    Returns False when an exercise does not hold, or when a signal ended the check. Raises
    OutsideError when something does not start or ends by itself; its logs are then kept.
    """
    console = Console(highlight=False)
    started = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="pylot-demo-"))
    mesh = (NamespaceMesh if namespaces else LoopbackMesh)(layout, directory)
    failed = True
    with until_signal() as stopped:
        try:
            async with mesh:
                say(console, f"Starting {mesh.consists_of} ...")
                await mesh.start()
                say(console, f"Bookinfo is up after {time.monotonic() - started:.1f} s.")
                good = await (check(mesh, console) if once else show(mesh, console))
            failed = not good
        except asyncio.CancelledError:
            if not stopped():
                raise
            failed = False
            say(console, "Ended: no process is left.")
            return not once
        finally:
            clean_up(mesh, console, keep=failed)
    return good


@contextlib.contextmanager
def until_signal() -> Iterator[Callable[[], bool]]:
    """Inside, the first SIGINT, SIGTERM or SIGHUP cancels the task, and further ones do nothing.

    Yields a function that tells whether there was one.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    seen: list[bool] = []

    def stop() -> None:
        if task is not None and not seen:
            task.cancel()
        seen.append(True)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield lambda: bool(seen)
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def show(mesh: DemoMesh, console: Console) -> bool:
    """Print where everything is, then keep showing who is in sync until something ends.

    Raises OutsideError when one of the processes ends.
    """
    shown = addresses(mesh)
    width = max(len(what) for what, _ in shown)
    for what, where in shown:
        say(console, f"  {what:<{width}}  {where}")
    say(console, "", "The files are watched. Try one, and load the page again:")
    for seen, command in suggestions(mesh):
        say(console, f"  {seen}:", f"    {command}")
    say(console, f"More of them: {mesh.bookinfo / 'README.md'}", "", "Look inside:")
    say(console, *(f"  {command}" for command in looks_inside(mesh)), "")
    viewing = asyncio.ensure_future(
        view_live(mesh, console) if console.is_terminal else view_lines(mesh, console)
    )
    ended = asyncio.ensure_future(mesh.ended())
    try:
        await asyncio.wait({viewing, ended}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        viewing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await viewing
    raise OutsideError(ended.result() if ended.done() else "the display ended")


async def view_live(mesh: DemoMesh, console: Console) -> None:
    """Keep the table of proxies and findings at the end of the terminal up to date."""
    last: Situation | None = None
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            situation = await look(mesh)
            if situation != last:
                live.update(live_view(situation), refresh=True)
                last = situation
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)


async def view_lines(mesh: DemoMesh, console: Console) -> None:
    """Print a line whenever the situation has changed."""
    last: tuple[str, ...] = ()
    while True:
        situation = await look(mesh)
        lines = (situation.in_one_line, *situation.findings)
        if lines != last:
            say(console, *lines)
            last = lines
        await asyncio.sleep(SECONDS_BETWEEN_LOOKS)


async def look(mesh: DemoMesh) -> Situation:
    """What the control plane says now; its silence is part of the situation."""
    try:
        statuses, objects = await mesh.statuses(), await mesh.objects()
        return situation_of(statuses, objects, await mesh.pods())
    except OutsideError as error:
        return Situation(trouble=str(error))


async def check(mesh: DemoMesh, console: Console) -> bool:
    """Run the exercises, one after the other, and return whether all of them hold."""
    failures = 0
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    quiet = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=quiet) as progress:
        task = progress.add_task("", total=len(EXERCISES))
        for exercise in EXERCISES:
            progress.update(task, description=exercise.title)
            good, seen = await judge(exercise, mesh)
            failures += not good
            mark = Text("ok     ", "green") if good else Text("FAILED ", "red")
            console.print(mark + Text(f"{exercise.title}: {seen}"), soft_wrap=True)
            progress.advance(task)
    total = len(EXERCISES)
    say(console, f"{total - failures} of {total} exercises hold.")
    return failures == 0


def clean_up(mesh: DemoMesh, console: Console, *, keep: bool) -> None:
    """Remove the directory, unless it is to be kept or the user wrote something into it."""
    if keep or own_files(mesh):
        say(console, f"Its files and logs are left in {mesh.directory}")
    else:
        shutil.rmtree(mesh.directory, ignore_errors=True)


def own_files(mesh: DemoMesh) -> list[Path]:
    """The files of the watched directory whose text is not one of the example's."""
    known = {
        mesh.layout.localized(path.read_text())
        for folder in ("mesh", "networking")
        for path in (mesh.bookinfo / folder).glob("*.yaml")
    }
    # As they are copied by hand.
    known |= {path.read_text() for path in (mesh.bookinfo / "networking").glob("*.yaml")}
    return [
        path
        for path in sorted(mesh.live.rglob("*"))
        if path.is_file() and path.read_text(errors="replace") not in known
    ]


def say(console: Console, *lines: str) -> None:
    """Print lines as they are: no markup, and addresses are not broken."""
    for line in lines:
        console.print(Text(line), soft_wrap=True)

"""The running example, however its traffic is led: control plane, applications, files, proxies.

Owns: what a user does by hand (copying a file into the watched directory, starting an application
again), and waiting until things are up. Must not know: how it is shown, which exercises there are,
and where the proxies come from, which is the business of the two subclasses.
Easy to break: a file is put in place by a rename, so that the control plane never reads half of it.
"""

from __future__ import annotations

import abc
import asyncio
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol

import aiohttp
import msgspec

from controlplane.agent.admin import AdminClient
from controlplane.agent.envoy import find_envoy
from controlplane.agent.processes import Child
from controlplane.demo.layout import (
    APPLICATIONS,
    Application,
    Layout,
    bookinfo_directory,
    write_live,
)
from controlplane.errors import OutsideError

SECONDS_TO_START: Final = 20.0
SECONDS_TO_APPLY: Final = 10.0
SECONDS_BETWEEN_LOOKS: Final = 0.02


class Pod(msgspec.Struct, frozen=True):
    """What is shown of one pod: its proxy's name, its address, requests that came to it per second.

    `requests` is None when nobody knows.
    """

    proxy: str
    address: str
    requests: float | None = None


class Waitable(Protocol):
    """What can end."""

    async def wait(self) -> int:
        """Wait for the end and return the exit code."""
        ...


class DemoMesh(abc.ABC):
    """Everything that `pylot demo` starts; leave it with `async with` and nothing is left.

    `directory` gets the watched directory (`live`), logs and bootstraps.
    """

    def __init__(self, layout: Layout, directory: Path) -> None:
        self.layout = layout
        self.directory = directory
        self.live = directory / "live"
        self.logs = directory / "logs"
        self.bookinfo = bookinfo_directory()
        self.http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=30), cookie_jar=aiohttp.DummyCookieJar()
        )
        self._children: dict[str, Child] = {}

    async def __aenter__(self) -> DemoMesh:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    @abc.abstractmethod
    def consists_of(self) -> str:
        """What is started, for a sentence."""

    @abc.abstractmethod
    def places(self) -> list[tuple[str, str]]:
        """What there is to open beside the page and the control plane: what, and where."""

    @abc.abstractmethod
    def looks_inside(self) -> list[str]:
        """The words of commands of `pylot` that show what the proxies run."""

    @abc.abstractmethod
    def callers(self) -> Sequence[AdminClient]:
        """The Envoys whose routes decide where calls between applications go."""

    @abc.abstractmethod
    async def pods(self) -> Sequence[Pod]:
        """The pods with what is known of their traffic; empty when there are none."""

    @abc.abstractmethod
    async def start_application(self, application: Application, *extra: str) -> None:
        """Start one application, or start it again with other flags, and wait until it answers.

        Raises OutsideError.
        """

    @abc.abstractmethod
    async def _start_everything(self) -> None:
        """Start control plane, applications and proxies; return when all are ready."""

    @abc.abstractmethod
    async def stop(self) -> None:
        """End everything: first what takes requests, then what answers them."""

    async def start(self) -> None:
        """Start everything and wait until the page can be had.

        Raises OutsideError with the last words of what did not come up.
        """
        find_envoy()
        write_live(self.layout, self.bookinfo, self.live)
        await self._start_everything()
        await self._answers(self.layout.page, self._children["productpage-v1"], "the page")

    async def ended(self) -> str:
        """Wait until one of the processes ends by itself, and return what is to be said of it."""
        processes = self._processes()
        waits = {asyncio.ensure_future(process.wait()): name for name, process in processes.items()}
        done, rest = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        task = next(iter(done))
        name = waits[task]
        return f"{name} ended with code {task.result()}; its log is {self.logs / name}.log"

    def _processes(self) -> Mapping[str, Waitable]:
        return self._children

    def log_of(self, application: Application) -> str:
        """All that one application wrote."""
        return (self.logs / f"{application.name}.log").read_text(errors="replace")

    async def apply(self, *, reviews: str | None = None, ratings: str | None = None) -> None:
        """Make files of the example hold for reviews and ratings, and wait until they do.

        Each is the name of a file in `networking`, without the common beginning and end; None
        means no file. Returns when every caller's Envoy routes by them. Raises OutsideError when
        it does not within 10 s.
        """
        changes = {"reviews": reviews, "ratings": ratings}
        before = await self.virtual_hosts()
        changed = {name for name, chosen in changes.items() if self._put(name, chosen)}
        # One file may speak of both.
        deadline = asyncio.get_running_loop().time() + SECONDS_TO_APPLY
        while changed:
            now = await self.virtual_hosts()
            changed = {name for name in changed if not follows(now, before, name)}
            if changed and asyncio.get_running_loop().time() > deadline:
                raise OutsideError(
                    f"the routes of {', '.join(sorted(changed))} did not follow the "
                    f"files in {self.live} within {SECONDS_TO_APPLY:g} s"
                )
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
        # Envoy's workers take a new route at their next turn.
        await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    async def virtual_hosts(self) -> list[dict[str, Any]]:
        """What each caller's Envoy routes by, for each service by its short name."""
        return list(await asyncio.gather(*(virtual_hosts_of(admin) for admin in self.callers())))

    async def statuses(self) -> Sequence[dict[str, Any]]:
        """What `/debug/syncz` says of each proxy; raises OutsideError."""
        return list(await self._debug("syncz"))

    async def objects(self) -> Sequence[dict[str, Any]]:
        """What `/debug/configz` says of each object; raises OutsideError."""
        return list(await self._debug("configz"))

    async def _debug(self, page: str) -> Any:
        url = f"http://{self.layout.http}/debug/{page}"
        try:
            async with self.http.get(url) as answer:
                answer.raise_for_status()
                return await answer.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OutsideError(f"the control plane does not answer {url}: {error}") from error

    def _put(self, name: str, chosen: str | None) -> bool:
        target = self.live / f"{name}.yaml"
        before = target.read_text() if target.exists() else None
        if chosen is None:
            target.unlink(missing_ok=True)
            return before is not None
        source = self.bookinfo / "networking" / f"virtual-service-{chosen}.yaml"
        text = self.layout.localized(source.read_text())
        if text == before:
            return False
        replace_file(target, text)
        return True

    async def _start_applications(self) -> None:
        await asyncio.gather(*(self.start_application(entry) for entry in APPLICATIONS))

    async def _control_plane_ready(self) -> None:
        await self._answers(
            f"http://{self.layout.http}/ready", self._children["controlplane"], "the control plane"
        )

    async def _answers(self, url: str, child: Child, what: str) -> None:
        deadline = asyncio.get_running_loop().time() + SECONDS_TO_START
        reason = ""
        while True:
            try:
                async with self.http.get(url) as answer:
                    if answer.status == 200:
                        return
                    reason = f"it answers {answer.status}: {(await answer.text()).strip()[:200]}"
            except (aiohttp.ClientError, TimeoutError) as error:
                reason = str(error)
            must_run(child)
            if asyncio.get_running_loop().time() > deadline:
                raise OutsideError(f"{what} at {url} did not come up: {reason}")
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)


async def virtual_hosts_of(admin: AdminClient) -> dict[str, Any]:
    """What one Envoy routes by, for each service by its short name; raises OutsideError."""
    found: dict[str, Any] = {}
    for entry in await admin.config_dump("dynamic_route_configs"):
        for host in entry.get("route_config", {}).get("virtual_hosts", ()):
            found[str(host["name"]).partition(".")[0]] = host
    return found


def follows(
    now: Iterable[Mapping[str, Any]], before: Iterable[Mapping[str, Any]], name: str
) -> bool:
    """Whether every Envoy routes a service differently than before."""
    pairs = zip(now, before, strict=True)
    return all(new.get(name) != old.get(name) for new, old in pairs)


def must_run(child: Child) -> None:
    """Raise OutsideError with a process's last words when it has ended."""
    if child.returncode is not None:
        raise OutsideError(
            f"{child.name} ended with code {child.returncode}: {child.tail() or 'it said nothing'}"
        )


def replace_file(target: Path, text: str) -> None:
    """Write a file in one step, as `mv` within a directory does; raises OSError."""
    with tempfile.NamedTemporaryFile(
        "w", dir=target.parent, prefix=f".{target.name}.", suffix=".new", delete=False
    ) as file:
        file.write(text)
    os.replace(file.name, target)

"""The running example: control plane, two Envoys, six applications, and the files that rule them.

Owns: the order of starting and stopping, and what a user does by hand: copying a file into the
watched directory.
Must not know: how it is shown, and which exercises there are.
Easy to break: a file is put in place by a rename, so that the control plane never reads half of it.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import aiohttp

from controlplane.agent.bootstrap import SocketAddress
from controlplane.agent.envoy import Envoy, EnvoyOptions, find_envoy
from controlplane.agent.processes import Child, start_child
from controlplane.demo.layout import (
    APPLICATIONS,
    Application,
    Layout,
    application_command,
    bookinfo_directory,
    gateway_bootstrap,
    serve_command,
    sidecar_bootstrap,
    write_live,
)
from controlplane.errors import OutsideError

SECONDS_TO_START: Final = 20.0
SECONDS_TO_APPLY: Final = 10.0
SECONDS_BETWEEN_LOOKS: Final = 0.02


class DemoMesh:
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
        self._envoys: dict[str, Envoy] = {}

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
    def gateway(self) -> Envoy:
        """The ingress gateway's Envoy."""
        return self._envoys["ingress"]

    @property
    def sidecar(self) -> Envoy:
        """The Envoy that the applications share."""
        return self._envoys["sidecar"]

    async def start(self) -> None:
        """Start everything and wait until the page can be had.

        Raises OutsideError with the last words of what did not come up.
        """
        find_envoy()
        write_live(self.layout, self.bookinfo, self.live)
        await self.start_control_plane()
        await asyncio.gather(*(self.start_application(entry) for entry in APPLICATIONS))
        await self._ready()
        await self._start_envoys()
        await self._page()

    async def start_control_plane(self) -> None:
        """Start `pylot serve` on the watched directory; it may not be ready yet."""
        command = serve_command(self.layout, self.live)
        await self._start("controlplane", command)

    async def start_application(self, application: Application, *extra: str) -> None:
        """Start one application, or start it again with other flags, and wait until it answers."""
        running = self._children.pop(application.name, None)
        if running is not None:
            await running.stop()
        command = application_command(self.layout, application, *extra, bookinfo=self.bookinfo)
        child = await self._start(application.name, command)
        await self._listens(child, self.layout.address(application))

    async def stop(self) -> None:
        """End everything: first what takes requests, then what answers them."""
        await self.http.close()
        await asyncio.gather(*(envoy.stop() for envoy in self._envoys.values()))
        await asyncio.gather(*(child.stop() for child in self._children.values()))

    async def ended(self) -> str:
        """Wait until one of the processes ends by itself, and return what is to be said of it."""
        processes: dict[str, Child | Envoy] = {**self._children, **self._envoys}
        waits = {asyncio.ensure_future(process.wait()): name for name, process in processes.items()}
        done, rest = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        task = next(iter(done))
        name = waits[task]
        return f"{name} ended with code {task.result()}; its log is {self.logs / name}.log"

    def log_of(self, application: Application) -> str:
        """All that one application wrote."""
        return (self.logs / f"{application.name}.log").read_text(errors="replace")

    async def apply(self, *, reviews: str | None = None, ratings: str | None = None) -> None:
        """Make files of the example hold for reviews and ratings, and wait until they do.

        Each is the name of a file in `networking`, without the common beginning and end; None
        means no file. Returns when the sidecar's Envoy routes by them. Raises OutsideError when
        it does not within 10 s.
        """
        changes = {"reviews": reviews, "ratings": ratings}
        before = await self.virtual_hosts()
        changed = {name for name, chosen in changes.items() if self._put(name, chosen)}
        # One file may speak of both.
        deadline = asyncio.get_running_loop().time() + SECONDS_TO_APPLY
        while changed:
            now = await self.virtual_hosts()
            changed = {name for name in changed if now.get(name) == before.get(name)}
            if changed and asyncio.get_running_loop().time() > deadline:
                raise OutsideError(
                    f"the sidecar's routes of {', '.join(sorted(changed))} did not follow the "
                    f"files in {self.live} within {SECONDS_TO_APPLY:g} s"
                )
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
        # Envoy's workers take a new route at their next turn.
        await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    async def virtual_hosts(self) -> dict[str, Any]:
        """What the sidecar's Envoy routes by, for each service by its short name."""
        found: dict[str, Any] = {}
        for entry in await self.sidecar.admin.config_dump("dynamic_route_configs"):
            for host in entry.get("route_config", {}).get("virtual_hosts", ()):
                found[str(host["name"]).partition(".")[0]] = host
        return found

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

    async def _start(self, name: str, command: Sequence[str]) -> Child:
        child = await start_child(name, command, log=self.logs / f"{name}.log")
        self._children[name] = child
        return child

    async def _start_envoys(self) -> None:
        for name, bootstrap in (
            ("ingress", gateway_bootstrap(self.layout)),
            ("sidecar", sidecar_bootstrap(self.layout)),
        ):
            self._envoys[name] = await Envoy.launch(
                name, bootstrap, directory=self.logs, options=EnvoyOptions(concurrency=2)
            )
        await asyncio.gather(*(envoy.ready() for envoy in self._envoys.values()))

    async def _ready(self) -> None:
        await self._answers(
            f"http://{self.layout.http}/ready", self._children["controlplane"], "the control plane"
        )

    async def _page(self) -> None:
        await self._answers(self.layout.page, self._children["productpage-v1"], "the page")

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
            self._must_run(child)
            if asyncio.get_running_loop().time() > deadline:
                raise OutsideError(f"{what} at {url} did not come up: {reason}")
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    async def _listens(self, child: Child, address: SocketAddress) -> None:
        deadline = asyncio.get_running_loop().time() + SECONDS_TO_START
        while True:
            try:
                _, writer = await asyncio.open_connection(address.host, address.port)
            except OSError as error:
                self._must_run(child)
                if asyncio.get_running_loop().time() > deadline:
                    raise OutsideError(f"{child.name} does not listen: {error}") from error
                await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            else:
                writer.close()
                return

    def _must_run(self, child: Child) -> None:
        if child.returncode is not None:
            raise OutsideError(
                f"{child.name} ended with code {child.returncode}: "
                f"{child.tail() or 'it said nothing'}"
            )


def replace_file(target: Path, text: str) -> None:
    """Write a file in one step, as `mv` within a directory does; raises OSError."""
    with tempfile.NamedTemporaryFile(
        "w", dir=target.parent, prefix=f".{target.name}.", suffix=".new", delete=False
    ) as file:
        file.write(text)
    os.replace(file.name, target)

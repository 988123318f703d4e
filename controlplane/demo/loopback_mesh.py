"""The example on loopback addresses, without capture (Istio's interception mode NONE).

Owns the processes: the ingress gateway's Envoy, one Envoy that all applications share, and the
applications, which call it by address. Must not know namespaces.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from controlplane.agent.admin import AdminClient
from controlplane.agent.bootstrap import SocketAddress
from controlplane.agent.envoy import Envoy, EnvoyOptions
from controlplane.agent.processes import Child, start_child
from controlplane.demo.layout import (
    Application,
    Layout,
    application_command,
    gateway_bootstrap,
    serve_command,
    sidecar_bootstrap,
)
from controlplane.demo.mesh import (
    SECONDS_BETWEEN_LOOKS,
    SECONDS_TO_START,
    DemoMesh,
    Pod,
    Waitable,
    must_run,
)
from controlplane.errors import OutsideError


class LoopbackMesh(DemoMesh):
    """Nine processes on 127.0.0.0/8."""

    def __init__(self, layout: Layout, directory: Path) -> None:
        super().__init__(layout, directory)
        self._envoys: dict[str, Envoy] = {}

    @property
    def consists_of(self) -> str:
        """What is started, for a sentence."""
        return "the control plane, two Envoys and six applications"

    def places(self) -> list[tuple[str, str]]:
        """The admin interfaces of the Envoys."""
        return [
            ("ingress Envoy", f"http://{self.layout.gateway_admin}"),
            ("sidecar Envoy", f"http://{self.layout.sidecar_admin}"),
        ]

    def looks_inside(self) -> list[str]:
        """The words of commands that show what the proxies run."""
        return [f"proxy-config route --admin http://{self.layout.sidecar_admin}"]

    def callers(self) -> Sequence[AdminClient]:
        """The shared sidecar alone."""
        return (self._envoys["sidecar"].admin,)

    async def pods(self) -> Sequence[Pod]:
        """None: here are no pods."""
        return ()

    async def start_application(self, application: Application, *extra: str) -> None:
        """Start one application, or start it again with other flags, and wait until it answers.

        Raises OutsideError.
        """
        running = self._children.pop(application.name, None)
        if running is not None:
            await running.stop()
        command = application_command(self.layout, application, *extra, bookinfo=self.bookinfo)
        child = await self._start(application.name, command)
        await listens(child, self.layout.address(application))

    async def stop(self) -> None:
        """End everything: first what takes requests, then what answers them."""
        await self.http.close()
        await asyncio.gather(*(envoy.stop() for envoy in self._envoys.values()))
        await asyncio.gather(*(child.stop() for child in self._children.values()))

    async def _start_everything(self) -> None:
        await self._start("controlplane", serve_command(self.layout, self.live))
        await self._start_applications()
        await self._control_plane_ready()
        for name, bootstrap in (
            ("ingress", gateway_bootstrap(self.layout)),
            ("sidecar", sidecar_bootstrap(self.layout)),
        ):
            self._envoys[name] = await Envoy.launch(
                name, bootstrap, directory=self.logs, options=EnvoyOptions(concurrency=2)
            )
        await asyncio.gather(*(envoy.ready() for envoy in self._envoys.values()))

    def _processes(self) -> Mapping[str, Waitable]:
        return {**self._children, **self._envoys}

    async def _start(self, name: str, command: Sequence[str]) -> Child:
        child = await start_child(name, command, log=self.logs / f"{name}.log")
        self._children[name] = child
        return child


async def listens(child: Child, address: SocketAddress) -> None:
    """Wait until somebody accepts at the address; raises OutsideError when the child ends."""
    deadline = asyncio.get_running_loop().time() + SECONDS_TO_START
    while True:
        try:
            _, writer = await asyncio.open_connection(address.host, address.port)
        except OSError as error:
            must_run(child)
            if asyncio.get_running_loop().time() > deadline:
                raise OutsideError(f"{child.name} does not listen: {error}") from error
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
        else:
            writer.close()
            return

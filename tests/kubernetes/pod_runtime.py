"""Runs what a pod's containers say: their processes, hooks and probes, in the pod's network.

Owns the way from a container of the pod's spec to a process of this machine. Must not know when
something is started or stopped. The rule that is easy to break: probes come from the node, as a
kubelet's, so what captures the pod's traffic has to let them through.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from controlplane.agent.bootstrap import SocketAddress
from controlplane.agent.processes import Child, pdeathsig_prefix, start_child
from controlplane.demo.namespaces import FILES, NAMES
from controlplane.demo.pods import get
from controlplane.demo.visitor import Visitor
from tests.kubernetes import container as container_program
from tests.kubernetes.api import Object
from tests.kubernetes.container import Mount, Spec
from tests.kubernetes.images import find_image
from tests.kubernetes.pod_fields import UnsupportedError, command_of, environment, user_of
from tests.kubernetes.volumes import mounts_of

_NUMBERS: Final = itertools.count(1)


class PodRuntime:
    """What the containers of one pod share."""

    def __init__(
        self,
        pod: Object,
        *,
        node: Visitor,
        network: str,
        volumes: Mapping[str, Path],
        directory: Path,
        logs: Path,
        capacity: Mapping[str, str],
    ) -> None:
        """`network` is the name of the pod's namespace, `capacity` what the node has."""
        self.pod = pod
        self._node = node
        self._network = network
        self._volumes = dict(volumes)
        self._directory = directory
        self._logs = logs
        self._capacity = capacity

    async def start(self, container: Object) -> Child:
        """Start a container; raises UnsupportedError for what this kubelet cannot do."""
        return await self._execute(container, container["name"])

    async def hook(self, container: Object, handler: Mapping[str, Any]) -> None:
        """Do what a lifecycle hook says, to its end; a failure is the container's business."""
        match handler:
            case {"sleep": {"seconds": int(seconds)}}:
                await asyncio.sleep(seconds)
            case {"exec": {"command": list(command)}}:
                await self._run(container, command)
            case {"httpGet": dict(wanted)}:
                await self._answers(container, wanted)
            case _:
                raise UnsupportedError(f"a hook of {'/'.join(handler)}")

    async def probe(self, container: Object, probe: Mapping[str, Any]) -> bool:
        """Whether a probe succeeds within its timeout."""
        try:
            async with asyncio.timeout(probe.get("timeoutSeconds") or 1):
                match probe:
                    case {"httpGet": dict(wanted)}:
                        return await self._answers(container, wanted)
                    case {"tcpSocket": dict(wanted)}:
                        _, writer = await self._node.connect(self._address(container, wanted))
                        writer.close()
                        return True
                    case {"exec": {"command": list(command)}}:
                        return await self._run(container, command) == 0
        except (OSError, TimeoutError):
            return False
        raise UnsupportedError(f"a probe of {'/'.join(probe)}")

    async def _answers(self, container: Object, wanted: Mapping[str, Any]) -> bool:
        if str(wanted.get("scheme", "HTTP")).upper() != "HTTP":
            raise UnsupportedError("a probe over TLS")
        headers = {entry["name"]: entry["value"] for entry in wanted.get("httpHeaders") or ()}
        headers = {"user-agent": "kube-probe/1", **headers}
        address = self._address(container, wanted)
        status, _ = await get(self._node, address, wanted.get("path") or "/", headers=headers)
        return 200 <= status < 400

    def _address(self, container: Object, wanted: Mapping[str, Any]) -> SocketAddress:
        port = wanted["port"]
        if isinstance(port, str):
            ports = {entry.get("name"): entry for entry in container.get("ports") or ()}
            port = int(ports[port]["containerPort"])
        host = wanted.get("host") or self.pod["status"]["podIP"]
        return SocketAddress(host=host, port=port)

    async def _run(self, container: Object, command: list[str]) -> int:
        own = {**container, "command": command, "args": []}
        child = await self._execute(own, f"{container['name']}-exec")
        try:
            return await child.wait()
        finally:
            if child.returncode is None:
                await asyncio.shield(child.kill())

    async def _execute(self, container: Object, name: str) -> Child:
        spec = self._spec(container)
        program = (sys.executable, "-I", "-S", container_program.__file__, json.dumps(spec))
        metadata = self.pod["metadata"]
        log = self._logs / f"{metadata['namespace']}.{metadata['name']}.{name}.log"
        return await start_child(name, (*pdeathsig_prefix(), *program), log=log)

    def _spec(self, container: Object) -> Spec:
        image = find_image(container["image"])
        root = self._directory / f"root-{next(_NUMBERS)}"
        root.mkdir(parents=True)
        user = user_of(self.pod, container, uid=image.uid, gid=image.gid)
        variables = environment(self.pod, container, own=image.environment, capacity=self._capacity)
        files = [self._file_of_etc(path) for path in (FILES / self._network).iterdir()]
        return Spec(
            network=str(NAMES / self._network),
            root=str(root),
            mounts=[*image.mounts, *files, *mounts_of(container, self._volumes)],
            links=image.links,
            directories=["/tmp", "/run"],
            read_only_root=user.read_only_root,
            command=command_of(container, image.entrypoint, variables),
            environment=variables,
            directory=container.get("workingDir") or "/",
            uid=user.uid,
            gid=user.gid,
            capabilities=list(user.capabilities),
            no_new_privileges=user.no_new_privileges,
        )

    @staticmethod
    def _file_of_etc(path: Path) -> Mount:
        return Mount(source=str(path), target=f"/etc/{path.name}", read_only=True)

"""Whether the API server asks our `/validate`: it is offered an object that must be refused.

Owns the object. Must not know configurations. The rule that is easy to break: only a refusal by
a webhook counts. The object fits its definition, so that nobody else refuses it, and it is a
dry run, so that it is not stored when nobody does. (istiod finds out in the same way.)
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import structlog

from controlplane.kubernetes.client import Client
from controlplane.kubernetes.errors import ForbiddenError, KubernetesError, NotFoundError
from controlplane.kubernetes.paths import Resource
from controlplane.model.kinds import KINDS, NETWORKING

REFUSED: Final = "denied the request"
"""What the API server says when a webhook said no."""

_GATEWAY: Final = KINDS[NETWORKING, "Gateway"]
_NAME: Final = "pylot-webhook-probe"
_log: Final = structlog.get_logger("controlplane.leader.webhooks")


class Probe:
    """Asks for one revision."""

    def __init__(self, client: Client, *, namespace: str, revision: str) -> None:
        """`namespace` is where the object would be: the root namespace."""
        self._client: Final = client
        self._namespace: Final = namespace
        self._revision: Final = revision or "default"
        self._reported = ""

    async def answers(self) -> bool:
        """Return whether a webhook refused the object."""
        try:
            for version in _GATEWAY.versions:
                try:
                    await self._offer(version)
                    return False
                except NotFoundError:
                    continue
        except KubernetesError as error:
            if REFUSED in str(error):
                return True
            self._report(error)
        return False

    async def _offer(self, version: str) -> None:
        resource = Resource(_GATEWAY.group, version, _GATEWAY.plural)
        await self._client.request(
            "POST",
            resource.path(namespace=self._namespace),
            query={"dryRun": "All"},
            body=msgspec.json.encode(self._gateway(version)),
        )

    def _gateway(self, version: str) -> dict[str, Any]:
        port = {"number": 80, "name": "http", "protocol": "HTTP"}
        return {
            "apiVersion": f"{_GATEWAY.group}/{version}",
            "kind": _GATEWAY.kind,
            "metadata": {
                "name": _NAME,
                "namespace": self._namespace,
                "labels": {"istio.io/rev": self._revision},
            },
            "spec": {"servers": [{"port": port, "hosts": ["no..host"]}]},
        }

    def _report(self, error: KubernetesError) -> None:
        reason = str(error)
        if reason != self._reported:
            self._reported = reason
            write = _log.error if isinstance(error, ForbiddenError) else _log.warning
            write("webhooks.not_probed", reason=reason)

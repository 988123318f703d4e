"""The Secret with the webhooks' certificate: read by every replica, rotated by the leader.

Owns the Secret's name and the requests for it. Must not know TLS. The rule that is easy to
break: a Secret that somebody deleted is made again from what this replica serves with, so that
nothing that trusts it has to change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import structlog

from controlplane.inject.certificate import Clock, ServingCertificate, now
from controlplane.inject.errors import CertificateError
from controlplane.kubernetes.client import MERGE_PATCH, Client
from controlplane.kubernetes.errors import (
    ConflictError,
    ForbiddenError,
    KubernetesError,
    NotFoundError,
    TooManyRequestsError,
    UnauthorizedError,
    UnavailableError,
)
from controlplane.kubernetes.paths import Resource
from controlplane.leader.answers import read_answer
from controlplane.leader.metrics import LeaderMetrics
from controlplane.leader.shared_certificate import (
    from_data,
    new_shared,
    next_step,
    to_data,
)

SECRETS: Final = Resource("", "v1", "secrets")
EVERY: Final = 5.0
"""Seconds between two looks at the Secret. Far less than `shared_certificate.OVERLAP`."""
SOON: Final = 0.5
"""Seconds between two looks before the first answer: nobody trusts what is served meanwhile."""
_DENIALS: Final = 6
"""Refusals in a row that are believed: a server that starts forbids all that it has not read."""

_log: Final = structlog.get_logger("controlplane.leader.webhooks")


class _Meta(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _Secret(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    data: dict[str, str] | None = None


def secret_name(revision: str) -> str:
    """Return the name of the Secret of a revision's webhooks."""
    return "pylot-webhook-tls" + (f"-{revision}" if revision not in ("", "default") else "")


class SharedCertificate:
    """What every replica's webhooks serve with (`inject.certificate.GetCertificate`).

    Until the API server has answered once it is one of our own making, that nobody trusts yet.
    """

    def __init__(
        self,
        client: Client,
        *,
        namespace: str,
        name: str,
        names: tuple[str, ...],
        metrics: LeaderMetrics,
        clock: Clock = now,
    ) -> None:
        """`namespace` and `name` are the Secret's, `names` those in the certificate."""
        self._client: Final = client
        self._namespace: Final = namespace
        self._name: Final = name
        self._names: Final = names
        self._metrics: Final = metrics
        self._clock: Final = clock
        self._shared = new_shared(names, clock)
        self._serving = self._shared.serving()
        self._version = ""  # of the Secret that was read or written last
        self._reported = ""
        self._denials = 0
        self.settled = False
        """Whether what is served is what the Secret holds."""
        self.answered = False
        """Whether the API server has said something definite: what the Secret holds, or why not."""
        self.refusal = ""
        """Why the Secret cannot be read or made, empty when it can."""
        self.changed: Final = asyncio.Event()
        """Set when there is another certificate; whoever serves it takes the event back."""

    def __call__(self) -> ServingCertificate:
        """Return the certificate of this moment."""
        return self._serving

    async def run(self) -> None:
        """Follow the Secret until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY if self.answered else SOON)

    async def look(self) -> None:
        """Take over what the Secret holds; make it when there is none."""
        try:
            try:
                self._read(await self._client.request("GET", self._path))
                self._reported = ""
            except NotFoundError:
                await self._create()
        except KubernetesError as error:
            self._report("webhooks.secret_unreachable", str(error))
            self._note_failure(error)

    async def rotate(self, *, published: bool) -> None:
        """Write what the Secret should hold next, if anything: for the leader alone.

        `published` says that all webhook configurations trust what is in the Secret. A Secret
        that cannot be used is replaced by what this replica serves with.
        """
        if not self._version:
            return
        step = next_step(self._shared, self._names, clock=self._clock, published=published)
        if step is None and self.settled:
            return
        body = {
            "metadata": {"resourceVersion": self._version},
            "data": to_data(step or self._shared),
        }
        try:
            self._read(
                await self._client.request(
                    "PATCH",
                    self._path,
                    body=msgspec.json.encode(body),
                    content_type=MERGE_PATCH,
                )
            )
            _log.info("webhooks.rotated", secret=self._name)
        except (ConflictError, NotFoundError):
            self._version = ""  # the next look sees what is there now
        except KubernetesError as error:
            self._report("webhooks.rotation_failed", str(error))

    def _note_failure(self, error: KubernetesError) -> None:
        match error:
            case UnavailableError() | UnauthorizedError() | TooManyRequestsError():
                return
            case ForbiddenError():
                self._denials += 1
            case _:
                self._denials = _DENIALS
        if self._denials >= _DENIALS:
            self.refusal = str(error)
            self.answered = True

    @property
    def _path(self) -> str:
        return SECRETS.path(namespace=self._namespace, name=self._name)

    async def _create(self) -> None:
        secret: Mapping[str, Any] = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"namespace": self._namespace, "name": self._name},
            "type": "kubernetes.io/tls",
            "data": to_data(self._shared),
        }
        try:
            path = SECRETS.path(namespace=self._namespace)
            self._read(await self._client.request("POST", path, body=msgspec.json.encode(secret)))
            _log.info("webhooks.secret_created", secret=self._name)
        except ConflictError:
            self._read(await self._client.request("GET", self._path))

    def _read(self, data: bytes) -> None:
        secret = read_answer(data, _Secret)
        self._version = secret.metadata.resource_version
        self._denials = 0
        self.refusal = ""
        self.answered = True
        try:
            found = from_data(secret.data or {})
        except CertificateError as error:
            self.settled = False
            self._report("webhooks.secret_unusable", f"Secret {self._name}: {error}")
            return
        if found != self._shared:
            self._shared = found
            self._serving = found.serving()
            self.changed.set()
        self.settled = True
        self._metrics.certificate(self._serving.not_after.timestamp())

    def _report(self, event: str, reason: str) -> None:
        """Say once what goes on."""
        if reason != self._reported:
            self._reported = reason
            _log.warning(event, reason=reason)

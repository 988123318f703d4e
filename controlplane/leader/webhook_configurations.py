"""The webhook configurations of this revision: whom the API server trusts when it calls us.

Owns which configurations and which of their webhooks are ours, and the patch for one. Must not
know where the authority comes from. The rule that is easy to break: several meshes and revisions
share a cluster, so a webhook is ours only when it calls our Service in our namespace.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import structlog

from controlplane.kubernetes.client import MERGE_PATCH, Client
from controlplane.kubernetes.errors import (
    ConflictError,
    ForbiddenError,
    KubernetesError,
    NotFoundError,
)
from controlplane.kubernetes.paths import Resource
from controlplane.leader.answers import read_answer
from controlplane.leader.metrics import LeaderMetrics
from controlplane.leader.webhook_probe import Probe

_GROUP: Final = "admissionregistration.k8s.io"
MUTATING: Final = Resource(_GROUP, "v1", "mutatingwebhookconfigurations")
VALIDATING: Final = Resource(_GROUP, "v1", "validatingwebhookconfigurations")
REVISION_LABEL: Final = "istio.io/rev"

_log: Final = structlog.get_logger("controlplane.leader.webhooks")


class _List(msgspec.Struct):
    items: list[dict[str, Any]] | None = None


def service_names(revision: str) -> frozenset[str]:
    """Return the Services by which the API server may call the webhooks of a revision."""
    if revision in ("", "default"):
        return frozenset({"istiod"})
    return frozenset({f"istiod-{revision}"})


class Ours(msgspec.Struct, frozen=True, kw_only=True):
    """Which webhooks are ours."""

    namespace: str
    services: frozenset[str]

    def calls(self, webhook: Mapping[str, Any]) -> bool:
        """Whether a webhook calls this control plane.

        One with a URL does when it has one of Istio's names: an operator who writes a URL has
        no Service to name.
        """
        client = webhook.get("clientConfig") or {}
        service = client.get("service")
        if service is None:
            return bool(client.get("url")) and str(webhook.get("name", "")).endswith(".istio.io")
        return service.get("namespace") == self.namespace and service.get("name") in self.services


def patch_of(
    configuration: Mapping[str, Any], ours: Ours, bundle: bytes, *, fail: bool = False
) -> dict[str, Any] | None:
    """Return the merge patch after which our webhooks trust `bundle`, None when they do.

    With `fail`, they also refuse what they cannot be asked about. The patch holds only for the
    version that was read, because it replaces the whole list.
    """
    encoded = base64.b64encode(bundle).decode()
    webhooks = []
    changed = False
    for webhook in configuration.get("webhooks") or ():
        if ours.calls(webhook):
            client = webhook["clientConfig"]
            wanted = {**webhook, "clientConfig": {**client, "caBundle": encoded}}
            if fail:
                wanted["failurePolicy"] = "Fail"
            changed = changed or wanted != webhook
            webhooks.append(wanted)
        else:
            webhooks.append(webhook)
    if not changed:
        return None
    version = configuration.get("metadata", {}).get("resourceVersion", "")
    return {"metadata": {"resourceVersion": version}, "webhooks": webhooks}


class Configurations:
    """Brings the configurations up to date; each look is one list of each kind."""

    def __init__(
        self, client: Client, *, namespace: str, revision: str, metrics: LeaderMetrics
    ) -> None:
        self._client: Final = client
        self._ours: Final = Ours(namespace=namespace, services=service_names(revision))
        self._query: Final = {"labelSelector": f"{REVISION_LABEL}={revision or 'default'}"}
        self._probe: Final = Probe(client, namespace=namespace, revision=revision)
        self._metrics: Final = metrics
        self._reported: dict[str, str] = {}

    async def publish(self, bundle: bytes) -> bool:
        """Let all our webhooks trust `bundle`; return whether all of them do now.

        The validating ones begin with `failurePolicy: Ignore`, because nobody could apply
        anything before they answer. As soon as they do, they get `Fail`.
        """
        done = True
        for resource in (MUTATING, VALIDATING):
            try:
                items = await self._list(resource)
                self._reported.pop(resource.plural, None)
            except KubernetesError as error:
                self._report(resource.plural, error)
                done = False
                continue
            for item in items:
                patch = patch_of(item, self._ours, bundle)
                if patch is None and resource is VALIDATING:
                    patch = patch_of(item, self._ours, bundle, fail=True)
                    if patch is not None and not await self._probe.answers():
                        continue
                if patch is not None:
                    done = await self._patch(resource, item["metadata"]["name"], patch) and done
        return done

    async def _list(self, resource: Resource) -> list[dict[str, Any]]:
        data = await self._client.request("GET", resource.path(), query=self._query)
        return read_answer(data, _List).items or []

    async def _patch(self, resource: Resource, name: str, patch: dict[str, Any]) -> bool:
        self._metrics.patched(name)
        try:
            await self._client.request(
                "PATCH",
                resource.path(name=name),
                body=msgspec.json.encode(patch),
                content_type=MERGE_PATCH,
            )
        except (ConflictError, NotFoundError) as error:  # somebody was faster: look again
            self._metrics.patch_failed(name, type(error).__name__)
            return False
        except KubernetesError as error:
            self._metrics.patch_failed(name, type(error).__name__)
            self._report(name, error)
            return False
        self._reported.pop(name, None)
        _log.info("webhooks.patched", configuration=name)
        return True

    def _report(self, what: str, error: KubernetesError) -> None:
        """Say once what goes on; a missing rule stays until somebody adds it."""
        reason = str(error)
        if self._reported.get(what) != reason:
            self._reported[what] = reason
            write = _log.error if isinstance(error, ForbiddenError) else _log.warning
            write("webhooks.not_patched", what=what, reason=reason)

"""Reports of replicas to the leader, in ConfigMaps of the root namespace.

A proxy is connected to one replica, and only the leader writes status. So each replica keeps what
it has to tell in a ConfigMap of its own, which is there only while there is something to tell,
and the leader reads them all. The rule that is easy to break: a report outlives its replica for a
while, the leader's too, because the proxies say the same to another replica only after they
have moved there. It is renewed as long as it holds, and the leader drops one that it has not seen
to change for longer, by its own clock.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from controlplane.ads.outstanding import Outstanding
from controlplane.kubernetes.client import MERGE_PATCH, Client
from controlplane.kubernetes.errors import ForbiddenError, KubernetesError, NotFoundError
from controlplane.kubernetes.paths import Resource
from controlplane.leader.answers import read_answer
from controlplane.leader.assess import PENDING_AFTER, Readers
from controlplane.leader.report import NOTHING, Report, findings_of, make_report, waiting_of
from controlplane.model.diagnostics import Diagnostic
from controlplane.model.meta import ObjectRef

CONFIG_MAPS: Final = Resource("", "v1", "configmaps")
LABEL: Final = "internal.istio.io/status-report"
KEY: Final = "report"
_RENEWED: Final = "renewed"

EVERY: Final = 3.0  # seconds between two looks
RENEW: Final = 30.0  # seconds after which a report that still holds is written again
DROP_AFTER: Final = 90.0  # seconds without a change after which a report counts no more
DELETE_AFTER: Final = 600.0  # seconds after which the leader deletes it

_log: Final = structlog.get_logger("controlplane.leader.reports")


class _Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    resource_version: str = ""


class _ConfigMap(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    data: dict[str, str] | None = None


class _List(msgspec.Struct):
    items: list[_ConfigMap] | None = None


class _Seen(msgspec.Struct):
    """A report of another replica, and when it was seen to change."""

    version: str
    report: Report
    at: float


class Reports:
    """This replica's report, and as the leader those of the others."""

    def __init__(
        self,
        client: Client,
        local: Readers,
        *,
        namespace: str,
        identity: str,
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called when another replica tells something new."""
        self._client: Final = client
        self._local: Final = local
        self._namespace: Final = namespace
        self._name: Final = report_name(identity)
        self._changed: Final = changed
        self._since: dict[ObjectRef, float] = {}
        self._written: Report | None = None  # not known: an earlier life may have left one
        self._written_at = 0.0
        self._renewals = 0
        self._others: dict[str, _Seen] = {}
        self._reported = ""

    # --- what the writer of status reads ----------------------------------------------------

    def outstanding(self) -> Outstanding:
        """Return what is outstanding on all replicas, as far as they tell."""
        local = self._local.outstanding()
        others = self._telling()
        if not others:
            return local
        found = Counter(local.waiting)
        found.update(waiting_of(others, self._local.snapshot()))
        return Outstanding(current=local.current, waiting=found)

    def findings(self) -> tuple[Diagnostic, ...]:
        """Return the findings of all replicas, as far as they tell."""
        return (
            *self._local.findings(),
            *findings_of(self._telling(), self._local.snapshot()),
        )

    def _telling(self) -> list[Report]:
        return [seen.report for seen in self._others.values() if seen.report]

    # --- telling ----------------------------------------------------------------------------

    async def tell(self) -> None:
        """Keep this replica's report true until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            try:
                await self._tell(clock())
            except KubernetesError as error:
                self._report(error)
            await asyncio.sleep(EVERY)

    async def _tell(self, now: float) -> None:
        report = self._make(now)
        if report is None:
            return
        if not report:
            if self._written != NOTHING:
                await self._delete(self._name)
                self._written = NOTHING
        elif report != self._written or now - self._written_at >= RENEW:
            await self._write(report)
            self._written, self._written_at = report, now

    def _make(self, now: float) -> Report | None:
        """Return the report of this moment, None when classes lag behind."""
        outstanding = self._local.outstanding()
        if not outstanding.current:
            return None
        self._since = {ref: self._since.get(ref, now) for ref in outstanding.waiting}
        waiting = {
            ref: count
            for ref, count in outstanding.waiting.items()
            if now - self._since[ref] >= PENDING_AFTER
        }
        return make_report(self._local.snapshot(), self._local.findings(), waiting)

    async def _write(self, report: Report) -> None:
        self._renewals += 1
        data = {KEY: msgspec.json.encode(report).decode(), _RENEWED: str(self._renewals)}
        try:
            await self._client.request(
                "PATCH",
                self._path(self._name),
                body=msgspec.json.encode({"data": data}),
                content_type=MERGE_PATCH,
            )
        except NotFoundError:
            config_map = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {
                    "name": self._name,
                    "namespace": self._namespace,
                    "labels": {LABEL: "true"},
                },
                "data": data,
            }
            await self._client.request(
                "POST",
                CONFIG_MAPS.path(namespace=self._namespace),
                body=msgspec.json.encode(config_map),
            )

    # --- reading, as the leader -------------------------------------------------------------

    async def collect(self) -> None:
        """Follow the reports of the other replicas until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            await self.look()

    async def look(self) -> None:
        """Read the reports of the other replicas once: before anything is written, too."""
        try:
            await self._collect(asyncio.get_running_loop().time())
        except KubernetesError as error:
            self._report(error)

    async def _collect(self, now: float) -> None:
        data = await self._client.request(
            "GET",
            CONFIG_MAPS.path(namespace=self._namespace),
            query={"labelSelector": f"{LABEL}=true"},
        )
        before = self._telling()
        found: dict[str, _Seen] = {}
        for item in read_answer(data, _List).items or ():
            name, version = item.metadata.name, item.metadata.resource_version
            if name == self._name:
                continue
            seen = self._others.get(name)
            if seen is None or seen.version != version:
                seen = _Seen(version, _read(item), now)
            if now - seen.at >= DROP_AFTER:
                seen.report = NOTHING
            if now - seen.at >= DELETE_AFTER:
                await self._delete(name)
                continue
            found[name] = seen
        self._others = found
        if self._telling() != before:
            self._changed()

    async def _delete(self, name: str) -> None:
        try:
            await self._client.request("DELETE", self._path(name))
        except NotFoundError:
            return

    def _path(self, name: str) -> str:
        return CONFIG_MAPS.path(namespace=self._namespace, name=name)

    def _report(self, error: KubernetesError) -> None:
        """Say once what goes on."""
        reason = str(error)
        if reason != self._reported:
            self._reported = reason
            write = _log.error if isinstance(error, ForbiddenError) else _log.warning
            write("reports.failed", reason=reason)


def report_name(identity: str) -> str:
    """Return the name of a replica's ConfigMap: a DNS name."""
    return "pylot-report-" + re.sub(r"[^a-z0-9-]+", "-", identity.lower()).strip("-")


def _read(item: _ConfigMap) -> Report:
    """Return the report in a ConfigMap; one that cannot be read tells nothing."""
    try:
        return msgspec.json.decode((item.data or {}).get(KEY, ""), type=Report)
    except msgspec.DecodeError:
        return NOTHING

"""Reports of replicas to the leader, in one ConfigMap of the root namespace.

A proxy is connected to one replica, and only the leader writes status. So each replica keeps what
it has to tell under a key of its own, which is there only while there is something to tell, and
the leader reads them all. The rule that is easy to break: a report outlives its replica for a
while, the leader's too, because the proxies say the same to another replica only after they
have moved there. It is renewed as long as it holds, and the leader drops one that it has not seen
to change for longer, by its own clock.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import structlog

from controlplane.ads.outstanding import Outstanding
from controlplane.kubernetes.client import MERGE_PATCH, Client
from controlplane.kubernetes.errors import (
    ConflictError,
    ForbiddenError,
    KubernetesError,
    NotFoundError,
)
from controlplane.kubernetes.paths import Resource
from controlplane.leader.answers import read_answer
from controlplane.leader.assess import PENDING_AFTER, Readers
from controlplane.leader.report import NOTHING, Report, findings_of, make_report, waiting_of
from controlplane.model.diagnostics import Diagnostic
from controlplane.model.meta import ObjectRef

CONFIG_MAPS: Final = Resource("", "v1", "configmaps")
NAME: Final = "pylot-status-reports"

EVERY: Final = 3.0  # seconds between two looks
RENEW: Final = 30.0  # seconds after which a report that still holds is written again
DROP_AFTER: Final = 90.0  # seconds without a change after which a report counts no more
DELETE_AFTER: Final = 600.0  # seconds after which the leader takes it away

_log: Final = structlog.get_logger("controlplane.leader.reports")


class _ConfigMap(msgspec.Struct):
    data: dict[str, str] | None = None


class _Told(msgspec.Struct, frozen=True):
    """The value of a key; another `renewal` is a sign of life."""

    renewal: str
    report: Report


class _Seen(msgspec.Struct):
    """A report of another replica, and when it was seen to change."""

    text: str
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
        self._key: Final = report_key(identity)
        self._changed: Final = changed
        self._since: dict[ObjectRef, float] = {}
        self._written: Report | None = None  # not known: an earlier life may have left one
        self._written_at = 0.0
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
                await self._put({self._key: None})
                self._written = NOTHING
        elif report != self._written or now - self._written_at >= RENEW:
            told = _Told(secrets.token_hex(4), report)
            await self._put({self._key: msgspec.json.encode(told).decode()})
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

    async def _put(self, data: Mapping[str, str | None]) -> None:
        """Change keys of the ConfigMap, those of others stay; None takes one away."""
        try:
            await self._patch(data)
        except NotFoundError:
            try:
                await self._create({key: text for key, text in data.items() if text is not None})
            except ConflictError:  # another replica was faster
                await self._patch(data)

    async def _patch(self, data: Mapping[str, str | None]) -> None:
        await self._client.request(
            "PATCH",
            CONFIG_MAPS.path(namespace=self._namespace, name=NAME),
            body=msgspec.json.encode({"data": data}),
            content_type=MERGE_PATCH,
        )

    async def _create(self, data: Mapping[str, str]) -> None:
        if not data:
            return
        config_map = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": self._namespace},
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
        try:
            path = CONFIG_MAPS.path(namespace=self._namespace, name=NAME)
            told = read_answer(await self._client.request("GET", path), _ConfigMap).data or {}
        except NotFoundError:
            told = {}
        before = self._telling()
        found: dict[str, _Seen] = {}
        for key, text in told.items():
            if key == self._key:
                continue
            seen = self._others.get(key)
            if seen is None or seen.text != text:
                seen = _Seen(text, _read(text), now)
            if now - seen.at >= DROP_AFTER:
                seen.report = NOTHING
            found[key] = seen
        self._others = found
        if self._telling() != before:
            self._changed()
        old = [key for key, seen in found.items() if now - seen.at >= DELETE_AFTER]
        if old:
            await self._put(dict.fromkeys(old))

    def _report(self, error: KubernetesError) -> None:
        """Say once what goes on."""
        reason = str(error)
        if reason != self._reported:
            self._reported = reason
            write = _log.error if isinstance(error, ForbiddenError) else _log.warning
            write("reports.failed", reason=reason)


def report_key(identity: str) -> str:
    """Return the key of a replica's report, with the letters that a ConfigMap's key may have."""
    return re.sub(r"[^-._a-zA-Z0-9]", "-", identity)


def _read(text: str) -> Report:
    """Return the report in a value; one that cannot be read tells nothing."""
    try:
        return msgspec.json.decode(text, type=_Told).report
    except (msgspec.DecodeError, RecursionError):
        return NOTHING

"""One page of metrics for the whole pod: Envoy's, the agent's, the application's.

Owns how the pages are joined and the agent's own metrics.
Must not know what the metrics of others mean.
Easy to break: a page in the OpenMetrics format ends with `# EOF`, and only what stands before that
is read; so the application's page, the only one that may have it, comes last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple

import aiohttp
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from controlplane.agent.admin import AdminClient
from controlplane.agent.settings import ApplicationMetrics
from controlplane.errors import OutsideError

SECONDS: Final = 5.0
PLAIN: Final = "text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS: Final = "application/openmetrics-text"
PASSED_ON: Final = ("accept", "user-agent", "x-prometheus-scrape-timeout-seconds")

log = structlog.get_logger()


class Page(NamedTuple):
    """A page of metrics."""

    body: bytes
    content_type: str


class AgentMetrics:
    """The agent's own metrics, with the names of Istio's agent."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.scrapes = Counter(
            "istio_agent_scrapes", "Scrapes of the merged page.", registry=self.registry
        )
        self.failures = Counter(
            "istio_agent_scrape_failures",
            "Scrapes that could not be made, by whose metrics they are.",
            ["type"],
            registry=self.registry,
        )
        self.startup = Gauge(
            "istio_agent_startup_duration_seconds",
            "Seconds from the agent's start until Envoy was ready first.",
            registry=self.registry,
        )
        self.restarts = self._counted("istio_agent_envoy_restarts", "Restarts of Envoy.")
        self.dns_requests = self._counted("istio_agent_dns_requests_total", "DNS queries.")
        self.dns_upstream = self._counted(
            "istio_agent_dns_upstream_requests_total", "DNS queries that were passed on."
        )
        self.dns_failures = self._counted(
            "istio_agent_dns_upstream_failures_total", "DNS queries that no server answered."
        )
        self.names = self._counted("istio_agent_dns_names", "Names that the agent answers itself.")

    def page(self) -> bytes:
        """The agent's metrics as text."""
        return generate_latest(self.registry)

    def _counted(self, name: str, about: str) -> Gauge:
        # Counted elsewhere, and read when the page is made.
        return Gauge(name, about, registry=self.registry)


class MetricsMerger:
    """Makes the page; close it."""

    def __init__(
        self,
        admin: AdminClient,
        metrics: AgentMetrics,
        *,
        application: ApplicationMetrics | None,
        host: str = "localhost",
    ) -> None:
        self._admin = admin
        self._metrics = metrics
        self._application = application
        self._host = host
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def page(self, headers: Mapping[str, str]) -> Page:
        """Return everything as one page; what cannot be had is left out and counted.

        `headers` are those of the scrape. The content type is the application's, when it speaks
        OpenMetrics, because a reader then looks for the end of the page.
        """
        self._metrics.scrapes.inc()
        envoy, application = await asyncio.gather(self._envoy(), self._scrape(headers))
        parts = [with_newline(envoy), with_newline(self._metrics.page())]
        content_type = PLAIN
        if application is not None:
            parts.append(application.body)
            if application.content_type.startswith(OPEN_METRICS):
                content_type = application.content_type
        return Page(b"".join(parts), content_type)

    async def _envoy(self) -> bytes:
        try:
            return await self._admin.get("/stats/prometheus")
        except OutsideError:
            self._metrics.failures.labels("envoy").inc()
            return b""

    async def _scrape(self, headers: Mapping[str, str]) -> Page | None:
        where = self._application
        if where is None:
            return None
        passed = {name: headers[name] for name in PASSED_ON if name in headers}
        path = where.path if where.path.startswith("/") else f"/{where.path}"
        url = f"http://{self._host}:{where.port}{path}"
        try:
            async with self._open().get(url, headers=passed) as answer:
                if answer.status == 200:
                    return Page(await answer.read(), answer.headers.get("Content-Type", PLAIN))
                reason = f"status {answer.status}"
        except (TimeoutError, OSError, aiohttp.ClientError) as error:
            reason = str(error) or type(error).__name__
        self._metrics.failures.labels("application").inc()
        log.debug("application_metrics_missing", url=url, reason=reason)
        return None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=SECONDS), cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session


def with_newline(page: bytes) -> bytes:
    """The page without an end mark, so that another can follow."""
    page = page.rstrip().removesuffix(b"# EOF").rstrip()
    return page + b"\n" if page else b""

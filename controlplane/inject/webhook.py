"""The webhook that the API server calls for every new pod: `/inject` over HTTPS.

Owns routes, status codes, metrics and the log of injection. Must not know how a pod changes. The
rule that is easy to break: the settings are asked for at every request, so that a changed mesh
or template counts from the next pod on.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable
from typing import Final

import msgspec
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram

from controlplane.admission.http import make_admission_app, read_review
from controlplane.admission.review import ReviewError
from controlplane.inject.admission import Answer, Injector, Result, review
from controlplane.inject.certificate import GetCertificate, ServingCertificate, load
from controlplane.inject.errors import CertificateError

CHECK_INTERVAL: Final = 2.0
"""Seconds between two looks at the certificate: files cost a few stat calls each time."""

GetInjector = Callable[[], Injector]
"""Returns the settings of this moment."""

_log = structlog.get_logger()


class InjectionMetrics:
    """The counters of Istio's sidecar injector, under its names."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "sidecar_injection_requests_total", "Requests to the injector.", registry=registry
        )
        self._results = {
            Result.INJECTED: Counter(
                "sidecar_injection_success_total", "Pods injected.", registry=registry
            ),
            Result.SKIPPED: Counter(
                "sidecar_injection_skip_total", "Pods left alone.", registry=registry
            ),
            Result.FAILED: Counter(
                "sidecar_injection_failure_total",
                "Requests that could not be answered, and pods refused.",
                registry=registry,
            ),
        }
        self._results[Result.REFUSED] = self._results[Result.FAILED]
        self._time = Histogram(
            "sidecar_injection_time_seconds", "Seconds for one request.", registry=registry
        )

    def record(self, result: Result, seconds: float) -> None:
        """Count one request."""
        self._requests.inc()
        self._results[result].inc()
        self._time.observe(seconds)


def make_webhook_app(
    injector: GetInjector, metrics: InjectionMetrics | None = None
) -> web.Application:
    """Return the application of `--https-addr`: `/inject`, `/inject/cluster/C/net/N`, `/ready`.

    Other webhooks can be added to its router.
    """
    app = make_admission_app()
    handler = _Handler(injector, metrics)
    app.router.add_post("/inject", handler.inject)
    app.router.add_post("/inject/{rest:.*}", handler.inject)
    return app


class CertificateKeeper:
    """Keeps a context at the certificate of the moment.

    What cannot be read is logged, once for each reason, and the old certificate stays.
    """

    def __init__(
        self, context: ssl.SSLContext, current: GetCertificate, *, loaded: ServingCertificate
    ) -> None:
        """`loaded` is what the context has."""
        self._context: Final = context
        self._current: Final = current
        self._loaded = loaded
        self._reported = ""

    @property
    def loaded(self) -> ServingCertificate:
        """What new connections are served with."""
        return self._loaded

    async def run(
        self, *, every: float = CHECK_INTERVAL, changed: asyncio.Event | None = None
    ) -> None:
        """Look every so many seconds, and when something says that it changed, until cancelled."""
        told = asyncio.Event() if changed is None else changed
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every):
                    await told.wait()
            told.clear()
            await self._look()

    async def _look(self) -> None:
        try:
            found = await asyncio.to_thread(self._current)
            if found != self._loaded:
                load(self._context, found)
                self._loaded = found
                _log.info("webhook_certificate_renewed", not_after=found.not_after.isoformat())
            self._reported = ""
        except CertificateError as error:
            if str(error) != self._reported:
                self._reported = str(error)
                _log.warning("webhook_certificate_unreadable", reason=self._reported)


class _Handler:
    """Answers requests with the settings of the moment."""

    def __init__(self, injector: GetInjector, metrics: InjectionMetrics | None) -> None:
        self._injector = injector
        self._metrics = metrics

    async def inject(self, request: web.Request) -> web.Response:
        """Answer one AdmissionReview; what is none of these gets a 4xx with the reason."""
        begin = time.perf_counter()
        result = Result.FAILED
        try:
            body = await read_review(request)
            answer = review(body, request.path, self._injector)
            result = answer.result
            _report(answer)
            return web.Response(
                body=msgspec.json.encode(answer.review), content_type="application/json"
            )
        except ReviewError as error:
            _log.warning("injection_request_unreadable", reason=str(error))
            raise web.HTTPBadRequest(text=str(error)) from None
        finally:
            if self._metrics is not None:
                self._metrics.record(result, time.perf_counter() - begin)


def _report(answer: Answer) -> None:
    match answer.result:
        case Result.INJECTED | Result.SKIPPED:
            _log.debug(
                "injection", subject=answer.subject, result=answer.result.value, reason=answer.text
            )
        case Result.REFUSED:
            _log.warning("injection_refused", subject=answer.subject, reason=answer.text)
        case Result.FAILED:
            _log.error(
                "injection_failed",
                subject=answer.subject,
                reason=answer.text,
                exc_info=answer.error,
            )

"""The webhook that the API server calls for every object of Istio's kinds: `/validate`.

Owns routes, status codes and the log of validation. Must not know the rules. The rule that is easy
to break: an object is judged in a thread, so that a large one holds up no proxy.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import msgspec
import structlog
from aiohttp import web

from controlplane.admission.http import read_review
from controlplane.admission.review import OUR_MISTAKE, Review, ReviewError, decode, refuse
from controlplane.admission.validation import Verdict, judge

_log = structlog.get_logger()

_AT_A_TIME: Final = 2
"""Objects that are judged at the same time: more threads would only take turns."""


class ValidationMetrics(Protocol):
    """Who counts; the method names no object."""

    def validated(self, group: str, version: str, resource: str, *, failure: str) -> None:
        """An object passed, or failed for a reason."""

    def validation_http_error(self, status: int) -> None:
        """A request was no question that can be answered."""


def add_validation(app: web.Application, *, revision: str, metrics: ValidationMetrics) -> None:
    """Add `/validate`, and anything below it, to an application."""
    handler = _Handler(revision, metrics)
    app.router.add_post("/validate", handler.validate)
    app.router.add_post("/validate/{rest:.*}", handler.validate)


class _Handler:
    """Answers requests for one revision."""

    def __init__(self, revision: str, metrics: ValidationMetrics) -> None:
        self._revision = revision
        self._metrics = metrics
        self._places = asyncio.Semaphore(_AT_A_TIME)

    async def validate(self, request: web.Request) -> web.Response:
        """Answer one AdmissionReview; what is none gets a 4xx with the reason."""
        try:
            body = await read_review(request)
            async with self._places:
                verdict = await asyncio.to_thread(self._judge, body)
        except ReviewError as error:
            _log.warning("validation_request_unreadable", reason=str(error))
            self._metrics.validation_http_error(web.HTTPBadRequest.status_code)
            raise web.HTTPBadRequest(text=str(error)) from None
        except web.HTTPException as error:
            self._metrics.validation_http_error(error.status)
            raise
        if verdict.resource:
            self._metrics.validated(
                verdict.group, verdict.version, verdict.resource, failure=verdict.failure
            )
        if verdict.failure:
            _log.info("validation_refused", subject=verdict.subject, reason=verdict.message)
        return web.Response(
            body=msgspec.json.encode(verdict.review), content_type="application/json"
        )

    def _judge(self, body: bytes) -> Verdict:
        asked = decode(body)
        try:
            return judge(asked, revision=self._revision)
        except Exception as error:  # noqa: BLE001  # whatever it is, the API server gets an answer
            return _failed(asked, error)


def _failed(asked: Review, error: Exception) -> Verdict:
    _log.error("validation_failed", exc_info=error)
    text = (
        "validation failed in the control plane (pylot), not because of the object: "
        f"{type(error).__name__}: {error}"
    )
    return Verdict(refuse(asked, text, code=OUR_MISTAKE))

"""The application of `--https-addr`, and how a webhook reads its requests.

Owns the limit of a body and the content type. Must not know what a webhook decides.
"""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import web

MAX_BODY: Final = 8 * 1024 * 1024
"""Bytes. An object has at most 1.5 MiB in etcd; a review may hold it twice."""

PATIENCE = 30.0
"""Seconds for a body: the API server itself waits no longer for an answer."""


def make_admission_app() -> web.Application:
    """Return an application with `/ready` alone; each webhook adds its routes."""
    app = web.Application(client_max_size=MAX_BODY)
    app.router.add_get("/ready", _ready)
    return app


async def read_review(request: web.Request) -> bytes:
    """Return the body of a review; raises a 4xx with the reason when there is none."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="the content type must be application/json")
    try:
        async with asyncio.timeout(PATIENCE):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text=f"no body within {PATIENCE:g} s") from None


async def _ready(request: web.Request) -> web.Response:
    del request
    return web.Response(text="ok")

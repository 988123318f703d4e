"""The HTTP side: `--http-addr` (`/ready`, `/debug`) and `--monitoring-addr` (`/metrics`,
`/version`, `/debug`).

Owns routes, status codes and headers. Must not know shapes (views) or who may enter (auth). The
rule that is easy to break: gathering runs on the event loop, because the generator belongs to
it; expanding and encoding run in a thread, so that a dump of a large mesh delays no push.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Final

from aiohttp import web

from controlplane.debug.auth import Identity, RefusedError, permit
from controlplane.debug.conflicts import conflicts
from controlplane.debug.context import DebugContext, ViewError
from controlplane.debug.patience import Patience
from controlplane.debug.render import to_json
from controlplane.debug.version import build_info
from controlplane.debug.views import table
from controlplane.debug.views.request import ViewRequest
from controlplane.errors import OutsideError

CONTEXT: Final = web.AppKey("context", DebugContext)
RUNNER: Final = web.AppKey("runner", web.AppRunner)
IDENTITY: Final = web.RequestKey("identity", Identity)
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def http_app(context: DebugContext) -> web.Application:
    """Return the application of `--http-addr`."""
    app = _app(context)
    app.router.add_get("/ready", _ready)
    return app


def monitoring_app(context: DebugContext) -> web.Application:
    """Return the application of `--monitoring-addr`."""
    app = _app(context)
    app.router.add_get("/metrics", _metrics)
    app.router.add_get("/version", _version)
    return app


async def listen(
    app: web.Application, host: str, port: int, *, tls: ssl.SSLContext | None = None
) -> web.AppRunner:
    """Bind and serve; the caller ends it with `cleanup()`. An empty host means all addresses.

    Raises OutsideError with the address when it cannot be bound.
    """
    patience = Patience()
    app.middlewares.insert(0, patience.middleware)
    app.cleanup_ctx.append(partial(_watched, patience=patience))
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    app[RUNNER] = runner
    await runner.setup()
    try:
        await web.TCPSite(runner, host or None, port, ssl_context=tls).start()
    except OSError as error:
        await runner.cleanup()
        reason = "already in use" if error.errno == errno.EADDRINUSE else error.strerror
        raise OutsideError(f"cannot listen on {host}:{port}: {reason}") from error
    return runner


async def _watched(app: web.Application, *, patience: Patience) -> AsyncIterator[None]:
    """Let nobody hold connections without asking anything while the application is served."""
    task = asyncio.create_task(patience.watch(app[RUNNER]))
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _app(context: DebugContext) -> web.Application:
    app = web.Application(middlewares=[_doors])
    app[CONTEXT] = context
    for path in ("/debug", "/debug/"):
        app.router.add_get(path, _index, allow_head=False)
    app.router.add_get("/debug/list", _list, allow_head=False)
    app.router.add_get("/debug/{page}", _page, allow_head=False)
    return app


@web.middleware
async def _doors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let nobody past `/debug` who may not read it, and turn refusals into plain text."""
    if not request.path.startswith("/debug"):
        return await handler(request)
    try:
        request[IDENTITY] = await request.app[CONTEXT].doors.admit(
            peer=_peer(request),
            host=request.headers.get("Host", ""),
            authorization=request.headers.get("Authorization", ""),
        )
        return await handler(request)
    except RefusedError as refusal:
        headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else {}
        return _text(str(refusal), status=refusal.status, headers=headers)
    except ViewError as error:
        return _text(str(error), status=error.status)


def _peer(request: web.Request) -> str:
    """The address of the TCP connection; no header can change it."""
    peer = request.transport.get_extra_info("peername") if request.transport else None
    return str(peer[0]) if isinstance(peer, tuple) and peer else ""


async def _index(request: web.Request) -> web.Response:
    permit(request[IDENTITY], "index", None)
    text = table.index(_view_request(request))
    return web.Response(text=text, content_type="text/html", headers=_HEADERS)


async def _list(request: web.Request) -> web.Response:
    permit(request[IDENTITY], "list", None)
    return await _json(request, table.names)


async def _page(request: web.Request) -> web.Response:
    name = request.match_info["page"]
    page = table.PAGES.get(name)
    if page is None:
        raise ViewError(404, f"there is no /debug/{name}; /debug/list names what there is")
    asked = _view_request(request)
    identity = request[IDENTITY]
    if not identity.privileged:
        permit(identity, name, _proxy_namespace(asked))
    return await _json(request, page.view(asked))


def _proxy_namespace(asked: ViewRequest) -> str | None:
    return asked.connection().proxy.namespace if asked.params.get("proxyID") else None


def _view_request(request: web.Request) -> ViewRequest:
    context = request.app[CONTEXT]
    return ViewRequest(
        snapshot=context.snapshot(),
        serving=context.serving(),
        generator=context.generator,
        params=dict(request.query),
        cached=context.cached,
        journal=context.journal,
        progress=context.progress,
        unpublished=context.unpublished,
        kubernetes=context.kubernetes,
        leases=context.leases,
        cluster_id=context.cluster_id,
        revision=context.revision,
    )


async def _json(request: web.Request, rendering: Callable[[], object]) -> web.Response:
    pretty = "pretty" in request.query
    body = await asyncio.to_thread(lambda: to_json(rendering(), pretty=pretty))
    return web.Response(body=body, content_type="application/json", headers=_HEADERS)


async def _ready(request: web.Request) -> web.Response:
    found = request.app[CONTEXT].ready()
    if found.ready:
        lines = ["ready"]
    elif found.stopping:
        lines = ["not ready: stopping"]
    else:
        missing = ", ".join(found.missing) or "the first snapshot"
        lines = [f"not ready: waiting for {missing}"]
    lines += [f"warning: {warning}" for warning in found.warnings]
    return _text("\n".join(lines), status=200 if found.ready else 503)


async def _metrics(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    context.metrics.rejecting(context.serving())
    context.metrics.conflicts(conflicts(context.snapshot(), context.findings()))
    body = context.metrics.render()
    return web.Response(body=body, headers={**_HEADERS, "Content-Type": METRICS_TYPE})


async def _version(request: web.Request) -> web.Response:
    return await _json(request, build_info)


def _text(text: str, *, status: int, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(text=text + "\n", status=status, headers={**_HEADERS, **(headers or {})})

"""A plain HTTP server on the loopback interface whose answers a test writes."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(answer: Answer, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve every path by one function; yields the URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        port = runner.addresses[0][1]
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


class PlainAccess:
    """Access to a server without TLS; tokens come from a list, the last one stays."""

    tls = None
    server_name = None
    proxy = None

    def __init__(self, server: str, *tokens: str) -> None:
        self.server = server
        self._tokens = list(tokens)

    async def authorization(self, *, renew: bool = False) -> str:
        """Return the first token, the next one when asked to renew."""
        if renew and len(self._tokens) > 1:
            self._tokens.pop(0)
        return f"Bearer {self._tokens[0]}" if self._tokens else ""

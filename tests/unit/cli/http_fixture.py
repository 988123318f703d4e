"""A small HTTP server with fixed answers."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

Answers = dict[str, Any]
"""Path with query -> JSON data; a tuple (status, text) is an error. Any other path is 404."""


@contextlib.contextmanager
def answering(answers: Answers, *, token: str = "") -> Iterator[str]:
    """Serve the answers on a free loopback port; a `token` is then required. Gives the URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # named by the base class
            found = answers.get(self.path, (404, f"no {self.path}"))
            if token and self.headers.get("Authorization") != f"Bearer {token}":
                found = (401, "callers from other machines need a bearer token")
            status, text = found if isinstance(found, tuple) else (200, json.dumps(found))
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: Any) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""What the four Bookinfo applications share: an HTTP server and their flags.

Owns: reading one request, writing one answer, starting and stopping.
Must not know: what any of the applications answers.
Easy to break: every header that carries a trace or selects a route has to travel from the incoming
request to each outgoing one (`HEADERS_TO_PROPAGATE`). A mesh sees single requests; only the
application can tell it which of them belong together.

Only the standard library is used, so an application starts in some 50 ms with nothing installed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from urllib.parse import parse_qsl, urlsplit

from upstream import APP_HEADER, host_and_port, http_url

HEADERS_TO_PROPAGATE = (
    "x-request-id",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "b3",
    "traceparent",
    "tracestate",
    "x-cloud-trace-context",
    "grpc-trace-bin",
    "x-ot-span-context",
    "sw8",
    "x-datadog-trace-id",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "end-user",
    "user-agent",
    "cookie",
    "authorization",
    "jwt",
)
LARGEST_BODY = 64 * 1024
# Longer than the hour after which Envoy closes an idle upstream connection, so that Envoy is the
# one that closes it: the other way round, a request could meet a connection that is just ending.
IDLE_SECONDS = 3900.0
DRAIN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request as an application sees it."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Message
    body: bytes = b""

    def propagated_headers(self) -> dict[str, str]:
        """The headers of this request that a call made on its behalf has to carry."""
        carried: dict[str, str] = {}
        for name in HEADERS_TO_PROPAGATE:
            values = self.headers.get_all(name)
            if values:
                separator = "; " if name == "cookie" else ", "
                # An old-style folded header holds a line break, which must not be sent again.
                carried[name] = " ".join(separator.join(map(str, values)).splitlines())
        return carried


@dataclass(frozen=True, slots=True)
class Response:
    """One answer of an application."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


def json_response(value: object, *, status: int = 200) -> Response:
    """`value` as a JSON answer."""
    return Response(status, json.dumps(value).encode())


def not_found(request: Request) -> Response:
    """The answer to a path that the application does not have."""
    return json_response({"error": f"nothing at {request.path}"}, status=404)


def product_id_of(request: Request, prefix: str) -> int | None:
    """The number behind `prefix` in the path, None when it is not a number."""
    text = request.path.removeprefix(prefix)
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


@dataclass(frozen=True, slots=True)
class App:
    """One running application: who it is, and the function that answers."""

    name: str
    version: str
    handle: Callable[[Request], Response]
    instance: str

    @property
    def label(self) -> str:
        """For example `reviews-v2`."""
        return f"{self.name}-{self.version}"


def instance_name(given: str | None = None) -> str:
    """Which instance this is: what was given, else $POD_NAME, else the host name."""
    return given or os.environ.get("POD_NAME") or socket.gethostname()


class BookinfoServer(ThreadingHTTPServer):
    """Serves one application, a thread for each connection."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, app: App, address: tuple[str, int], *, quiet: bool) -> None:
        self.app = app
        self.quiet = quiet
        self.draining = False
        self._running = 0
        self._changed = threading.Condition()
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        """Binds without the name look-up of HTTPServer, which can take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    @contextmanager
    def request_under_way(self) -> Iterator[None]:
        """Makes `stop` wait for what happens inside."""
        with self._changed:
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def stop(self, *, seconds: float = DRAIN_SECONDS) -> bool:
        """Stops accepting, waits for requests under way; False when some were still running."""
        self.draining = True
        self.shutdown()
        self.server_close()
        with self._changed:
            return self._changed.wait_for(lambda: self._running == 0, timeout=seconds)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no event; anything else is shown."""
        error = sys.exception() if sys.version_info >= (3, 12) else sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, TimeoutError)):
            print(f"{self.app.label}: {error!r}", file=sys.stderr, flush=True)


class Handler(BaseHTTPRequestHandler):
    """Turns bytes into Request and Response into bytes."""

    server: BookinfoServer
    protocol_version = "HTTP/1.1"
    # Without this a kept-alive answer waits some 40 ms for the client's delayed ACK.
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        """One request, called by the base class with the method in the name."""
        self._serve()

    def do_HEAD(self) -> None:
        """As `do_GET`, answered without the body."""
        self._serve()

    def do_POST(self) -> None:
        """As `do_GET`."""
        self._serve()

    def _serve(self) -> None:
        started = time.monotonic()
        url = urlsplit(self.path)
        body = self._read_body()
        if body is None:
            return
        request = Request(
            method="GET" if self.command == "HEAD" else self.command,
            path=url.path,
            query=dict(parse_qsl(url.query)),
            headers=self.headers,
            body=body,
        )
        with self.server.request_under_way():
            response = self.server.app.handle(request)
            self._write(response)
        if not self.server.quiet:
            self._log(response.status, seconds=time.monotonic() - started)

    def _log(self, status: int, *, seconds: float) -> None:
        words = [self.server.app.label, self.command, self.path, str(status)]
        words.append(f"{seconds * 1000:.1f}ms")
        for name in ("host", "end-user", "x-request-id"):
            words.append(f"{name}={self.headers.get(name, '-')}")
        print(printable(" ".join(words)), flush=True)

    def _read_body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers:
            self.send_error(411, "a body needs a Content-Length")
        elif not re.fullmatch(r"[0-9]{1,9}", length):
            self.send_error(400, "Content-Length is not a number")
        elif int(length) > LARGEST_BODY:
            self.send_error(413, f"a body may have {LARGEST_BODY} bytes")
        else:
            return self.rfile.read(int(length))
        self.close_connection = True
        return None

    def _write(self, response: Response) -> None:
        app = self.server.app
        self.send_response(response.status)
        self.send_header(APP_HEADER, f"{app.label} ({app.instance})")
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        for name, value in response.headers:
            self.send_header(name, value)
        if self.server.draining:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)
        self.wfile.flush()

    def version_string(self) -> str:
        """The value of the header `server`."""
        return "bookinfo"

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """The base class logs each answer in its own format; `_serve` writes the line instead."""


def printable(text: str) -> str:
    """`text` with everything that could break a log line replaced."""
    return re.sub(r"[^\x20-\x7e]", "?", text)


def argument_parser(
    description: str, *, upstreams: tuple[str, ...] = ()
) -> argparse.ArgumentParser:
    """The flags that every application has, and `--NAME-url` for each application it calls."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=9080, help="port (%(default)s); 0 picks one")
    parser.add_argument("--instance", help="name shown in x-app (POD_NAME, else the host name)")
    parser.add_argument("--quiet", action="store_true", help="no line per request")
    for name in upstreams:
        variable = f"{name.upper()}_URL"
        parser.add_argument(
            f"--{name}-url",
            type=http_url,
            default=os.environ.get(variable, f"http://{name}:9080"),
            help=f"where {name} is, also ${variable} (%(default)s)",
        )
    if upstreams:
        parser.add_argument(
            "--mesh-proxy",
            type=host_and_port,
            default=os.environ.get("MESH_PROXY", ""),
            metavar="HOST:PORT",
            help="send every call here and keep the Host header of the service ($MESH_PROXY)",
        )
    return parser


def main(parser: argparse.ArgumentParser, make_server: Callable[..., BookinfoServer]) -> int:
    """Makes a server from the flags and serves until SIGTERM or SIGINT.

    Returns 0 when every request under way could be answered, else 1.
    """
    options = parser.parse_args()
    try:
        server = make_server(**vars(options))
    except OSError as error:
        print(f"cannot listen on {options.host}:{options.port}: {error}", file=sys.stderr)
        return 1
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    address = f"{server.server_name}:{server.server_port}"
    print(f"{server.app.label} listens on {address}", flush=True)
    stopping.wait()
    return 0 if server.stop() else 1

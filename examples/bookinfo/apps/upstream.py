"""How a Bookinfo application calls another one.

Owns: one HTTP call by service name, straight to the service or through a proxy on this machine.
Must not know: who calls and what the answer means.
Easy to break: the Host header always names the service, wherever the connection goes, because it
is what a mesh routes by.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

APP_HEADER = "x-app"


class UpstreamError(Exception):
    """No usable answer came from another application; the text says why."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer of another application, its body decoded from JSON."""

    status: int
    value: Any
    app: str


@dataclass(frozen=True, slots=True)
class Upstream:
    """Another application, called by its service name.

    With `mesh_proxy` (HOST:PORT) the connection goes there and only the Host header names the
    service: this is how an application reaches the mesh when no iptables rule captures its calls.
    """

    url: str
    mesh_proxy: str = ""

    def get(self, path: str, *, headers: Mapping[str, str], timeout: float) -> Reply:
        """GET `path`; `timeout` is in seconds, for connecting and for each read.

        Raises UpstreamError when nothing, or no JSON, comes back. An error status is a Reply.
        """
        service = urlsplit(self.url).netloc
        host, port = split_address(self.mesh_proxy or service, default_port=80)
        # A new connection for each call: a pooled one may be closing just when it is used, and
        # keeping it is the work of the sidecar.
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
        try:
            connection.request("GET", path, headers={**headers, "Host": service})
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise UpstreamError(f"{service}: {error or type(error).__name__}") from error
        finally:
            connection.close()
        app = answer.headers.get(APP_HEADER, "")
        try:
            return Reply(answer.status, json.loads(body), app)
        except ValueError as error:
            if answer.status != http.client.OK:
                return Reply(answer.status, None, app)
            raise UpstreamError(f"{service}: the answer is not JSON") from error


def split_address(address: str, *, default_port: int) -> tuple[str, int]:
    """`HOST:PORT` as a pair; raises ValueError when it has no host or an impossible port."""
    parts = urlsplit(f"//{address}")
    if not parts.hostname:
        raise ValueError(f"{address!r} is not HOST:PORT")
    return parts.hostname, parts.port or default_port


def http_url(text: str) -> str:
    """`text` when it is an `http://HOST:PORT` that can be called; raises ValueError."""
    url = urlsplit(text)
    if url.scheme != "http":
        raise ValueError(f"{text!r} does not start with http://")
    split_address(url.netloc, default_port=80)
    return f"http://{url.netloc}"


def host_and_port(text: str) -> str:
    """`text` when it is empty or HOST:PORT; raises ValueError."""
    if text:
        split_address(text, default_port=80)
    return text

"""Asking a running control plane or an Envoy over HTTP, with errors that say what to try.

Owns requests and the resolution of POD[.NAMESPACE]. Must not know what the answers mean. The
rule that is easy to break: proxies of the environment (`http_proxy`) are not used, because the
addresses asked are ours.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from controlplane.errors import OutsideError, UsageError

TIMEOUT_SECONDS: Final = 10.0
DEFAULT_CONTROL_PLANE: Final = "http://127.0.0.1:8080"
DEFAULT_ADMIN: Final = "http://127.0.0.1:15000"


def fetch_json(base: str, path: str, *, hint: str, token: str = "") -> Any:
    """Return the JSON at `base` + `path`.

    Raises UsageError for a URL that is none, OutsideError (with `hint`, what to try) when
    nobody answers, answers with an error, or answers something else than JSON.
    """
    url = normal_url(base) + path
    request = urllib.request.Request(url, headers={"Accept": "application/json"})
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
            body = response.read()
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(2000).decode(errors="replace").strip()
        # A control plane and an Envoy say why; whoever does not is likely to be another server.
        why = said or f"{error.reason}; {hint}"
        if error.code == HTTPStatus.UNAUTHORIZED and not token:
            why = f"{why}; name the file of one with --debug-token-file FILE"
        raise OutsideError(f"{url} answered {error.code}: {why}") from None
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        said = getattr(reason, "strerror", None) or str(reason)
        raise OutsideError(f"nobody answers at {url} ({said}): {hint}") from None
    try:
        return json.loads(body)
    except ValueError:
        raise OutsideError(f"{url} did not answer with JSON: {hint}") from None


def normal_url(text: str) -> str:
    """Return the URL without a slash at its end; `HOST:PORT` alone means plain HTTP."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(f"{text!r} is not an address such as http://127.0.0.1:8080")
    return url.rstrip("/")


class ControlPlane:
    """The debug endpoints of one control plane."""

    def __init__(self, url: str, token_file: Path | None = None) -> None:
        self._url = url
        self._token = _read_token(token_file) if token_file is not None else ""

    def ask(self, page: str, **params: str) -> Any:
        """Return what `/debug/PAGE` says."""
        query = f"?{urllib.parse.urlencode(params)}" if params else ""
        return fetch_json(
            self._url,
            f"/debug/{page}{query}",
            token=self._token,
            hint="is the control plane running there? name another one with --control-plane URL",
        )

    def statuses(self) -> list[dict[str, Any]]:
        """Return the sync status of every connected proxy."""
        found = self.ask("syncz")
        if not isinstance(found, list):
            raise OutsideError(f"{self._url}/debug/syncz did not answer with a list of proxies")
        return found

    def find(self, pod: str) -> dict[str, Any]:
        """Return the status of the proxy that POD[.NAMESPACE] names.

        Raises OutsideError when none or more than one matches, naming those there are.
        """
        statuses = self.statuses()
        matching = [status for status in statuses if _is_named(status, pod)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            names = ", ".join(sorted({connection_id(status) for status in matching}))
            raise OutsideError(f"{pod} is not one proxy but several: {names}")
        known = ", ".join(sorted({str(status.get("proxy", "")) for status in statuses}))
        raise OutsideError(
            f"no proxy {pod} is connected to this control plane; connected are: {known or 'none'}"
        )

    def dump(self, pod: str) -> Any:
        """Return the config dump, endpoints included, of the proxy that POD[.NAMESPACE] names."""
        status = self.find(pod)
        return self.ask("config_dump", proxyID=connection_id(status), include_eds="true")


def connection_id(status: dict[str, Any]) -> str:
    """Return what names one connection: istiod's syncz has only the proxy's name."""
    return str(status.get("connection_id") or status.get("proxy", ""))


def _is_named(status: dict[str, Any], pod: str) -> bool:
    """Whether POD, POD.NAMESPACE or a connection id means this proxy."""
    name = str(status.get("proxy", ""))
    return pod in (name, name.rpartition(".")[0], status.get("connection_id"))


def _read_token(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"--debug-token-file: {path} cannot be read: {reason}") from None

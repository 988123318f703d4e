"""`pylot proxy-wait`: what holds an application back until its proxy is ready.

Owns one question, asked again and again. The rule that is easy to break: a failed attempt is
what is waited for, and never a reason to end before the time is over.
"""

from __future__ import annotations

import time
from typing import Annotated

import typer


def proxy_wait(
    *,
    url: Annotated[
        str, typer.Option("--url", help="What answers 200 when the proxy is ready.")
    ] = "http://127.0.0.1:15021/healthz/ready",
    timeout_seconds: Annotated[
        float, typer.Option("--timeoutSeconds", help="How long to wait.", min=0)
    ] = 60,
    period_millis: Annotated[
        int, typer.Option("--periodMillis", help="Time between two questions.", min=1)
    ] = 500,
    request_timeout_millis: Annotated[
        int, typer.Option("--requestTimeoutMillis", help="Time for one answer.", min=1)
    ] = 500,
) -> None:
    """Wait until the proxy of this pod is ready; ends with 1 when the time is over.

    Takes the flags of `pilot-agent wait`. The sidecar's postStart hook runs it, so that the
    kubelet starts the next container only then.
    """
    end = time.monotonic() + timeout_seconds
    while True:
        reason = _ask(url, request_timeout_millis / 1000)
        if not reason:
            return
        if time.monotonic() + period_millis / 1000 > end:
            typer.echo(
                f"Error: the proxy is not ready after {timeout_seconds:g} s: {url}: {reason}",
                err=True,
            )
            raise typer.Exit(1)
        time.sleep(period_millis / 1000)


def _ask(url: str, timeout: float) -> str:
    """Return why the proxy is not ready, empty when it is."""
    import http.client
    import urllib.error
    import urllib.request

    from controlplane.errors import UsageError

    # Without the proxies of the environment: the question stays in this pod.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as response:
            return "" if response.status == 200 else f"status {response.status}"
    except urllib.error.HTTPError as error:
        with error:
            return f"status {error.code} {error.read(200).decode(errors='replace').strip()}"
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    except ValueError as error:
        raise UsageError(f"--url: {error}") from None

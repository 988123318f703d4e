"""`pylot wait`: until every proxy has taken an object, or one has not.

Owns the waiting and the sentences. Must not know how the control plane finds out; it asks
`/debug/wait`. The rule that is easy to break: whatever happens, it ends when the time is over.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import typer

from controlplane.cli.control_plane import DEFAULT_CONTROL_PLANE
from controlplane.cli.control_plane_flags import ControlPlaneUrl, DebugTokenFile
from controlplane.cli.output import some_of

PAUSE: Final = 0.2  # seconds between two looks
_NAMED: Final = 10  # proxies in one message
Status = Mapping[str, Any]


def wait(
    target: Annotated[
        str,
        typer.Argument(
            metavar="KIND/NAME[.NAMESPACE]", help="For example virtualservice/reviews.default."
        ),
    ],
    timeout: Annotated[str, typer.Option(help="How long to wait, for example 90s.")] = "60s",
    control_plane: ControlPlaneUrl = DEFAULT_CONTROL_PLANE,
    debug_token_file: DebugTokenFile = None,
) -> None:
    """Wait until every affected proxy has acknowledged the current version of an object.

    Exits with 0 when all have, with 1 when one rejected it or the time is over.
    """
    from controlplane.cli.control_plane import ControlPlane
    from controlplane.debug.views.journal import candidates
    from controlplane.debug.views.request import ViewError
    from controlplane.errors import OutsideError, UsageError
    from controlplane.settings import parse_duration

    seconds = parse_duration(timeout, "--timeout").seconds
    try:
        candidates(target)
    except ViewError as error:
        raise UsageError(str(error)) from None
    source = ControlPlane(control_plane, debug_token_file)
    deadline = time.monotonic() + seconds
    status: Status = source.ask("wait", object=target)
    trouble = ""
    while True:
        if status:
            rejected = rejection_lines(status["proxies"])
            if rejected and status["current"]:
                _fail(f"{status['object']} was rejected:", rejected)
            if is_done(status):
                typer.echo(f"{status['object']}: {_taken(status)}")
                return
        if time.monotonic() >= deadline:
            _fail(f"not within {timeout}: {trouble or missing(status)}", reason_lines(status))
        time.sleep(min(PAUSE, max(0.0, deadline - time.monotonic())))
        try:
            status, trouble = source.ask("wait", object=target), ""
        except OutsideError as error:
            # It answered before, so it may be restarting.
            status, trouble = {}, str(error)


def is_done(status: Status) -> bool:
    """Whether every affected proxy has acknowledged the object."""
    return bool(
        status["found"]
        and status["current"]
        and all(proxy["state"] == "ACKNOWLEDGED" for proxy in status["proxies"])
    )


def rejection_lines(proxies: Iterable[Status]) -> list[str]:
    """Return a line for each resource that was rejected; who says the same of it is in one."""
    found: dict[str, list[str]] = {}
    for proxy in proxies:
        for rejection in proxy["rejections"]:
            message = " ".join(str(rejection["message"]).split())
            said = f"{rejection['type']} {rejection['resource']}: {message}"
            found.setdefault(said, []).append(str(proxy["proxy"]))
    return [f"{some_of(names)}: {said}" for said, names in found.items()]


def reason_lines(status: Status) -> list[str]:
    """Return a line for each mistake that keeps the object out, and for each proxy that is
    missing, with what it has not acknowledged."""
    if status.get("refused"):
        return [str(line) for line in status["refused"]]
    return [
        f"{proxy['proxy']} has not acknowledged {', '.join(proxy['waitingFor'])}"
        for proxy in status.get("proxies", ())
        if proxy["state"] == "WAITING"
    ]


def missing(status: Status) -> str:
    """Return what is not as it should be, as the end of a sentence."""
    shown = status["object"]
    if status.get("refused"):
        return f"the newest {shown} is not valid:"
    if not status["found"]:
        return f"the control plane knows no {shown}"
    if not status["current"]:
        return f"the newest {shown} is not pushed yet"
    late = [proxy for proxy in status["proxies"] if proxy["state"] == "WAITING"]
    return f"{shown} waits for {len(late)} of {len(status['proxies'])} proxies"


def _taken(status: Status) -> str:
    count = len(status["proxies"])
    if not count:
        return "no connected proxy is affected"
    return f"acknowledged by {count} prox{'y' if count == 1 else 'ies'}"


def _fail(sentence: str, lines: Iterable[str]) -> None:
    found = list(lines)
    typer.echo(f"Error: {sentence}", err=True)
    for line in found[:_NAMED]:
        typer.echo(f"  {line}", err=True)
    if len(found) > _NAMED:
        typer.echo(f"  and {len(found) - _NAMED} more", err=True)
    raise typer.Exit(1)

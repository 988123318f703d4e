"""What an API server, or the way to it, refuses: one exception for each thing to do about it.

    KubernetesError(OutsideError)
    ├── UnauthorizedError     401: it does not know who we are
    ├── ForbiddenError        403: a rule is missing; says verb and resource
    ├── NotFoundError         404: no such object, or no such kind
    ├── ConflictError         409: somebody else was faster, or the name is taken
    ├── GoneError             410: a resourceVersion or a continue token is too old
    ├── InvalidError          400, 422: the request or the object is not acceptable
    ├── TooManyRequestsError  429: come again in `retry_after` seconds
    └── UnavailableError      5xx, no connection, an answer cut short
        └── SilentError       no answer in time

The text of each is one sentence. `status` is the HTTP status, 0 when there was no answer.
"""

from __future__ import annotations

from typing import Final

import msgspec

from controlplane.errors import OutsideError
from controlplane.kubernetes.paths import Call

_LONGEST_REASON: Final = 500
TOO_LARGE: Final = "ResourceVersionTooLarge"


class KubernetesError(OutsideError):
    """A request that was not done. `reason` is Kubernetes' word for it, such as `Expired`."""

    def __init__(
        self, message: str, *, status: int = 0, reason: str = "", retry_after: float = 0.0
    ) -> None:
        super().__init__(message)
        self.status: Final = status
        self.reason: Final = reason
        self.retry_after: Final = retry_after  # seconds, 0 when the server did not say


class UnauthorizedError(KubernetesError):
    """The API server does not know who asks."""


class ForbiddenError(KubernetesError):
    """A rule of RBAC is missing: `call` says for which verb on which resource."""

    def __init__(self, message: str, *, call: Call, status: int = 403, reason: str = "") -> None:
        super().__init__(message, status=status, reason=reason)
        self.call: Final = call


class NotFoundError(KubernetesError):
    """There is no such object, or the API server does not serve such a kind."""


class ConflictError(KubernetesError):
    """Somebody else changed the object first (`Conflict`) or has it (`AlreadyExists`)."""


class GoneError(KubernetesError):
    """A resourceVersion or a continue token is older than what the API server remembers."""


class InvalidError(KubernetesError):
    """The API server does not accept what was asked or sent."""


class TooManyRequestsError(KubernetesError):
    """The API server is busy; `retry_after` says for how many seconds."""


class UnavailableError(KubernetesError):
    """No answer, an answer that broke off, or the API server says that it cannot."""


class SilentError(UnavailableError):
    """Nothing came in time."""


class _Cause(msgspec.Struct):
    reason: str = ""


class _Details(msgspec.Struct, rename="camel"):
    retry_after_seconds: float = 0.0
    causes: list[_Cause] | None = None


class _Status(msgspec.Struct):
    """Kubernetes' `Status`, as far as it is read."""

    kind: str = ""
    code: int = 0
    message: str | None = None
    reason: str | None = None
    details: _Details | None = None


def error_of(call: Call, body: bytes, *, status: int = 0, retry_after: str = "") -> KubernetesError:
    """Return the exception for an answer that is a failure, or for the object of an ERROR event.

    `body` is a `Status` in JSON or any text; `retry_after` is the header of that name.
    """
    try:
        said = msgspec.json.decode(body, type=_Status)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = _Status(message=body[:_LONGEST_REASON].decode(errors="replace").strip())
    status = status or said.code
    reason = said.reason or ""
    wait = float(retry_after) if retry_after.isdigit() else 0.0
    if said.details is not None:
        wait = wait or said.details.retry_after_seconds
        for cause in said.details.causes or ():
            if cause.reason == TOO_LARGE:
                reason = TOO_LARGE
    why = (said.message or f"HTTP status {status}")[:_LONGEST_REASON]
    text = f"cannot {call}: {why}"
    match status:
        case 403:
            return ForbiddenError(f"{text}; missing rule: {call.rule}", call=call, reason=reason)
        case 401:
            kind: type[KubernetesError] = UnauthorizedError
        case 404:
            kind = NotFoundError
        case 409:
            kind = ConflictError
        case 410:
            kind = GoneError
        case 429:
            kind = TooManyRequestsError
        case _ if 400 <= status < 500:
            kind = InvalidError
        case _:
            kind = UnavailableError
    return kind(text, status=status, reason=reason, retry_after=wait)

"""What becomes of a pod that the API server asks about before it makes it.

Owns the answer to a review, and what the address of the webhook says about the cluster. Must not
know HTTP. The rule that is easy to break: every review that names a request is answered with its
uid, also when we failed, or the API server reports a broken webhook instead of our sentence.

Our own mistakes refuse the pod, and say that they are ours: a pod that starts without its
sidecar would be outside of the mesh's policies without anybody noticing.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, Final, assert_never

import msgspec

from controlplane.admission.review import (
    INVALID,
    OUR_MISTAKE,
    Review,
    ReviewError,
    allow,
    decode,
    refuse,
)
from controlplane.inject.config import InjectConfig
from controlplane.inject.errors import InjectConfigError
from controlplane.inject.names import INJECT
from controlplane.inject.patch import difference
from controlplane.inject.sidecar import Injected, Refused, Untouched, inject
from controlplane.model.mesh import MeshConfig

NamespaceLabels = Callable[[str], Mapping[str, str] | None]
"""Returns the labels of a namespace, None when it is not known (the API server has chosen then)."""

_VARIABLES: Final = {"cluster": "ISTIO_META_CLUSTER_ID", "net": "ISTIO_META_NETWORK"}


class Result(enum.Enum):
    """What became of a request, for the metrics."""

    INJECTED = "injected"
    SKIPPED = "skipped"
    REFUSED = "refused"
    FAILED = "failed"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The review to send back; `text` says what happened, for the log."""

    review: dict[str, Any]
    result: Result
    subject: str
    text: str
    error: Exception | None = None


class Injector(msgspec.Struct, frozen=True, kw_only=True):
    """What answers depend on, besides the request."""

    config: InjectConfig
    mesh: MeshConfig
    namespace_labels: NamespaceLabels


def review(body: bytes, path: str, injector: Callable[[], Injector]) -> Answer:
    """Return the answer to the body of a request to this path; raises ReviewError only."""
    asked = decode(body)
    if asked.cut:
        raise ReviewError("the body is nested too deeply")
    request = asked.request
    pod = request.get("object")
    namespace = str(request.get("namespace") or "default")
    kind = request.get("kind")
    other = isinstance(kind, dict) and kind.get("kind", "Pod") != "Pod"
    if other or not isinstance(pod, dict):
        return _answer(asked, Result.SKIPPED, "", "no pod, nothing to do")
    subject = _subject(pod, namespace)
    try:
        settings = injector()
        outcome = inject(
            pod,
            namespace=namespace,
            config=settings.config,
            mesh=settings.mesh,
            namespace_labels=settings.namespace_labels(namespace),
            environment=environment(path),
        )
        match outcome:
            case Untouched(decision=decision):
                return _answer(asked, Result.SKIPPED, subject, str(decision))
            case Refused(problems=problems):
                text = f"sidecar injection of {subject}: {'; '.join(problems)}"
                return _answer(asked, Result.REFUSED, subject, text, message=text)
            case Injected(pod=made, decision=decision, warnings=warnings):
                return _answer(
                    asked,
                    Result.INJECTED,
                    subject,
                    str(decision),
                    patch=difference(pod, made),
                    warnings=warnings,
                )
            case _:
                assert_never(outcome)
    except InjectConfigError as error:
        return _failed(asked, subject, f"the injector's own configuration is wrong: {error}", error)
    except Exception as error:  # noqa: BLE001  # whatever it is, the API server gets an answer
        return _failed(asked, subject, f"{type(error).__name__}: {error}", error)


def environment(path: str) -> dict[str, str]:
    """Return the variables that an address such as `/inject/cluster/C/net/N` gives.

    `--slash--` in a value is a slash. Other keys are names of variables, as in Istio. A key
    without a value is left out.
    """
    parts = path.strip("/").split("/")[1:]
    found = {}
    for key, value in zip(parts[::2], parts[1::2], strict=False):
        if key:
            found[_VARIABLES.get(key, key.upper())] = value.replace("--slash--", "/")
    return found


def _answer(
    asked: Review,
    result: Result,
    subject: str,
    text: str,
    *,
    patch: list[dict[str, Any]] | None = None,
    message: str = "",
    code: int = INVALID,
    warnings: tuple[str, ...] = (),
    error: Exception | None = None,
) -> Answer:
    if message:
        made = refuse(asked, message, code=code)
    else:
        made = allow(asked, patch=patch, warnings=warnings)
    return Answer(review=made, result=result, subject=subject, text=text, error=error)


def _failed(asked: Review, subject: str, reason: str, error: Exception) -> Answer:
    text = (
        f"sidecar injection of {subject} failed in the control plane (pylot), not because of the "
        f"pod: {reason}. A pod with the label {INJECT}=false starts without a sidecar"
    )
    return _answer(asked, Result.FAILED, subject, text, message=text, code=OUR_MISTAKE, error=error)


def _subject(pod: Mapping[str, Any], namespace: str) -> str:
    metadata = pod.get("metadata")
    meta = metadata if isinstance(metadata, dict) else {}
    name = meta.get("name") or f"{meta.get('generateName') or ''}*"
    return f"pod {namespace}/{name}"

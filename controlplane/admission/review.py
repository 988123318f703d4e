"""One AdmissionReview in, one out: the messages of admission.k8s.io, v1 and v1beta1.

Must not know HTTP, nor what is decided. The rule that is easy to break: every review that names a
request is answered with its uid, also when we failed, or the API server reports a broken webhook
instead of our sentence.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from controlplane.sources.kubernetes.depth import cut_depth

_VERSIONS: Final = frozenset({"admission.k8s.io/v1", "admission.k8s.io/v1beta1"})
_WARNING_LIMIT: Final = 250
"""Characters of one warning: the API server cuts longer ones."""

INVALID: Final = 400
OUR_MISTAKE: Final = 500
_REASONS: Final = {INVALID: "Invalid", OUR_MISTAKE: "InternalError"}


class ReviewError(Exception):
    """What came is no AdmissionReview, so that there is no uid to answer."""


class Review(msgspec.Struct, frozen=True):
    """A question of the API server: its version and its request, which has a uid."""

    api_version: str
    request: Mapping[str, Any]
    cut: bool = False  # whether its object was nested too deeply to be decoded whole


def decode(body: bytes) -> Review:
    """Return the question in the body of a request; raises ReviewError."""
    cut = False
    try:
        try:
            asked = msgspec.json.decode(body)
        except RecursionError:
            asked, cut = msgspec.json.decode(cut_depth(body)), True
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReviewError(f"the body is not JSON: {error}") from None
    if not isinstance(asked, dict) or asked.get("kind") != "AdmissionReview":
        raise ReviewError("the body is not an AdmissionReview")
    version = asked.get("apiVersion")
    if version not in _VERSIONS:
        raise ReviewError(
            f"apiVersion {version!r} of the AdmissionReview is none of "
            f"{', '.join(sorted(_VERSIONS))}"
        )
    request = asked.get("request")
    if not isinstance(request, dict) or not isinstance(request.get("uid"), str):
        raise ReviewError("the AdmissionReview has no request with a uid")
    return Review(version, request, cut)


def allow(
    asked: Review,
    *,
    patch: list[dict[str, Any]] | None = None,
    warnings: Iterable[str] = (),
) -> dict[str, Any]:
    """Return the review that lets the object through, changed by a JSON patch."""
    response: dict[str, Any] = {"uid": asked.request["uid"], "allowed": True}
    if patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(msgspec.json.encode(patch)).decode()
    shown = [warning[:_WARNING_LIMIT] for warning in warnings]
    if shown and asked.api_version == "admission.k8s.io/v1":
        response["warnings"] = shown
    return _answer(asked, response)


def refuse(asked: Review, message: str, *, code: int = INVALID) -> dict[str, Any]:
    """Return the review that refuses the object: it is INVALID, or it was OUR_MISTAKE."""
    response = {
        "uid": asked.request["uid"],
        "allowed": False,
        "status": {
            "status": "Failure",
            "message": message,
            "reason": _REASONS[code],
            "code": code,
        },
    }
    return _answer(asked, response)


def _answer(asked: Review, response: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": asked.api_version, "kind": "AdmissionReview", "response": response}

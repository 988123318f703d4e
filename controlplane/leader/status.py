"""What `status` says of one object, and the patch that makes it say so.

Pure. Owns two conditions (`Accepted`, `Reconciled`), `validationMessages` and
`observedGeneration`, in the shape of Istio's `meta.istio.io/v1alpha1 IstioStatus`. Must not know
who writes. The rule that is easy to break: everything else in `status` belongs to others and
stays, and text that an API server may cut off or change is never compared, or every new leader
would write every object again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from controlplane.leader.codes import name_of
from controlplane.model.diagnostics import Diagnostic, Level, order

ACCEPTED: Final = "Accepted"
RECONCILED: Final = "Reconciled"
REJECTED_BY_ENVOY: Final = "RejectedByEnvoy"
LONGEST_MESSAGE: Final = 4_000
"""Characters; a status is stored with its object, and every watch of the object carries it."""
_SHOWN: Final = 10  # findings that a message spells out
_LEVELS: Final = {Level.ERROR: "ERROR", Level.WARNING: "WARNING", Level.INFO: "INFO"}


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """One statement: `status` is True, False or Unknown."""

    type: str
    status: str
    reason: str
    message: str = ""


class Message(msgspec.Struct, frozen=True, order=True):
    """One entry of `validationMessages`."""

    level: str
    code: str
    name: str


class ObjectStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of ours. A generation of 0 means: that of the object as it is found."""

    generation: int
    conditions: tuple[Condition, ...]
    messages: tuple[Message, ...] = ()


_IS_ACCEPTED: Final = Condition(type=ACCEPTED, status="True", reason=ACCEPTED)
_IS_RECONCILED: Final = Condition(type=RECONCILED, status="True", reason=RECONCILED)
_NO_EFFECT: Final = Condition(
    type=RECONCILED,
    status="False",
    reason="NotTranslated",
    message="nothing is made of objects of this kind yet",
)
_FINE: Final = (_IS_ACCEPTED, _IS_RECONCILED)


def fine(generation: int) -> ObjectStatus:
    """Return the status of an object that is accepted without findings, and is in force."""
    return ObjectStatus(generation=generation, conditions=_FINE)


def status_of(
    generation: int,
    findings: Iterable[Diagnostic],
    *,
    waiting: int = 0,
    refused: bool = False,
    translated: bool = True,
) -> ObjectStatus:
    """Return the status of an object.

    `findings` are all about it, those of Envoys included; `waiting` counts the proxies that do not
    run it yet; `refused` says that it is left out; `translated` is false for kinds of which
    nothing is made.
    """
    found = sorted(set(findings), key=order)
    ours = [finding for finding in found if finding.code != REJECTED_BY_ENVOY]
    theirs = [finding for finding in found if finding.code == REJECTED_BY_ENVOY]
    return ObjectStatus(
        generation=generation,
        conditions=(
            _accepted(ours, refused=refused),
            _reconciled(theirs, waiting=waiting, refused=refused) if translated else _NO_EFFECT,
        ),
        messages=tuple(sorted({_message(finding) for finding in found})),
    )


def _accepted(findings: list[Diagnostic], *, refused: bool) -> Condition:
    if not findings:
        return _IS_ACCEPTED
    bad = refused or any(finding.level is Level.ERROR for finding in findings)
    return Condition(
        type=ACCEPTED,
        status="False" if bad else "True",
        reason="Invalid" if refused else "PartiallyInvalid" if bad else "AcceptedWithFindings",
        message=_sentences(findings),
    )


def _reconciled(findings: list[Diagnostic], *, waiting: int, refused: bool) -> Condition:
    if refused:
        return Condition(
            type=RECONCILED,
            status="False",
            reason="NotAccepted",
            message="no proxy is given anything of this version of the object",
        )
    if findings:
        return Condition(
            type=RECONCILED, status="False", reason="Rejected", message=_sentences(findings)
        )
    if waiting:
        who = "1 proxy does" if waiting == 1 else f"{waiting} proxies do"
        return Condition(
            type=RECONCILED,
            status="False",
            reason="Pending",
            message=f"{who} not run this version of the object yet",
        )
    return _IS_RECONCILED


def _sentences(findings: list[Diagnostic]) -> str:
    lines = [
        f"{finding.field}: {finding.message}" if finding.field else finding.message
        for finding in findings[:_SHOWN]
    ]
    left = len(findings) - len(lines)
    if left:
        lines.append(f"and {left} more")
    text = "; ".join(dict.fromkeys(lines))
    return text if len(text) <= LONGEST_MESSAGE else f"{text[: LONGEST_MESSAGE - 1]}…"


def _message(finding: Diagnostic) -> Message:
    return Message(_LEVELS[finding.level], finding.code, name_of(finding.code))


def patch_of(
    current: Mapping[str, Any], wanted: ObjectStatus, *, now: str
) -> dict[str, Any] | None:
    """Return the merge patch for an object as read, None when its status says so already.

    It holds only if the object still has the resourceVersion that was read. `now` is RFC 3339.
    """
    metadata = current.get("metadata", {})
    status = current.get("status")
    if not isinstance(status, Mapping):
        status = {}
    generation = wanted.generation or int(metadata.get("generation", 0))
    changes: dict[str, Any] = {}
    if str(status.get("observedGeneration", "")) != str(generation):
        changes["observedGeneration"] = generation
    conditions = _merged(status.get("conditions"), wanted.conditions, generation, now)
    if conditions is not None:
        changes["conditions"] = conditions
    messages = [
        {"level": entry.level, "type": {"code": entry.code, "name": entry.name}}
        for entry in wanted.messages
    ]
    if _known_messages(status.get("validationMessages")) != list(wanted.messages):
        changes["validationMessages"] = messages or None  # null takes a field away
    if not changes:
        return None
    return {
        "metadata": {"resourceVersion": metadata.get("resourceVersion", "")},
        "status": changes,
    }


def _merged(
    current: object, wanted: tuple[Condition, ...], generation: int, now: str
) -> list[Any] | None:
    """Return the whole list with ours in their places, None when nothing is to be changed."""
    entries = list(current) if isinstance(current, list | tuple) else []
    changed = False
    for condition in wanted:
        place = next(
            (
                index
                for index, entry in enumerate(entries)
                if isinstance(entry, Mapping) and entry.get("type") == condition.type
            ),
            None,
        )
        old: Mapping[str, Any] = entries[place] if place is not None else {}
        if all(
            old.get(name, "") == getattr(condition, name)
            for name in ("status", "reason", "message")
        ) and str(old.get("observedGeneration", "")) == str(generation):
            continue
        changed = True
        same = old.get("status") == condition.status
        entry = {
            "type": condition.type,
            "status": condition.status,
            "reason": condition.reason,
            "message": condition.message,
            "observedGeneration": generation,
            "lastTransitionTime": (old.get("lastTransitionTime") if same else None) or now,
        }
        if place is None:
            entries.append(entry)
        else:
            entries[place] = entry
    return entries if changed else None


def _known_messages(current: object) -> list[Message]:
    if not isinstance(current, list | tuple):
        return []
    found = []
    for entry in current:
        kind = entry.get("type") if isinstance(entry, Mapping) else None
        if isinstance(kind, Mapping):
            found.append(
                Message(
                    str(entry.get("level", "")),
                    str(kind.get("code", "")),
                    str(kind.get("name", "")),
                )
            )
        else:
            found.append(Message("", "", ""))
    return found

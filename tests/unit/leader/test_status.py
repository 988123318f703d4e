"""What a status says, and that everything of others in it stays."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

import controlplane
from controlplane.leader.codes import name_of
from controlplane.leader.status import LONGEST_MESSAGE, ObjectStatus, fine, patch_of, status_of
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.meta import ObjectRef

REF = ObjectRef("VirtualService", "default", "reviews")
NOW = "2030-01-01T00:00:00Z"


def finding(
    message: str = "no such host", level: Level = Level.ERROR, code: str = "IST0101"
) -> Diagnostic:
    return Diagnostic(level=level, code=code, message=message, ref=REF, field="spec.http[0]")


def live(status: dict[str, Any] | None = None, generation: int = 3) -> dict[str, Any]:
    found: dict[str, Any] = {"metadata": {"generation": generation, "resourceVersion": "77"}}
    return found if status is None else found | {"status": status}


def merged(current: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """Apply a merge patch to `status`, as the API server does (RFC 7386)."""
    status = dict(current.get("status") or {})
    for key, value in patch["status"].items():
        if value is None:
            status.pop(key, None)
        else:
            status[key] = value
    return current | {"status": msgspec.json.decode(msgspec.json.encode(status))}


def write(current: dict[str, Any], wanted: ObjectStatus, now: str = NOW) -> dict[str, Any]:
    """Write a status, and check that it then says what it should."""
    patch = patch_of(current, wanted, now=now)
    assert patch is not None
    after = merged(current, patch)
    assert patch_of(after, wanted, now="2031-01-01T00:00:00Z") is None
    return after


def conditions(item: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {
        entry["type"]: (entry["status"], entry["reason"]) for entry in item["status"]["conditions"]
    }


def test_an_object_without_findings_is_accepted_and_reconciled() -> None:
    after = write(live(), fine(3))
    assert after["status"]["observedGeneration"] == 3
    assert conditions(after) == {
        "Accepted": ("True", "Accepted"),
        "Reconciled": ("True", "Reconciled"),
    }
    assert "validationMessages" not in after["status"]


def test_a_patch_holds_only_for_the_version_that_was_read() -> None:
    patch = patch_of(live(), fine(3), now=NOW)
    assert patch is not None
    assert patch["metadata"] == {"resourceVersion": "77"}


def test_findings_become_messages_of_istio_s_shape_and_go_with_them() -> None:
    broken = write(live(), status_of(3, [finding(), finding("twice"), finding(level=Level.INFO)]))
    assert broken["status"]["validationMessages"] == [
        {"level": "ERROR", "type": {"code": "IST0101", "name": "ReferencedResourceNotFound"}},
        {"level": "INFO", "type": {"code": "IST0101", "name": "ReferencedResourceNotFound"}},
    ]
    (accepted, _) = broken["status"]["conditions"]
    assert accepted["status"] == "False"
    assert "spec.http[0]: no such host; spec.http[0]: twice" in accepted["message"]
    mended = write(broken, fine(3))
    assert "validationMessages" not in mended["status"]
    assert conditions(mended)["Accepted"] == ("True", "Accepted")


def test_a_warning_leaves_an_object_accepted() -> None:
    after = write(live(), status_of(3, [finding(level=Level.WARNING)]))
    assert conditions(after)["Accepted"] == ("True", "AcceptedWithFindings")
    assert conditions(after)["Reconciled"] == ("True", "Reconciled")


def test_a_rejection_by_an_envoy_says_nothing_against_the_object_but_is_not_reconciled() -> None:
    rejected = finding("route '80' was rejected by 1 proxy: bad", code="RejectedByEnvoy")
    after = write(live(), status_of(3, [rejected], waiting=4))
    assert conditions(after) == {
        "Accepted": ("True", "Accepted"),
        "Reconciled": ("False", "Rejected"),
    }
    assert "bad" in after["status"]["conditions"][1]["message"]


def test_a_refused_object_and_a_waiting_one_are_not_reconciled() -> None:
    assert conditions(write(live(), status_of(0, [finding()], refused=True))) == {
        "Accepted": ("False", "Invalid"),
        "Reconciled": ("False", "NotAccepted"),
    }
    waiting = write(live(), status_of(3, [], waiting=2))
    assert conditions(waiting)["Reconciled"] == ("False", "Pending")
    assert "2 proxies do not run" in waiting["status"]["conditions"][1]["message"]


def test_without_a_generation_that_of_the_object_counts() -> None:
    wanted = status_of(0, [finding()], refused=True)
    first = write(live(generation=3), wanted)
    assert first["status"]["observedGeneration"] == 3
    later = first | live(first["status"], generation=4)
    assert write(later, wanted)["status"]["observedGeneration"] == 4


def test_what_others_wrote_stays_as_it_is() -> None:
    foreign = {"type": "Healthy", "status": "True", "lastProbeTime": "x", "extra": [1]}
    current = live({"conditions": [foreign], "addresses": [{"value": "240.240.0.1"}]})
    after = write(current, status_of(3, [finding()]))
    assert after["status"]["conditions"][0] == foreign
    assert after["status"]["addresses"] == [{"value": "240.240.0.1"}]
    assert len(after["status"]["conditions"]) == 3
    changed = write(after, fine(3))
    assert [entry["type"] for entry in changed["status"]["conditions"]] == [
        "Healthy",
        "Accepted",
        "Reconciled",
    ]


def test_a_transition_has_a_time_and_another_reason_is_none() -> None:
    first = write(live(), status_of(3, [finding()]), "2030-01-01T00:00:00Z")
    second = write(first, status_of(3, [finding("another")]), "2030-01-02T00:00:00Z")
    third = write(second, fine(3), "2030-01-03T00:00:00Z")
    times = [
        item["status"]["conditions"][0]["lastTransitionTime"] for item in (first, second, third)
    ]
    assert times == ["2030-01-01T00:00:00Z", "2030-01-01T00:00:00Z", "2030-01-03T00:00:00Z"]


def test_a_generation_that_istio_wrote_as_text_is_the_same() -> None:
    after = write(live(), fine(3))
    after["status"]["observedGeneration"] = "3"
    assert patch_of(after, fine(3), now=NOW) is None


def test_a_status_of_another_shape_is_replaced_and_no_error() -> None:
    odd = live({"conditions": ["x", None, {"type": 3}], "validationMessages": [{"type": 1}, 2]})
    after = write(odd, fine(3))
    assert after["status"]["conditions"][:3] == ["x", None, {"type": 3}]
    assert "validationMessages" not in after["status"]


def test_a_message_is_bounded() -> None:
    many = [finding(f"{number:04}" * 500) for number in range(100)]
    after = write(live(), status_of(3, many))
    assert len(after["status"]["conditions"][0]["message"]) <= LONGEST_MESSAGE


def test_the_same_findings_in_any_order_are_the_same_status() -> None:
    findings = [finding(str(number)) for number in range(5)]
    assert status_of(1, findings) == status_of(1, [*reversed(findings), findings[0]])


def test_every_code_of_istio_that_findings_use_has_its_name() -> None:
    package = Path(controlplane.__file__).parent
    used = {
        code
        for path in package.rglob("*.py")
        if path.parent.name != "leader"
        for code in re.findall(r'"(IST\d{4})"', path.read_text())
    }
    assert used, "no code found"
    assert {code for code in used if name_of(code) == code} == set()

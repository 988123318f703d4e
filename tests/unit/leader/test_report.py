"""What replicas tell the leader."""

from __future__ import annotations

import msgspec

from controlplane.leader.report import MOST_OBJECTS, Report, findings_of, make_report, waiting_of
from controlplane.leader.reports import report_key
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.meta import ObjectRef, Provenance
from controlplane.model.snapshot import Snapshot


def ref(name: str = "a", kind: str = "VirtualService") -> ObjectRef:
    return ObjectRef(kind, "default", name)


def snapshot(generation: int = 1, source: str = "kubernetes", *refs: ObjectRef) -> Snapshot:
    origin = Provenance(source, generation=generation)
    return Snapshot(provenance=dict.fromkeys(refs or (ref(),), origin))


def finding(name: str = "a", message: str = "no") -> Diagnostic:
    return Diagnostic(
        level=Level.ERROR, code="RejectedByEnvoy", message=message, ref=ref(name), field="spec"
    )


def sent(report: Report) -> Report:
    """The report as another replica reads it."""
    return msgspec.json.decode(msgspec.json.encode(report), type=Report)


def test_what_one_replica_tells_another_one_reads() -> None:
    report = sent(make_report(snapshot(), [finding()], {ref(): 2}))
    assert tuple(findings_of([report], snapshot())) == (finding(),)
    assert waiting_of([report, report], snapshot()) == {ref(): 4}


def test_nothing_to_tell_is_an_empty_report() -> None:
    assert not make_report(snapshot(), (), {})
    assert not make_report(snapshot(), (), {ref(kind="Service"): 1})
    assert not make_report(snapshot(1, "file"), [finding()], {ref(): 1})


def test_a_report_about_another_generation_counts_for_nothing() -> None:
    report = make_report(snapshot(1), [finding()], {ref(): 1})
    for other in (snapshot(2), Snapshot()):
        assert tuple(findings_of([report], other)) == ()
        assert waiting_of([report], other) == {}


def test_a_report_is_bounded() -> None:
    names = [f"vs-{number}" for number in range(MOST_OBJECTS + 50)]
    known = snapshot(1, "kubernetes", *(ref(name) for name in names))
    findings = [finding(name, f"{number}" + "x" * 5_000) for name in names for number in range(20)]
    report = make_report(known, findings, {})
    assert len(report.entries) == MOST_OBJECTS
    assert report.omitted == 50
    assert len(msgspec.json.encode(report)) < 110_000
    assert make_report(known, reversed(findings), {}) == report


def test_the_key_of_a_report_is_one_that_kubernetes_takes() -> None:
    assert report_key("istiod-6b5f-x2") == "istiod-6b5f-x2"
    assert report_key("Host.Example_1a2b/ö") == "Host.Example_1a2b--"

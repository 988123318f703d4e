"""Which objects get which status, and when it is too early to say."""

from __future__ import annotations

import msgspec

from controlplane.ads.outstanding import Outstanding
from controlplane.leader.assess import PENDING_AFTER, WITH_STATUS, Assessor, Readers, Target
from controlplane.leader.bucket import TokenBucket
from controlplane.leader.status import fine, status_of
from controlplane.model.base import FrozenDict
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.kinds import Untranslated
from controlplane.model.meta import Object, ObjectMeta, ObjectRef, Provenance
from controlplane.model.snapshot import Snapshot
from controlplane.model.virtual_service import VirtualService


def item(name: str) -> Object:
    return VirtualService(metadata=ObjectMeta(name=name, namespace="default"))


def ref(name: str) -> ObjectRef:
    return item(name).ref


def origin(source: str = "kubernetes", generation: int = 1, uid: str = "u") -> Provenance:
    return Provenance(source, generation=generation, uid=uid)


class World:
    """What the readers say; a test changes it."""

    def __init__(self, *names: str) -> None:
        self.provenance = {ref(name): origin() for name in names}
        self.objects = {ref(name): item(name) for name in names}
        self.diagnostics: tuple[Diagnostic, ...] = ()
        self.findings: tuple[Diagnostic, ...] = ()
        self.outstanding = Outstanding()
        self.known: dict[ObjectRef, Target] = {}
        self.assessor = Assessor(
            Readers(
                snapshot=self.snapshot,
                outstanding=lambda: self.outstanding,
                findings=lambda: self.findings,
            )
        )

    def snapshot(self) -> Snapshot:
        return Snapshot(
            objects=self.objects, provenance=self.provenance, diagnostics=self.diagnostics
        )

    def look(self, now: float = 0.0) -> dict[ObjectRef, Target]:
        looked = self.assessor.look(self.known, kinds=WITH_STATUS, now=now)
        assert looked is not None
        return looked[0]

    def write(self, now: float = 0.0) -> None:
        self.known.update(self.look(now))


def finding(name: str, file: str = "") -> Diagnostic:
    return Diagnostic(level=Level.ERROR, code="IST0101", message="no", ref=ref(name), file=file)


def test_every_object_of_istio_s_kinds_gets_a_status_once() -> None:
    world = World("a", "b")
    assert world.look() == {ref("a"): Target("u", fine(1)), ref("b"): Target("u", fine(1))}
    world.write()
    assert world.look() == {}


def test_objects_of_files_and_of_kubernetes_own_kinds_get_none() -> None:
    world = World("a")
    world.provenance[ref("a")] = origin("file")
    pod = ObjectRef("Pod", "default", "p")
    world.objects[pod] = msgspec.structs.replace(item("p"))
    world.provenance[pod] = origin()
    world.diagnostics = (finding("of-a-file", file="x.yaml"),)
    assert world.look() == {}


def test_a_new_generation_and_a_new_object_of_the_same_name_are_written() -> None:
    world = World("a")
    world.write()
    world.provenance[ref("a")] = origin(generation=2)
    assert world.look() == {ref("a"): Target("u", fine(2))}
    world.write()
    world.provenance[ref("a")] = origin(generation=2, uid="other")
    assert world.look() == {ref("a"): Target("other", fine(2))}


def test_findings_of_sources_and_of_serving_are_put_together() -> None:
    world = World("a", "b")
    world.write()
    world.diagnostics = (finding("a"),)
    world.findings = (msgspec.structs.replace(finding("b"), code="RejectedByEnvoy"),)
    assert world.look() == {
        ref("a"): Target("u", status_of(1, world.diagnostics)),
        ref("b"): Target("u", status_of(1, world.findings)),
    }


def test_an_object_of_which_nothing_is_made_is_never_called_reconciled() -> None:
    world = World()
    sidecar = Untranslated(
        qualified_kind="Sidecar", metadata=ObjectMeta(name="s", namespace="default")
    )
    world.objects[sidecar.ref] = sidecar
    world.provenance[sidecar.ref] = origin()
    (target,) = world.look().values()
    assert [condition.reason for condition in target.status.conditions] == [
        "Accepted",
        "NotTranslated",
    ]


def test_objects_that_name_a_revision_are_another_writer_s() -> None:
    world = World("a", "b")
    labelled = world.objects[ref("a")]
    meta = msgspec.structs.replace(labelled.metadata, labels=FrozenDict({"istio.io/rev": "canary"}))
    world.objects[ref("a")] = msgspec.structs.replace(labelled, metadata=meta)
    world.diagnostics = (finding("refused"),)
    assert set(world.look()) == {ref("b"), ref("refused")}
    other = Assessor(
        Readers(
            snapshot=world.snapshot, outstanding=lambda: world.outstanding, findings=lambda: ()
        ),
        labelled=True,
    )
    looked = other.look({}, kinds=WITH_STATUS, now=0.0)
    assert looked is not None
    assert set(looked[0]) == {ref("a")}


def test_an_object_that_is_left_out_has_a_status_too() -> None:
    world = World()
    world.diagnostics = (finding("refused"),)
    assert world.look() == {
        ref("refused"): Target("", status_of(0, world.diagnostics, refused=True))
    }


def test_a_change_that_proxies_take_soon_is_written_once() -> None:
    world = World("a")
    world.outstanding = Outstanding(waiting={ref("a"): 1})
    assert world.look(0.0) == {}
    assert world.look(PENDING_AFTER - 0.1) == {}
    world.outstanding = Outstanding()
    assert world.look(PENDING_AFTER) == {ref("a"): Target("u", fine(1))}


def test_a_change_that_proxies_do_not_take_is_told_after_a_while() -> None:
    world = World("a")
    world.outstanding = Outstanding(waiting={ref("a"): 2})
    assert world.look(0.0) == {}
    assert world.look(PENDING_AFTER) == {ref("a"): Target("u", status_of(1, (), waiting=2))}


def test_nothing_is_said_while_classes_lag_behind_the_snapshot() -> None:
    world = World("a")
    world.outstanding = Outstanding(current=False)
    assert world.assessor.look(world.known, kinds=WITH_STATUS, now=0.0) is None


def test_objects_that_are_gone_are_forgotten() -> None:
    world = World("a", "b")
    world.write()
    del world.objects[ref("a")]
    world.look()
    assert list(world.known) == [ref("b")]


def test_kinds_that_are_not_served_are_left_alone() -> None:
    world = World("a")
    assert world.assessor.look({}, kinds={"ServiceEntry"}, now=0.0) == ({}, False)


def test_a_bucket_allows_a_burst_and_then_the_rate() -> None:
    bucket = TokenBucket(rate=2.0, burst=3, now=10.0)
    assert [bucket.take(10.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert bucket.take(10.5) == 0.0
    assert bucket.take(10.5) == 0.5
    assert [bucket.take(1000.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]

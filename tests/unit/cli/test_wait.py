"""`pylot wait` against answers of a control plane."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from controlplane.ads.journal import Entry
from controlplane.ads.progress import Progress, ProxyProgress, ProxyState
from controlplane.ads.status import RejectionStatus, ServingStatus
from controlplane.cli.wait import wait
from controlplane.debug.render import to_json
from controlplane.debug.views.journal import candidates
from controlplane.debug.views.journal import wait as view
from controlplane.debug.views.request import ViewError
from controlplane.errors import OutsideError, UsageError
from controlplane.model.base import FrozenDict
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.meta import ObjectRef, Provenance
from controlplane.model.snapshot import Snapshot
from tests.unit.cli.http_fixture import answering
from tests.unit.debug.conftest import RDS, VIRTUAL_SERVICE, ask, make_snapshot

app = typer.Typer()
app.command()(wait)
TARGET = "VirtualService/reviews.default"
PATH = "/debug/wait?object=VirtualService%2Freviews.default"


def run(base: str, *arguments: str) -> Any:
    """Run the command; it raises what the command line turns into a sentence."""
    return CliRunner().invoke(
        app, ["--control-plane", base, "--timeout", "0.5s", *arguments], catch_exceptions=True
    )


def proxy(state: ProxyState, name: str = "web.default", **fields: Any) -> ProxyProgress:
    """One proxy's progress."""
    return ProxyProgress(connection_id=f"{name}-1", proxy=name, state=state, **fields)


def answer(*proxies: ProxyProgress, current: bool = True, text: str = TARGET) -> Any:
    """What the control plane says."""
    request = ask(make_snapshot("10.0.0.1"), ServingStatus(), object=text)
    request = dataclasses.replace(
        request,
        progress=lambda _: Progress(push=3, proxies=proxies),
        unpublished=lambda _: not current,
    )
    return json.loads(to_json(view(request)()))


def known() -> str:
    """An object of the snapshot in the form of the command line."""
    ref = next(iter(make_snapshot("10.0.0.1").objects))
    return f"{ref.kind}/{ref.name}.{ref.namespace}"


def asked(text: str) -> str:
    """The path that the command asks for an object."""
    return "/debug/wait?object=" + text.replace("/", "%2F")


def test_zero_when_every_proxy_has_acknowledged() -> None:
    said = answer(proxy(ProxyState.ACKNOWLEDGED), text=known())
    with answering({asked(known()): said}) as base:
        result = run(base, known())
    assert result.exit_code == 0, result.output
    assert "acknowledged by 1 proxy" in result.stdout


def test_zero_when_no_proxy_is_affected() -> None:
    with answering({asked(known()): answer(text=known())}) as base:
        result = run(base, known())
    assert result.exit_code == 0
    assert "no connected proxy is affected" in result.stdout


def test_one_when_a_proxy_is_missing_and_it_is_named() -> None:
    said = answer(
        proxy(ProxyState.ACKNOWLEDGED),
        proxy(ProxyState.WAITING, "slow.default", waiting_for=("CDS a", "RDS 9080")),
        text=known(),
    )
    started = time.monotonic()
    with answering({asked(known()): said}) as base:
        result = run(base, known())
    assert 0.5 <= time.monotonic() - started < 5
    assert result.exit_code == 1
    assert "waits for 1 of 2 proxies" in result.stderr
    assert "slow.default has not acknowledged CDS a, RDS 9080" in result.stderr


def test_one_at_once_when_a_proxy_rejected_it() -> None:
    rejection = RejectionStatus(
        type_url=RDS, resource="9080", version="v", message="bad\nregex", objects=(VIRTUAL_SERVICE,)
    )
    said = answer(
        *(proxy(ProxyState.REJECTED, f"web-{n}.default", rejections=(rejection,)) for n in "12345"),
        text=known(),
    )
    started = time.monotonic()
    with answering({asked(known()): said}) as base:
        result = CliRunner().invoke(app, ["--control-plane", base, known()])
    assert time.monotonic() - started < 5, "it waited although the answer was known"
    assert result.exit_code == 1
    assert result.stderr.splitlines()[1:] == [
        "  web-1.default, web-2.default, web-3.default and 2 more: RDS 9080: bad regex"
    ]


def test_an_unknown_object_and_an_unpublished_one_are_waited_for() -> None:
    with answering({PATH.replace("reviews", "nobody"): answer(text="vs/nobody.shop")}) as base:
        result = run(base, TARGET.replace("reviews", "nobody"))
    assert result.exit_code == 1
    assert "knows no VirtualService shop/nobody" in result.stderr
    said = answer(proxy(ProxyState.ACKNOWLEDGED), current=False, text=known())
    with answering({asked(known()): said}) as base:
        result = run(base, known())
    assert result.exit_code == 1
    assert "not pushed yet" in result.stderr


def test_an_object_whose_newest_content_is_not_valid_is_not_done() -> None:
    mistake = Diagnostic(
        level=Level.ERROR,
        code="IST0106",
        ref=next(iter(make_snapshot("10.0.0.1").objects)),
        field="spec.http[0].timeout",
        message="'abc' is not a duration",
        file="a.yaml",
        line=7,
    )
    said = asked_of(make_snapshot("10.0.0.1", diagnostics=(mistake,)), known())
    assert not said["current"]
    assert said["found"], "the last good content stays in force"
    with answering({asked(known()): said}) as base:
        result = run(base, known())
    assert result.exit_code == 1
    assert "is not valid" in result.stderr
    assert f"  {mistake}" in result.stderr.splitlines()
    warning = msgspec.structs.replace(mistake, level=Level.WARNING)
    assert asked_of(make_snapshot("10.0.0.1", diagnostics=(warning,)), known())["current"]


def test_an_object_that_was_never_taken_is_told_with_its_mistake() -> None:
    ref = ObjectRef("VirtualService", "shop", "none")
    mistake = Diagnostic(level=Level.ERROR, code="IST0106", ref=ref, message="no hosts")
    said = asked_of(make_snapshot(diagnostics=(mistake,)), "vs/none.shop")
    assert not said["found"]
    assert said["object"] == str(ref)
    assert said["refused"] == [str(mistake)]


def test_objects_of_a_file_that_cannot_be_read_are_not_done() -> None:
    snapshot = make_snapshot("10.0.0.1")
    ref = next(iter(snapshot.objects))
    broken = Diagnostic(
        level=Level.ERROR, code="Unreadable", message="no YAML", file="a.yaml", line=3
    )
    for file, refused in (("a.yaml", [str(broken)]), ("b.yaml", [])):
        of_file = msgspec.structs.replace(
            snapshot,
            provenance=FrozenDict({ref: Provenance(source="file", file=file)}),
            diagnostics=(broken,),
        )
        said = asked_of(of_file, known())
        assert said["refused"] == refused
        assert said["current"] is not bool(refused)


def asked_of(snapshot: Snapshot, text: str) -> Any:
    """What the control plane says of an object when no proxy is connected."""
    return json.loads(to_json(view(ask(snapshot, ServingStatus(), object=text))()))


@pytest.mark.parametrize("wrong", ["reviews", "VirtualService/", "/reviews", "Toaster/reviews"])
def test_wrong_usage(wrong: str) -> None:
    result = run("http://127.0.0.1:1", wrong)
    assert isinstance(result.exception, UsageError)


def test_nobody_answers() -> None:
    result = run("http://127.0.0.1:1", TARGET)
    assert isinstance(result.exception, OutsideError)


def test_spellings_of_an_object() -> None:
    expected = ObjectRef("VirtualService", "shop", "reviews")
    for word in ("VirtualService", "virtualservice", "virtualservices", "vs"):
        assert candidates(f"{word}/reviews.shop")[0] == expected
    assert candidates("virtualservices.networking.istio.io/reviews.shop")[0] == expected
    assert candidates("Gateway/door")[0] == ObjectRef("Gateway", "default", "door")
    group = "gateway.networking.k8s.io"
    assert candidates(f"gateway.{group}/a.b")[0] == ObjectRef(f"Gateway.{group}", "b", "a")
    assert candidates("namespace/a.b") == (ObjectRef("Namespace", "", "a.b"),)
    # A name may hold dots: both readings are tried.
    assert candidates("vs/a.example")[1] == ObjectRef("VirtualService", "default", "a.example")
    with pytest.raises(ViewError, match="did you mean 'VirtualService'"):
        candidates("VirtualServise/a")


def test_a_file_that_changed_after_the_last_push_is_not_current(tmp_path: Any) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("")
    snapshot = make_snapshot("10.0.0.1")
    ref = next(iter(snapshot.objects))
    snapshot = msgspec.structs.replace(
        snapshot, provenance=FrozenDict({ref: Provenance(source="file", file=str(file))})
    )

    def is_current(pushed: float) -> bool:
        request = ask(snapshot, ServingStatus(), object=known())
        entry = Entry(number=1, time=pushed, reason="config")
        said: bool = view(dataclasses.replace(request, journal=lambda: (entry,)))()["current"]
        return said

    assert not is_current(time.time() - 10)
    assert is_current(time.time() + 1)

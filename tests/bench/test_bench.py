"""The benchmark itself: what it sends is understood, what it reads is right, and it runs."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import pytest
from envoy.service.discovery.v3 import discovery_pb2
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from tests.bench.__main__ import main
from tests.bench.bed import Size, bed
from tests.bench.fleet import Sample
from tests.bench.http2 import FRAME_SIZE, HEAD, Connection, Message, frame
from tests.bench.kubernetes import kubernetes
from tests.bench.messages import CDS, EDS, RDS, URLS, Delta, Head, Sotw, node, read_head, read_whole
from tests.bench.plot import draw
from tests.bench.plot import main as plot
from tests.bench.pushes import everything, finished
from tests.bench.report import Report, Row

DATA = 0
HEADER = Head("version-1", EDS, "nonce-1")


def received(
    stream: bytes, cuts: list[int], *, whole: bool, full_frames: bool = False
) -> list[tuple[bytes, int]]:
    """What a connection hands over when the bytes come in these pieces."""
    found: list[tuple[bytes, int]] = []
    connection = Connection(
        b"", lambda _head, _size: whole, lambda d, n: found.append((d, n)), full_frames=full_frames
    )
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(places):
        position = start
        while connection.unread and position < end:
            size = min(connection.unread, end - position)
            before = len(found)
            connection.discarded(size)
            assert len(found) - before == (not connection.unread), "not before its last byte"
            position += size
        connection.receive(memoryview(stream)[position:end])
    assert connection.between
    return found


def framed(messages: list[bytes], size: int) -> list[bytes]:
    """Messages in frames of so many bytes."""
    body = b"".join(struct.pack(">BI", 0, len(item)) + item for item in messages)
    return [frame(DATA, 0, 1, body[at : at + size]) for at in range(0, len(body), size)]


@given(
    messages=st.lists(st.binary(max_size=3 * HEAD), max_size=5),
    cuts=st.lists(st.integers(min_value=0), max_size=12),
    size=st.integers(min_value=1, max_value=FRAME_SIZE),
    whole=st.booleans(),
)
def test_messages_do_not_depend_on_how_bytes_arrive(
    messages: list[bytes], cuts: list[int], size: int, whole: bool
) -> None:
    # A ping in between must not disturb.
    stream = frame(6, 0, 0, bytes(8)).join([b"", *framed(messages, size)])
    found = received(stream, cuts, whole=whole)
    assert [size for _, size in found] == [len(item) for item in messages]
    for (data, _), item in zip(found, messages, strict=True):
        assert data == (item if whole else item[:HEAD])


@given(
    sizes=st.lists(st.integers(min_value=0, max_value=5 * FRAME_SIZE), max_size=5),
    cuts=st.lists(st.integers(min_value=0), max_size=12),
    whole=st.booleans(),
)
def test_messages_in_full_frames_may_be_thrown_away_unread(
    sizes: list[int], cuts: list[int], whole: bool
) -> None:
    messages = [bytes((number,)) * size for number, size in enumerate(sizes)]
    stream = frame(6, 0, 0, bytes(8)).join(
        [b"", *(b"".join(framed([item], FRAME_SIZE)) for item in messages)]
    )
    found = received(stream, cuts, whole=whole, full_frames=True)
    assert found == [(item if whole else item[:HEAD], len(item)) for item in messages]


def test_frames_that_are_not_full_are_noticed() -> None:
    frames = framed([bytes(3 * FRAME_SIZE)], FRAME_SIZE)
    frames[1:2] = framed([bytes(100), bytes(FRAME_SIZE - 110)], 105)
    with pytest.raises(AssertionError, match="no frame begins here"):
        received(b"".join(frames), [FRAME_SIZE], whole=False, full_frames=True)


def test_what_is_thrown_away_is_given_back_to_the_server() -> None:
    connection = Connection(b"", lambda _h, _s: False, lambda _d, _s: None, full_frames=True)
    size = 2 * 1024 * 1024
    stream = b"".join(framed([bytes(size)], FRAME_SIZE))
    for _ in range(2):
        connection.receive(memoryview(stream)[:4096])
        connection.discarded(len(stream) - 4096)
    grant = struct.pack(">I", 2 * (size + 5))
    assert connection.outgoing == frame(8, 0, 0, grant) + frame(8, 0, 1, grant)


def test_a_ping_is_answered() -> None:
    connection = Connection(b"", lambda _head, _size: False, lambda _data, _size: None)
    connection.receive(memoryview(frame(6, 0, 0, b"12345678")))
    assert bytes(connection.outgoing) == frame(6, 1, 0, b"12345678")


def test_requests_wait_for_the_window_of_the_server() -> None:
    connection = Connection(b"", lambda _head, _size: False, lambda _data, _size: None)
    connection.send(Message(bytes(100_000)))
    before = len(connection.outgoing)
    assert before < 66_000
    grant = struct.pack(">I", 100_000)
    connection.receive(memoryview(frame(8, 0, 0, grant) + frame(8, 0, 1, grant)))
    assert len(connection.outgoing) > 100_000


def test_a_state_of_the_world_request_says_what_an_envoy_says() -> None:
    sidecar = node(7, namespace="ns-1", labels={"app": "a"}, extensions=b"")
    names = Sotw.name_list(["b", "a"])
    data = Sotw.node(sidecar) + Sotw.request(EDS, names=names, head=HEADER)
    request = discovery_pb2.DiscoveryRequest.FromString(data)
    assert request.node.id == "sidecar~172.16.0.8~pod-7.ns-1~ns-1.svc.cluster.local"
    assert request.node.metadata["LABELS"]["app"] == "a"
    assert request.type_url == URLS[EDS]
    assert list(request.resource_names) == ["a", "b"]
    assert (request.version_info, request.response_nonce) == ("version-1", "nonce-1")
    assert not request.HasField("error_detail")


def test_a_rejection_carries_its_error_and_no_version() -> None:
    sotw = discovery_pb2.DiscoveryRequest.FromString(
        Sotw.request(CDS, names=b"", head=HEADER, error="no")
    )
    assert (sotw.error_detail.message, sotw.version_info) == ("no", "")
    delta = discovery_pb2.DeltaDiscoveryRequest.FromString(
        Delta.request(CDS, names=Delta.name_list(["a"], ["b"]), head=HEADER, error="no")
    )
    assert delta.error_detail.message == "no"
    assert delta.response_nonce == "nonce-1"
    assert list(delta.resource_names_subscribe) == ["a"]
    assert list(delta.resource_names_unsubscribe) == ["b"]


def test_the_head_of_a_response_is_read_without_its_resources() -> None:
    response = discovery_pb2.DiscoveryResponse(version_info="v", type_url=URLS[RDS], nonce="n" * 30)
    assert read_head(response.SerializeToString()) == Head("v", RDS, "n" * 30)
    response.resources.add(type_url=URLS[RDS], value=b"x" * 500)
    # protobuf puts the resources before the type: only the whole can be read then.
    data = response.SerializeToString()
    assert read_head(data[:HEAD]) is None
    assert read_whole(data[: len(data)], delta=False)[0] == Head("v", RDS, "n" * 30)


def test_a_sidecar_is_done_with_its_last_type() -> None:
    def sample(time: float, sidecar: int, kind: str) -> Sample:
        return Sample(time, sidecar, kind, "v", 1, frozenset())

    samples = [sample(9, 1, EDS), sample(11, 1, EDS), sample(12, 1, RDS), sample(13, 1, RDS)]
    assert finished([*samples, sample(14, 2, EDS)], (EDS, RDS), 10.0) == [2.0, 4.0]
    assert finished(samples, (EDS,), 10.0) == [1.0]


def test_a_picture_holds_every_series() -> None:
    picture = draw("Title", "ms", {"a, delta": [(100, 1), (1000, 10)], "a, sotw": [(100, 2)]})
    assert picture.count("<polyline") == 2
    assert picture.count("<circle") == 3
    assert "a, sotw" in picture


def test_a_ratio_above_one_misses_the_mark() -> None:
    assert Row(scenario="x", measure="y", unit="s", value=3.0, mark=2.0).ratio == 1.5
    assert Row(scenario="x", measure="y", unit="s", value=3.0).ratio is None


def test_the_kubernetes_source_can_be_measured() -> None:
    rows: list[Row] = []
    kubernetes(rows, quick=True, services=5, slices=20)
    cold, events = rows
    assert cold.unit == "CPU s"
    assert 0 < cold.value < 30
    assert events.details["events"] > 0
    assert 0 < events.value < 100


@pytest.mark.parametrize(
    ("protocol", "chosen"),
    [
        ("sotw", ("connect", "route", "rule", "service")),
        ("delta", ("endpoint", "rule", "service", "full")),
    ],
)
def test_a_small_mesh_can_be_measured(protocol: str, chosen: tuple[str, ...]) -> None:
    # `endpoint` moves services from 300 on, `route` the sixth, `rule` the seventh.
    size = Size(services=420, endpoints=2, namespaces=2, rules=10, sidecars=4, classes=2)
    rows: list[Row] = []
    with bed(size, protocol) as made:
        everything(rows, made, chosen, quick=True)
    latencies = [row for row in rows if row.unit == "s"]
    assert tuple(row.scenario for row in latencies) == chosen
    assert all(0 < row.value < 30 and row.sidecars == 4 for row in latencies)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--sidecars", "0"], "--sidecars: '0' is not a number above 0"),
        (["--services", "many"], "--services: 'many' is not a number above 0"),
        (["--json", "/nowhere/rows.json"], "--json: /nowhere is not a directory"),
        (["endpoints"], "there is no scenario 'endpoints'; known are connect, endpoint"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_measured(
    wrong: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_reports_become_pictures_and_a_table(tmp_path: Path) -> None:
    rows = [
        Row(
            scenario=f"growth {scenario}", protocol="delta", measure="seen to last ACK", unit="s",
            value=sidecars / 1e4, cpu=sidecars / 1e5, memory=10**8, sidecars=sidecars,
        )
        for scenario in ("endpoint", "route") for sidecars in (100, 1000)
    ]  # fmt: skip
    report, marked = tmp_path / "growth.json", tmp_path / "rows.json"
    Report(rows=rows).write(report)
    Report(rows=[structs.replace(rows[0], scenario="endpoint", mark=0.1)]).write(marked)
    plot([str(report), str(marked), str(tmp_path)])
    for name in ("latency", "cpu", "memory"):
        assert "<svg" in (tmp_path / f"{name}.svg").read_text()
    assert (
        "| endpoint | delta | seen to last ACK | 10 ms | 100 ms |"
        in (tmp_path / "results.md").read_text()
    )


@pytest.mark.parametrize("content", [None, b"{}", b"rows"])
def test_what_is_no_report_is_told(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        plot([str(file), str(tmp_path)])
    assert ended.value.code == 2
    assert f"{file} is no report" in capsys.readouterr().err

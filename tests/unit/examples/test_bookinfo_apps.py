"""The Bookinfo applications: pages, stars, headers that travel, and what a failure looks like."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

APPS = Path(__file__).parents[3] / "examples" / "bookinfo" / "apps"
NO_REVIEWS = "Sorry, product reviews are currently unavailable for this book."
NO_DETAILS = "Sorry, product details are currently unavailable for this book."
NO_RATINGS = "Ratings service is currently unavailable"

Start = Callable[..., str]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


def call(url: str, path: str, *, method: str = "GET", body: str = "", **headers: str) -> Answer:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    try:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body=body or None, headers=sent)
        answer = connection.getresponse()
        names = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, names, answer.read().decode())
    finally:
        connection.close()


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


class Recorder:
    """An upstream that remembers the headers of each request and gives one fixed answer."""

    def __init__(self, *, body: bytes = b"{}", status: int = 200, delay: float = 0.0) -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                named = {name.lower(): value for name, value in self.headers.items()}
                recorder.seen.append((self.path, named))
                recorder.released.wait(delay)
                with contextlib.suppress(ConnectionError):  # the caller may have given up
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_request(self, code: object = "-", size: object = "-") -> None:
                """Keeps the output of the tests quiet."""

        self.released = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def bookinfo(start: Start, *, reviews_version: str) -> str:
    ratings = start("ratings")
    return start(
        "productpage",
        details_url=start("details"),
        reviews_url=start("reviews", version=reviews_version, ratings_url=ratings, instance="r-0"),
        ratings_url=ratings,
    )


@pytest.mark.parametrize(
    ("version", "colors"), [("v1", []), ("v2", ["black"] * 2), ("v3", ["red"] * 2)]
)
def test_page_shows_the_stars_of_the_reviews_version(
    start: Start, version: str, colors: list[str]
) -> None:
    page = call(bookinfo(start, reviews_version=version), "/productpage?u=normal")
    assert page.status == 200
    assert re.findall(r'data-color="(\w+)"', page.text) == colors
    assert page.text.count("&#9733;") == (9 if colors else 0)
    assert page.text.count("&#9734;") == (1 if colors else 0)
    assert "William Shakespeare" in page.text
    assert f'data-app="reviews-{version}"' in page.text
    assert page.headers["x-reviews-app"] == f"reviews-{version} (r-0)"
    assert page.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    ("app", "path", "options"),
    [
        ("details", "/details/0", {}),
        ("ratings", "/ratings/0", {}),
        ("reviews", "/reviews/0", {"version": "v1"}),
        ("productpage", "/api/v1/products", {}),
    ],
)
def test_every_app_names_itself_and_answers_health(
    start: Start, app: str, path: str, options: dict[str, str]
) -> None:
    url = start(app, instance="pod-7", **options)
    for where in (path, "/health"):
        answer = call(url, where)
        assert (answer.status, answer.headers["x-app"]) == (200, f"{app}-v1 (pod-7)")
    assert call(url, "/nothing/here").status == 404


def test_instance_is_the_pod_name_of_the_environment(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POD_NAME", "details-v1-abc")
    assert call(start("details"), "/health").headers["x-app"] == "details-v1 (details-v1-abc)"


def test_api_returns_products_details_reviews_and_ratings(start: Start) -> None:
    url = bookinfo(start, reviews_version="v3")
    assert [book["id"] for book in call(url, "/api/v1/products").json()] == [0]
    assert call(url, "/api/v1/products/0").json()["ISBN-10"] == "1234567890"
    reviews = call(url, "/api/v1/products/0/reviews").json()
    assert [review["rating"] for review in reviews["reviews"]] == [
        {"stars": 5, "color": "red"},
        {"stars": 4, "color": "red"},
    ]
    ratings = call(url, "/api/v1/products/0/ratings").json()
    assert ratings == {"id": 0, "ratings": {"Reviewer1": 5, "Reviewer2": 4}}


def test_head_has_the_length_of_get_and_no_body(start: Start) -> None:
    url = start("details")
    answer = call(url, "/details/0", method="HEAD")
    assert answer.text == ""
    assert answer.headers["content-length"] == call(url, "/details/0").headers["content-length"]


def test_trace_and_routing_headers_travel_to_every_backend(start: Start) -> None:
    sent = {
        "x_request_id": "1-2-3",
        "x_b3_traceid": "80f198ee56343ba864fe8b2a57d3eff7",
        "b3": "0",
        "traceparent": "00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01",
        "tracestate": "a=1",
        "user_agent": "test",
        "authorization": "Bearer x",
        "end_user": "anna",
    }
    with Recorder() as details, Recorder(body=b'{"ratings": {}}') as ratings:
        reviews = start("reviews", version="v2", ratings_url=ratings.url)
        url = start("productpage", details_url=details.url, reviews_url=reviews)
        call(url, "/productpage", x_private="no", **sent)
        for recorder in (details, ratings):
            ((_, seen),) = recorder.seen
            expected = {name.replace("_", "-"): value for name, value in sent.items()}
            assert {name: seen.get(name) for name in expected} == expected
            assert "x-private" not in seen


def test_login_makes_jason_the_end_user_of_every_call_until_logout(start: Start) -> None:
    with Recorder() as details, Recorder() as reviews:
        url = start("productpage", details_url=details.url, reviews_url=reviews.url)
        form = urlencode({"username": "jason", "passwd": "anything"})
        answer = call(url, "/login", method="POST", body=form)
        assert (answer.status, answer.headers["location"]) == (302, "/productpage")
        cookie = answer.headers["set-cookie"].partition(";")[0]
        page = call(url, "/productpage?u=normal", cookie=cookie)
        assert "<strong>jason</strong>" in page.text
        for recorder in (details, reviews):
            assert recorder.seen[-1][1]["end-user"] == "jason"

        cleared = call(url, "/logout", cookie=cookie).headers["set-cookie"]
        assert "Max-Age=0" in cleared
        call(url, "/productpage", cookie=cleared.partition(";")[0])
        assert "end-user" not in reviews.seen[-1][1]


def test_user_can_be_named_in_the_address(start: Start) -> None:
    with Recorder() as reviews:
        url = start("productpage", details_url=reviews.url, reviews_url=reviews.url)
        call(url, "/productpage?u=jason")
        assert [headers.get("end-user") for _, headers in reviews.seen] == ["jason", "jason"]
        call(url, "/productpage?u=normal")
        assert "end-user" not in reviews.seen[-1][1]


@pytest.mark.parametrize("user", ["", "a b", "x\r\nx-admin: 1", "<b>", "a" * 65])
def test_login_refuses_a_name_that_cannot_be_a_header(start: Start, user: str) -> None:
    url = start("productpage")
    answer = call(url, "/login", method="POST", body=urlencode({"username": user}))
    assert answer.status == 400
    assert "set-cookie" not in answer.headers


def test_text_of_a_backend_is_escaped_on_the_page(start: Start) -> None:
    evil = {"reviews": [{"reviewer": "<i>", "text": "<script>alert(1)</script>"}, "no review"]}
    with Recorder(body=json.dumps(evil).encode()) as reviews:
        url = start("productpage", details_url=closed_port(), reviews_url=reviews.url)
        page = call(url, "/productpage").text
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_mesh_proxy_takes_the_call_and_the_host_header_names_the_service(start: Start) -> None:
    with Recorder() as mesh:
        proxy = mesh.url.removeprefix("http://")
        call(start("productpage", mesh_proxy=proxy), "/productpage")
        call(start("reviews", version="v2", mesh_proxy=proxy), "/reviews/0")
        assert [(path, headers["host"]) for path, headers in mesh.seen] == [
            ("/details/0", "details:9080"),
            ("/reviews/0", "reviews:9080"),
            ("/ratings/0", "ratings:9080"),
        ]


def test_reviews_v1_does_not_call_ratings(start: Start) -> None:
    with Recorder() as ratings:
        answer = call(start("reviews", version="v1", ratings_url=ratings.url), "/reviews/0")
        assert answer.status == 200
        assert ratings.seen == []


def test_page_says_which_backend_failed(start: Start) -> None:
    reviews = start("reviews", version="v2", ratings_url=closed_port())
    page = call(
        start("productpage", details_url=closed_port(), reviews_url=reviews), "/productpage"
    )
    assert page.status == 200
    assert NO_DETAILS in page.text
    assert NO_REVIEWS not in page.text
    assert page.text.count(NO_RATINGS) == 2
    assert "data-color" not in page.text


@pytest.mark.parametrize("status", [500, 503, 404])
def test_api_passes_the_status_of_a_failed_backend_on(start: Start, status: int) -> None:
    with Recorder(status=status) as backend:
        url = start("productpage", reviews_url=backend.url, ratings_url=backend.url)
        reviews = call(url, "/api/v1/products/0/reviews")
        assert (reviews.status, reviews.json()["error"]) == (status, NO_REVIEWS)
        assert len(backend.seen) == 2, "reviews are tried twice"
        assert call(url, "/api/v1/products/0/ratings").status == status


def test_answer_that_is_not_json_counts_as_no_answer(start: Start) -> None:
    with Recorder(body=b"<html>") as backend:
        url = start("productpage", details_url=backend.url, reviews_url=backend.url)
        page = call(url, "/productpage").text
    assert NO_DETAILS in page
    assert NO_REVIEWS in page


def test_late_reviews_are_tried_twice_and_then_given_up(
    start: Start, modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert modules["productpage"].SECONDS_PER_TRY == 3.0
    monkeypatch.setattr(modules["productpage"], "SECONDS_PER_TRY", 0.05)
    with Recorder(delay=5.0) as late:
        url = start("productpage", details_url=start("details"), reviews_url=late.url)
        page = call(url, "/productpage").text
        assert NO_REVIEWS in page
        assert NO_DETAILS not in page
        assert len(late.seen) == 2


def test_black_stars_wait_longer_than_the_page_and_red_ones_shorter(
    modules: dict[str, Any],
) -> None:
    """A ratings delay of 7 s loses all reviews with v2, only the stars with v3."""
    stars = modules["reviews"].STARS_OF_VERSION
    page_gives_up = modules["productpage"].SECONDS_PER_TRY
    assert stars["v3"].timeout < page_gives_up < 7.0 < stars["v2"].timeout


def test_late_ratings_cost_only_the_stars(
    start: Start, modules: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = modules["reviews"].Stars("red", 0.05)
    monkeypatch.setitem(modules["reviews"].STARS_OF_VERSION, "v3", quick)
    with Recorder(delay=5.0) as late:
        answer = call(start("reviews", version="v3", ratings_url=late.url), "/reviews/0")
    assert answer.status == 200
    assert [review["rating"] for review in answer.json()["reviews"]] == [{"error": NO_RATINGS}] * 2


def test_posted_ratings_are_kept_and_bad_ones_refused(start: Start) -> None:
    url = start("ratings")
    assert call(url, "/ratings/1", method="POST", body='{"Reviewer1": 2}').status == 200
    assert call(url, "/ratings/1").json()["ratings"] == {"Reviewer1": 2}
    assert call(url, "/ratings/0").json()["ratings"]["Reviewer1"] == 5
    for bad in ("[1]", '{"Reviewer1": 6}', '{"Reviewer1": true}', "{"):
        assert call(url, "/ratings/1", method="POST", body=bad).status == 400


@pytest.mark.parametrize(
    ("app", "path"),
    [("details", "/details/x"), ("ratings", "/ratings/-1"), ("reviews", "/reviews/")],
)
def test_product_id_has_to_be_a_number(start: Start, app: str, path: str) -> None:
    assert call(start(app), path).status == 400


def test_fail_every_second_rating_but_never_health(start: Start) -> None:
    url = start("ratings", fail_every=2)
    assert [call(url, "/ratings/0").status for _ in range(4)] == [200, 500, 200, 500]
    assert [call(url, "/health").status for _ in range(3)] == [200, 200, 200]


def test_connection_is_kept_and_answers_come_at_once(start: Start) -> None:
    connection = http.client.HTTPConnection(start("details").removeprefix("http://"), timeout=5)
    durations = []
    try:
        connection.connect()
        kept = connection.sock
        for _ in range(10):
            began = time.monotonic()
            connection.request("GET", "/details/0")
            assert connection.getresponse().read()
            durations.append(time.monotonic() - began)
            assert connection.sock is kept, "the server closed a kept-alive connection"
    finally:
        connection.close()
    assert sorted(durations)[5] < 0.03, "a delayed ACK costs 40 ms: is Nagle's algorithm off?"


def test_oversized_and_chunked_bodies_are_refused(start: Start) -> None:
    url = start("ratings")
    assert call(url, "/ratings/0", method="POST", body="x" * 70_000).status == 413
    assert call(url, "/ratings/0", method="POST", transfer_encoding="chunked").status == 411


def test_stop_waits_for_the_request_under_way(modules: dict[str, Any]) -> None:
    with Recorder(delay=0.3, body=b'{"ratings": {}}') as slow:
        server = modules["reviews"].make_server(version="v2", ratings_url=slow.url)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        answers: list[Answer] = []
        url = f"http://127.0.0.1:{server.server_port}"
        client = threading.Thread(target=lambda: answers.append(call(url, "/reviews/0")))
        client.start()
        while not slow.seen:
            time.sleep(0.005)
        assert server.stop(seconds=5.0)
        client.join()
    assert [answer.status for answer in answers] == [200]
    assert answers[0].headers["connection"] == "close"


@pytest.mark.parametrize("app", ["details", "ratings", "reviews", "productpage"])
def test_script_logs_a_line_per_request_and_ends_cleanly_on_sigterm(app: str) -> None:
    command = [sys.executable, str(APPS / f"{app}.py"), "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            announced = process.stdout.readline()
            assert announced.startswith(f"{app}-v1 listens on 127.0.0.1:")
            call("http://" + announced.split()[-1], "/health", end_user="jason", x_request_id="r1")
            line = process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=5) == 0
        finally:
            process.kill()
    assert line.startswith(f"{app}-v1 GET /health 200 ")
    assert line.endswith(" end-user=jason x-request-id=r1\n")


def test_taken_address_is_one_sentence_and_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, str(APPS / "details.py"), "--host", "127.0.0.1", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"cannot listen on 127.0.0.1:{port}: ")
    assert "Traceback" not in done.stderr

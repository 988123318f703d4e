"""`pylot demo` is what a newcomer sees first: quick, right, and gone without a trace."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.envoy.harness import NETWORKING, free_ports

pytestmark = pytest.mark.envoy

PATIENCE = 30.0


@contextlib.contextmanager
def demo(*flags: str) -> Iterator[subprocess.Popen[str]]:
    """A running `pylot demo`, ended by its id in any case."""
    command = [sys.executable, "-m", "controlplane", "demo", *flags]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """Read lines of output up to one with a match; fail with all of them when there is none."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if match := re.search(pattern, line):
            return match
    raise AssertionError(f"{pattern!r} is not in the output: {''.join(seen)}")


def page(port: int, query: str = "") -> tuple[str, str]:
    """The text of the product page and the version of reviews on it."""
    url = f"http://127.0.0.1:{port}/productpage{query}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode(), answer.headers.get("x-reviews-app", "").partition(" ")[0]


def children_of(pid: int) -> list[int]:
    """The process ids of all children of a process, Linux only."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(word) for word in (task / "children").read_text().split()]
    return found


def running(pid: int) -> bool:
    """Whether there is a process of that id, a zombie not counted."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_demo_serves_the_page_and_leaves_no_process(number: signal.Signals) -> None:
    (port,) = free_ports(1)
    started = time.monotonic()
    with demo("--capture", "none", "--port", str(port)) as process:
        read_until(process, r"Bookinfo is up")
        # Under 10 s on a machine of its own; here other tests may run beside it.
        assert time.monotonic() - started < 60.0
        text, reviews = page(port)
        assert "The Comedy of Errors" in text
        assert reviews.startswith("reviews-v")
        live = Path(read_until(process, r"files +(\S+)")[1])
        read_until(process, r"^in sync: ")
        (live / "reviews.yaml").write_text(
            (NETWORKING / "virtual-service-reviews-v3.yaml").read_text()
        )
        deadline = time.monotonic() + PATIENCE
        while any(page(port)[1] != "reviews-v3" for _ in range(6)):
            assert time.monotonic() < deadline, "the page does not follow the file"
        assert 'data-color="red"' in page(port)[0]
        children = children_of(process.pid)
        assert len(children) == 9  # control plane, two Envoys, six applications
        os.kill(process.pid, number)
        code = process.wait(timeout=PATIENCE)
        assert code == (-signal.SIGKILL if number is signal.SIGKILL else 0)
        deadline = time.monotonic() + PATIENCE
        while left := [pid for pid in children if running(pid)]:
            assert time.monotonic() < deadline, f"still running: {left}"
            time.sleep(0.02)
        assert live.exists() == (number is signal.SIGKILL)
        shutil.rmtree(live.parent, ignore_errors=True)


@pytest.mark.netns
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_demo_in_namespaces_serves_the_page_and_leaves_nothing(number: signal.Signals) -> None:
    (port,) = free_ports(1)
    started = time.monotonic()
    with demo("--capture", "netns", "--port", str(port)) as process:
        read_until(process, r"Bookinfo is up")
        assert time.monotonic() - started < 60.0
        assert "The Comedy of Errors" in page(port)[0]
        live = Path(read_until(process, r"files +(\S+)")[1])
        plane = read_until(process, r"control plane +(http://\S+)/debug")[1]
        namespace = read_until(process, r"ip netns exec (\S+) curl")[1]
        read_until(process, r"^in sync: .*productpage-v1\.default")
        status = pylot("proxy-status", "--control-plane", plane)
        assert status.count("SYNCED") == 4 * 7 + 6  # and the name tables of the sidecars
        shown = pylot("proxy-config", "listener", "productpage-v1", "--control-plane", plane)
        assert "15006" in shown
        asked = subprocess.run(
            ["ip", "netns", "exec", namespace, "getent", "ahostsv4", "reviews"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        assert asked.stdout.startswith("10.96.0.13 ")
        processes = descendants_of(process.pid)
        assert len(processes) == 1 + 6 + 1 + 7 + 7  # plane, applications, warm, agents, Envoys
        os.kill(process.pid, number)
        code = process.wait(timeout=PATIENCE)
        assert code == (-signal.SIGKILL if number is signal.SIGKILL else 0)
        deadline = time.monotonic() + PATIENCE
        while left := [pid for pid in processes if running(pid)]:
            assert time.monotonic() < deadline, f"still running: {left}"
            time.sleep(0.02)
    if number is signal.SIGKILL:
        # Whoever comes next tidies up.
        assert Path("/var/run/netns", namespace).exists()
        (port,) = free_ports(1)
        with demo("--capture", "netns", "--port", str(port)) as process:
            read_until(process, r"^in sync: ")
            process.terminate()
            assert process.wait(timeout=PATIENCE) == 0
        shutil.rmtree(live.parent, ignore_errors=True)
    assert not live.exists()
    for place in ("/var/run/netns", "/etc/netns"):
        assert not Path(place, namespace).exists()


def pylot(*words: str) -> str:
    """What a command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "controlplane", *words],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def descendants_of(pid: int) -> list[int]:
    """The process ids of all children, their children, and so on."""
    children = children_of(pid)
    return children + [found for child in children for found in descendants_of(child)]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_files_of_the_user_outlive_the_demo() -> None:
    (port,) = free_ports(1)
    with demo("--port", str(port)) as process:
        live = Path(read_until(process, r"files +(\S+)")[1])
        own = live / "own.yaml"
        own.write_text("# nothing yet\n")
        process.terminate()
        kept = read_until(process, r"left in (\S+)")[1]
        assert process.wait(timeout=PATIENCE) == 0
    assert own.read_text() == "# nothing yet\n"
    assert live.is_relative_to(kept)
    shutil.rmtree(kept)


@pytest.mark.parametrize("capture", ["none", pytest.param("netns", marks=pytest.mark.netns)])
def test_the_demo_checks_the_classic_exercises(capture: str) -> None:
    (port,) = free_ports(1)
    started = time.monotonic()
    words = ("demo", "--once", "--port", str(port), "--capture", capture)
    done = subprocess.run(
        [sys.executable, "-m", "controlplane", *words],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 of 10 exercises hold." in done.stdout
    assert done.stdout.count("ok ") == 10
    assert time.monotonic() - started < 60.0


@pytest.mark.parametrize("capture", ["none", pytest.param("netns", marks=pytest.mark.netns)])
def test_two_demos_run_side_by_side(capture: str) -> None:
    first_port, second_port = free_ports(2)
    with demo("--port", str(first_port), "--capture", capture) as first:
        read_until(first, r"^in sync: ")
        with demo("--port", str(second_port), "--capture", capture) as second:
            read_until(second, r"^in sync: ")
            for port in (first_port, second_port):
                assert "The Comedy of Errors" in page(port)[0]
            second.terminate()
            assert second.wait(timeout=PATIENCE) == 0
        assert "The Comedy of Errors" in page(first_port)[0]
        first.terminate()
        assert first.wait(timeout=PATIENCE) == 0

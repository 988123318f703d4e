"""`make bench`: runs scenarios, prints a table, writes a JSON file."""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.bed import Size, bed
from tests.bench.churn import churn
from tests.bench.cold import cold
from tests.bench.floor import floor
from tests.bench.footprint import per_proxy, per_service
from tests.bench.growth import growth
from tests.bench.kubernetes import kubernetes
from tests.bench.pushes import everything
from tests.bench.report import Report, Row, print_table, progress
from tests.bench.translation import translation

PUSHES = ("connect", "endpoint", "file", "route", "rule", "service", "full")
SCENARIOS = {
    "connect": "all sidecars connect at once and get everything",
    "endpoint": "one endpoint changes, from the source to the last acknowledgement",
    "file": "one endpoint changes in a file",
    "route": "one VirtualService changes",
    "rule": "one DestinationRule changes",
    "service": "one Service changes",
    "full": "every cluster, listener and route changes",
    "memory": "memory per sidecar and per service",
    "churn": "100 endpoint changes per second, with half as many sidecars",
    "cold": "from the start of the program to /ready",
    "kubernetes": "10,000 EndpointSlices from an API server, then 500 changes per second",
    "translate": "translation alone, for 1, 10 and 100 classes",
    "floor": "what the transport costs alone, ours and grpc.aio, for as many bytes",
    "growth": "connect, endpoint, route and full with 100 to 3000 sidecars",
    "micro": "pytest-benchmark of translate and assemble",
}
_SPREAD = 10  # ports over which services are spread, to be compared with one
_MICRO = Path(__file__).parent / "micro"


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for; return the exit code, 1 when a mark is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure the control plane with played sidecars.",
        epilog="\n".join(f"{name:<10} {what}" for name, what in SCENARIOS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenario", nargs="*", help="which ones (default: all but growth)")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, shorter runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument(
        "--protocol", choices=("sotw", "delta"), action="append", help="one of them (default: both)"
    )
    for name, what in (
        ("services", "services of the mesh"),
        ("sidecars", "sidecars that are played"),
        ("classes", "classes that the sidecars are of"),
        ("ports", "distinct ports of the services"),
    ):
        known = getattr(Size(), name)
        parser.add_argument(
            f"--{name}", type=_count, default=known, metavar="N", help=f"{what} (default: {known})"
        )
    parser.add_argument("--log-level", help="what the server logs (default: info)")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a mark is missed")
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.scenario if name not in SCENARIOS]
    if unknown:
        parser.error(f"there is no scenario {unknown[0]!r}; known are {', '.join(SCENARIOS)}")
    if chosen.json is not None and not chosen.json.parent.is_dir():
        parser.error(f"--json: {chosen.json.parent} is not a directory")
    _allow_many_sockets()
    if chosen.log_level:
        os.environ["PYLOT_LOG_LEVEL"] = chosen.log_level
    size = Size(
        services=chosen.services,
        sidecars=chosen.sidecars,
        classes=chosen.classes,
        ports=chosen.ports,
    )
    names = chosen.scenario or [name for name in SCENARIOS if name != "growth"]
    report = Report(rows=[], quick=chosen.quick)
    try:
        for protocol in chosen.protocol or ("sotw", "delta"):
            _serving(report.rows, names, size, protocol=protocol, quick=chosen.quick)
        _alone(report.rows, names, size, quick=chosen.quick)
    except KeyboardInterrupt:
        return 130
    finally:
        # What was measured before something went wrong is worth as much.
        print_table(report.rows)
        if chosen.json is not None:
            report.write(chosen.json)
    if "micro" in names and not _micro():
        return 1
    missed = [row for row in report.rows if row.ratio is not None and row.ratio > 1]
    return int(bool(missed) and chosen.strict)


def _count(text: str) -> int:
    """Read how many there shall be; raises ArgumentTypeError when that is none."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _serving(
    rows: list[Row], names: Sequence[str], size: Size, *, protocol: str, quick: bool
) -> None:
    pushes = [name for name in PUSHES if name in names]
    if pushes:
        with bed(size, protocol) as made:
            everything(rows, made, pushes, quick=quick)
    if "route" in names and size.ports == 1:
        with bed(size._replace(ports=_SPREAD), protocol) as made:
            everything(rows, made, ["route"], quick=quick)
    if "churn" in names:
        with bed(size._replace(sidecars=max(1, size.sidecars // 2)), protocol) as made:
            rows += churn(made, 10 if quick else 60)
    if "memory" in names:
        with bed(size, protocol) as made:
            rows.append(per_proxy(made))
        rows += per_service(size, protocol)
    if "growth" in names:
        growth(rows, size, protocol)


def _alone(rows: list[Row], names: Sequence[str], size: Size, *, quick: bool) -> None:
    if "cold" in names:
        cold(rows, quick=quick)
    if "kubernetes" in names:
        kubernetes(rows, quick=quick)
    if "translate" in names:
        translation(rows, size)
    if "floor" in names:
        floor(rows, size, quick=quick)


def _micro() -> bool:
    progress("micro")
    files = [str(path) for path in sorted(_MICRO.glob("bench_*.py"))]
    options = ["--benchmark-columns=min,median,ops", "--benchmark-sort=fullname", "-q"]
    return (
        subprocess.run([sys.executable, "-m", "pytest", *options, *files], check=False).returncode
        == 0
    )


def _allow_many_sockets() -> None:
    """Raise the limit of open files as far as it goes; child processes inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

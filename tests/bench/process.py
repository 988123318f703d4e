"""CPU time and memory of another process, from /proc."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Memory(NamedTuple):
    """Bytes: the proportional share of everything mapped, and what is its own and no file's."""

    pss: int
    anonymous: int


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads that live, to the nanosecond.

    `/proc/PID/stat` counts in hundredths of a second, which is coarser than a push.
    """
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total / 1e9


def memory(pid: int) -> Memory:
    """Return the memory of a process."""
    sizes: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        sizes[name] = int(rest.split()[0]) * 1024
    return Memory(sizes["Pss"], sizes["Anonymous"])


def load_average() -> float:
    """Return how many processes wanted a core in the last minute."""
    return float(Path("/proc/loadavg").read_text().split()[0])


def memory_available() -> int:
    """Return how many bytes of memory can be had without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not say what memory is available")

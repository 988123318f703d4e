"""What is free in the C library's heap goes back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane.allocator import arrange_heap, give_back_freed

BLOCK = 100_000  # bytes: less than what glibc asks the system for apart


def anonymous() -> int:
    """Bytes of this process that are no file's."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not say what memory is anonymous")


def printed(program: str) -> list[int]:
    """Run a program in a process of its own; return the numbers that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return [int(word) for word in done.stdout.split()]


def test_freed_buffers_go_back_to_the_system() -> None:
    if not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("the C library is not glibc")
    blocks = [bytearray(BLOCK) for _ in range(500)]
    kept = blocks[::50]  # what is still used lies between what was freed
    del blocks
    before = anonymous()
    assert give_back_freed()
    assert anonymous() < before - 300 * BLOCK
    assert all(len(block) == BLOCK for block in kept)


def test_a_large_block_is_gone_when_it_is_freed() -> None:
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("the C library is not glibc")
    # In a process of its own: the setting stays. The first block makes others seem small.
    program = """
from controlplane.allocator import arrange_heap
from tests.unit.test_allocator import anonymous
assert arrange_heap()
del (first := [bytearray(16_000_000)])[0]
blocks = [bytearray(1_500_000) for _ in range(50)]
kept = blocks[::10]
del blocks[:]
before = anonymous()
assert len(kept) == 5
print(before)
more = [bytearray(1_500_000) for _ in range(45)]
print(anonymous())
"""
    freed, filled = printed(program)
    assert filled - freed > 40 * 1_500_000, "what was freed had stayed with the process"


def test_what_a_thread_frees_is_used_by_others() -> None:
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("the C library is not glibc")
    program = """
from concurrent.futures import ThreadPoolExecutor
from controlplane.allocator import arrange_heap
from tests.unit.test_allocator import BLOCK, anonymous
assert arrange_heap()
def read():
    blocks = [bytearray(BLOCK) for _ in range(200)]
    return blocks[-1]
with ThreadPoolExecutor(1) as other:
    kept = other.submit(read).result()
    print(anonymous())
    more = [bytearray(BLOCK) for _ in range(190)]
    print(anonymous())
"""
    before, after = printed(program)
    assert after - before < 20 * BLOCK, "the thread had a heap of its own"


def test_another_c_library_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not give_back_freed()
    assert not arrange_heap()

"""What the process gives back to the system.

Reading a large mesh takes and frees buffers of megabytes, and glibc keeps most of what was freed.
Must not know what is freed. The rule that is easy to break: `give_back_freed` walks the whole
heap, so it is called once after the start and not again.
"""

from __future__ import annotations

import ctypes
from typing import Final

_MMAP_THRESHOLD: Final = -3  # M_MMAP_THRESHOLD of malloc.h
_ARENA_MAX: Final = -8  # M_ARENA_MAX
_LARGE: Final = 1024 * 1024  # bytes: less, and growing tables would be mapped again and again


def arrange_heap() -> bool:
    """Let large blocks be mappings of their own, and the rest one heap; False if unknown.

    Else glibc takes each freed mapping for a reason to put larger blocks into the heap, where
    what was a response or a file leaves a hole; and what the thread that reads files has freed
    is in a heap that no other thread uses. Source: mallopt(3), M_MMAP_THRESHOLD, M_ARENA_MAX.
    """
    try:
        option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(option(_MMAP_THRESHOLD, _LARGE)) and bool(option(_ARENA_MAX, 1))


def give_back_freed() -> bool:
    """Return free memory of the C library's heap to the system; False where that is unknown.

    Source: malloc_trim(3), which other C libraries than glibc do not have.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return False
    return bool(trim(0))

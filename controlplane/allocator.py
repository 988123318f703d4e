"""What the process gives back to the system.

Reading a large mesh takes and frees buffers of megabytes, and glibc keeps most of what was freed.
Must not know what is freed. The rule that is easy to break: it walks the whole heap, so it is
called once after the start and not again.
"""

from __future__ import annotations

import ctypes


def give_back_freed() -> bool:
    """Return free memory of the C library's heap to the system; False where that is unknown.

    Source: malloc_trim(3), which other C libraries than glibc do not have.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return False
    return bool(trim(0))

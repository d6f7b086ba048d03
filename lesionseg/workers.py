"""What worker processes have in common."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
import threading

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt
_LARGEST = 32 * 2**20  # bytes; the most that glibc takes for them


def leave_with_parent() -> None:
    """End this worker process when its parent ends: a parent that is killed cannot stop it, and it would wait for ever."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def keep_freed_memory() -> None:
    """Let this process use the memory of one image for the next.

    By default glibc hands arrays of megabytes back to the system, which then gives them out anew page by page, cleared: a
    fifth of the processor time of preparing large photographs. Does nothing where there is no glibc.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_MMAP_THRESHOLD, _LARGEST)
            mallopt(_TRIM_THRESHOLD, 8 * _LARGEST)

"""How the process keeps its memory; where the C library is not glibc, these do nothing."""

import ctypes
import platform

MOST_KEPT = 2**28
"""Bytes: larger blocks, the whole clips of the last stage, still go back to the system at once."""
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Names of glibc's mallopt."""


def keep_freed_memory() -> None:
    """Let what a layer frees be used again by the next, instead of returning it to the system.

    glibc hands every tensor above 32 MB back when it is freed and asks for new pages, which the
    system must clear, for the next one: up to 40 % of a call of the large stages on a CPU (of a
    training step, whose tensors are smaller, nothing). From here on the whole process keeps what it
    frees, about twice what was in use at once, until `return_freed_memory`.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(MMAP_THRESHOLD, MOST_KEPT)
        mallopt(TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Give the system back what is free: the pieces of one stage hardly fit the next."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)

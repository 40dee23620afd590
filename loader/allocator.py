"""What the C library's allocator is told. Only glibc listens; elsewhere these do nothing."""

import ctypes
import sys


def return_freed_memory() -> bool:
    """Hand freed blocks back to the kernel, so that resident memory shows what is in use; True where that worked."""
    if not sys.platform.startswith("linux"):
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and bool(trim(0))

"""What is told to the process as a whole: its allocator (only glibc listens) and its threads."""

import ctypes
import sys


def return_freed_memory() -> bool:
    """Hand freed blocks back to the kernel, so that resident memory shows what is in use; True where that worked."""
    if not sys.platform.startswith("linux"):
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and bool(trim(0))


def limit_threads(cores: int) -> None:
    """Compute on no more threads than there are cores to use.

    torch counts the processors it may be scheduled on; a control group's quota is not among what it asks, and threads
    beyond the quota spend their time waiting for each other.
    """
    import torch

    if torch.get_num_threads() > cores:
        torch.set_num_threads(cores)

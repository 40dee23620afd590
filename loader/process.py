"""What is told to the process as a whole: its allocator (only glibc listens), its threads, and how much it may have."""

import ctypes
import sys
from pathlib import Path


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


def data_bytes() -> int:
    """What counts towards ``limit_data`` now: private writable memory, touched or not; 0 elsewhere than on Linux."""
    if not sys.platform.startswith("linux"):
        return 0
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmData:", 1)[1].split(None, 1)[0]) * 1024


def limit_data(limit: int) -> None:
    """Let the kernel refuse this process more than ``limit`` bytes of data, as ``data_bytes`` counts them.

    A file that is mapped privately and writable, as torch maps them, counts while it is mapped.

    Raises:
        OSError: the kernel does not allow it.
    """
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def limit_device(device: str, limit: int) -> None:
    """Let torch's allocator for an accelerator give this process at most ``limit`` bytes of it.

    Raises:
        AttributeError: torch cannot do that for this kind of device.
    """
    import torch

    kind, _, index = device.partition(":")
    module, number = getattr(torch, kind), int(index or 0)
    whole = module.get_device_properties(number).total_memory
    module.set_per_process_memory_fraction(min(1.0, limit / whole), number)

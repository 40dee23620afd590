"""The C library's allocator, told what networks do: ask for the same large blocks again and again.

glibc hands large blocks back to the kernel and has every page of them faulted in again at the next call. Told to keep
them it does not; that is set in the process itself and is safe. Another allocator has to be there before the process
starts: a launcher starts it anew with one preloaded, after a trial in a process of its own.
"""

import ctypes
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from loader.errors import InputError

_log = logging.getLogger(__name__)
VARIABLE = "ANYHOST_ALLOCATOR"  # "plain" leaves glibc alone; the launcher sets it to what it has preloaded
MIB = 2**20
# Options of mallopt(3), as glibc's malloc.h numbers them.
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
LARGEST_MMAP_THRESHOLD = 32 * MIB  # glibc refuses more
OWN = ("MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
# By name: the file, and the Debian package it is in.
LIBRARIES: Mapping[str, tuple[str, str]] = {
    "jemalloc": ("libjemalloc.so.2", "libjemalloc2"),
    "tcmalloc": ("libtcmalloc_minimal.so.4", "libtcmalloc-minimal4, from Debian 13 on libtcmalloc-minimal4t64"),
}
FOLDERS = ("/usr/lib/*-linux-gnu", "/lib/*-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib", "/opt/lib")
TRIAL_S = 180.0
TRIAL = """
import sys, threading
import torch, onnxruntime
assert any(sys.argv[1] in line for line in open("/proc/self/maps")), "the library was not loaded"
def compute():
    x = torch.linspace(-1, 1, 64 * 48 * 48).reshape(1, 64, 48, 48)
    w = torch.linspace(-0.1, 0.1, 64 * 64 * 9).reshape(64, 64, 3, 3)
    for dtype in (torch.float32, torch.bfloat16):
        for _ in range(8):
            y = torch.nn.functional.conv2d(x.to(dtype), w.to(dtype), padding=1)
            assert torch.isfinite(y @ y.transpose(2, 3)).all()
threads = [threading.Thread(target=compute) for _ in range(3)]
[t.start() for t in threads]
[t.join() for t in threads]
compute()
print("works")
"""


@dataclass(frozen=True)
class Thresholds:
    """What glibc is told.

    Attributes:
        mmap: blocks up to so many bytes come from the heap, which keeps them, not from the kernel.
        trim: free bytes kept at the heap's end.
        arenas: heaps beside each other; with one, what a thread gives back the next thread's run finds.
    """

    mmap: int
    trim: int
    arenas: int = 1

    def options(self) -> tuple[tuple[int, int], ...]:
        return ((MMAP_THRESHOLD, self.mmap), (TRIM_THRESHOLD, self.trim), (ARENA_MAX, self.arenas))


def thresholds_for(ram_bytes: int) -> Thresholds:
    """Thresholds for a process that may use ``ram_bytes``: never more than a sixteenth of it is kept unused."""
    return Thresholds(LARGEST_MMAP_THRESHOLD, max(64 * MIB, min(512 * MIB, ram_bytes // 16)))


def variables_for(ram_bytes: int) -> dict[str, str]:
    """The same for a process yet to be started, as glibc reads it from the environment.

    One that has begun threads already, as Ray's workers have, cannot be told of heaps any more: each thread keeps its
    own, and large blocks are faulted in again at every call (a fifth of the time of DAMO-YOLO at 1280×1280).
    """
    names = {MMAP_THRESHOLD: "MALLOC_MMAP_THRESHOLD_", TRIM_THRESHOLD: "MALLOC_TRIM_THRESHOLD_", ARENA_MAX: OWN[0]}
    return {names[option]: str(value) for option, value in thresholds_for(ram_bytes).options()}


def settle(ram_bytes: int, *, accelerated: bool, environ: Mapping[str, str] = os.environ) -> str:
    """Set the thresholds where the CPU computes and nobody decided otherwise; what came of it, in contract words.

    Args:
        ram_bytes: what the process may use.
        accelerated: computing happens on a card, whose memory is not the C library's.
        environ: environment variables.

    Returns:
        "thresholds" set; "preloaded" another allocator; "own" settings of the user's; "plain" on request;
        "accelerator"; "not glibc" (musl, macOS, Windows: nothing to set); "refused" by glibc.
    """
    if environ.get(VARIABLE, "").strip() == "plain":
        return "plain"
    if environ.get("LD_PRELOAD", "").strip():
        return "preloaded"
    if any(environ.get(name) for name in OWN):
        return "own"
    if accelerated:
        return "accelerator"
    return _tell_glibc(thresholds_for(ram_bytes))


@cache
def _tell_glibc(thresholds: Thresholds) -> str:
    """Once a process: the log says it once."""
    library = _glibc()
    if library is None:
        _log.info("the C library is not glibc: its allocator is left as it is")
        return "not glibc"
    return "thresholds" if tell(library, thresholds) else "refused"


def _glibc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt") else None


def tell(library: Any, thresholds: Thresholds) -> bool:
    """Set every threshold through ``library.mallopt``; False when one was refused, the others stand."""
    taken = [library.mallopt(option, value) == 1 for option, value in thresholds.options()]
    return all(taken)


# --- another allocator ------------------------------------------------------------------------------------------


def find_library(wanted: str, folders: Sequence[str] = FOLDERS) -> Path:
    """The file of an allocator, by name ("jemalloc", "tcmalloc") or by its path.

    Raises:
        InputError: it is not there; the message says which package has it.
    """
    if "/" in wanted:
        path = Path(wanted).expanduser().resolve()
        if not path.is_file():
            raise InputError(f"--allocator {wanted}: there is no such file")
        return path
    if wanted not in LIBRARIES:
        raise InputError(f"--allocator {wanted}: choose {', '.join(LIBRARIES)}, or the path of a library")
    file, package = LIBRARIES[wanted]
    for pattern in folders:
        for folder in sorted(Path("/").glob(pattern.lstrip("/"))):
            if (folder / file).is_file():
                return (folder / file).resolve()
    raise InputError(f"--allocator {wanted}: {file} is not on this machine: apt-get install {package}")


def preloading(library: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` with ``library`` before whatever is preloaded already."""
    others = [one for one in environ.get("LD_PRELOAD", "").split(":") if one and one != str(library)]
    return {**environ, "LD_PRELOAD": ":".join([str(library), *others]), VARIABLE: str(library)}


def check(library: Path, environ: Mapping[str, str] = os.environ, *, seconds: float = TRIAL_S) -> None:
    """Let a process of its own load ``library`` and compute with torch.

    Raises:
        InputError: it did not work; the message has its last words.
    """
    command = [sys.executable, "-c", TRIAL, str(library)]
    try:
        done = subprocess.run(
            command, env=preloading(library, environ), capture_output=True, text=True, check=False, timeout=seconds
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{library.name} was tried and did not answer within {seconds:.0f} s: leave it out") from error
    if done.returncode != 0 or "works" not in done.stdout:
        words = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
        raise InputError(f"{library.name} was tried and PyTorch does not work with it here ({words}): leave it out")


def relaunch(
    wanted: str,
    environ: Mapping[str, str] = os.environ,
    *,
    execute: Callable[[str, list[str], dict[str, str]], object] = os.execve,
) -> None:
    """Start this very command anew with an allocator preloaded; returns at once in the process that has it.

    Raises:
        InputError: not on Linux, not there, or it does not work.
    """
    if not sys.platform.startswith("linux"):
        raise InputError("--allocator works on Linux, where libraries can be preloaded")
    library = find_library(wanted)
    if environ.get(VARIABLE) == str(library):
        return
    check(library, environ)
    execute(sys.executable, [sys.executable, *sys.orig_argv[1:]], preloading(library, environ))
